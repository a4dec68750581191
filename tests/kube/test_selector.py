from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import selector
from kube.models import core_v1, meta_v1
from kube.selector import SelectorError

WEB = {"app": "web", "tier": "front", "size": "5", "empty": ""}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("  ", True),
        ("app=web", True),
        ("app==web", True),
        (" app = web ", True),
        ("app=api", False),
        ("app!=web", False),
        ("app!=api", True),
        ("none!=api", True),
        ("app=web,tier=front", True),
        ("app=web,tier=back", False),
        ("app in (web,api)", True),
        ("app in (api)", False),
        ("app in(web)", True),
        ("app notin (api, db)", True),
        ("app notin (web)", False),
        ("none notin (web)", True),
        ("none in (web)", False),
        ("app", True),
        ("none", False),
        ("!app", False),
        ("!none", True),
        ("! none", True),
        ("size>4", True),
        ("size>5", False),
        ("size < 6", True),
        ("size<5", False),
        ("app>1", False),
        ("none<1", False),
        ("size>-1", True),
        ("empty=", True),
        ("empty=,app", True),
        ("empty!=", False),
        ("none=", False),
        ("empty in ()", True),
        ("app in (,web)", True),
        ("tier in (front),size>1,!none,app!=api", True),
        ("in,notin", False),
        ("in in (in)", False),
        ("example.com/a!=b", True),
    ],
)
def test_label_selectors(text: str, selected: bool) -> None:
    parsed = selector.parse(text)
    assert parsed.matches(WEB) is selected
    again = selector.parse(str(parsed))
    assert again == parsed
    assert again.query() == parsed.query()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (",", "','"),
        ("app,", "the end"),
        ("app=web,,tier", "','"),
        ("app web", "'web'"),
        ("app in web", "'web'"),
        ("app in (web", "the end"),
        ("app in (web api)", "'api'"),
        ("app=(web)", "'('"),
        ("=web", "'='"),
        ("!", "the end"),
        ("!app=web", "'='"),
        ("app=web)", "')'"),
        ("-app", "-app"),
        ("app=-", "'-'"),
        ("app in (a/b)", "a/b"),
        ("size>web", "web"),
        ("size>", "''"),
        ("a/b/c", "a/b/c"),
        ("app==" + "x" * 64, "xxx"),
    ],
)
def test_malformed_label_selectors(text: str, found: str) -> None:
    with pytest.raises(SelectorError) as caught:
        selector.parse(text)
    assert found in caught.value.found
    assert caught.value.wanted


OBJECTS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"matchLabels": {}}, True),
    ({"matchLabels": None, "matchExpressions": None}, True),
    ({"matchLabels": {"app": "web"}}, True),
    ({"matchLabels": {"app": "web", "tier": "back"}}, False),
    ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "api"]}]}, True),
    ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
    ({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["web"]}]}, True),
    ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
    ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist", "values": []}]}, False),
    ({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "none", "operator": "Exists"}]}, False),
]


@pytest.mark.parametrize(("data", "selected"), OBJECTS)
def test_label_selector_objects(data: dict[str, Any], selected: bool) -> None:
    assert selector.from_label_selector(data).matches(WEB) is selected


@pytest.mark.parametrize(("data", "selected"), OBJECTS)
def test_typed_label_selectors_mean_the_same(data: dict[str, Any], selected: bool) -> None:
    typed = meta_v1.LabelSelector(
        matchLabels=data.get("matchLabels") or {},
        matchExpressions=[meta_v1.LabelSelectorRequirement(**e) for e in data.get("matchExpressions") or []],
    )
    assert selector.from_label_selector(typed) == selector.from_label_selector(data)


def test_no_selector_selects_nothing_and_an_empty_one_everything() -> None:
    nothing = selector.from_label_selector(None)
    assert not nothing.matches({})
    assert not nothing.matches(WEB)
    assert not nothing.everything
    assert str(nothing) == "<nothing>"
    with pytest.raises(SelectorError):
        nothing.query()
    everything = selector.from_label_selector({})
    assert everything.everything
    assert everything.matches(None)
    assert selector.from_map({"app": "web"}).matches(WEB)
    assert not selector.from_map({"app": "web"}).matches(None)
    assert selector.from_map(None).everything


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"matchLabels": {"-": "web"}}, "not a label key"),
        ({"matchLabels": {"app": "-"}}, "not a label value"),
        ({"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]}, "not an operator"),
        ({"matchExpressions": [{"key": "app", "operator": "in", "values": ["1"]}]}, "not an operator"),
        ({"matchExpressions": [{"key": "app"}]}, "not an operator"),
        ({"matchExpressions": [{"operator": "Exists"}]}, "not a label key"),
        ({"matchExpressions": [{"key": "app", "operator": "In"}]}, "no values for In"),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": []}]}, "no values for NotIn"),
        ({"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["a"]}]}, "values for Exists"),
    ],
)
def test_malformed_label_selector_objects(data: dict[str, Any], what: str) -> None:
    with pytest.raises(SelectorError) as caught:
        selector.from_label_selector(data)
    assert caught.value.what == what


keys = st.from_regex(r"[a-z]([a-z.]{0,4}[a-z])?", fullmatch=True)
values = st.from_regex(r"([a-z0-9]([a-z0-9._-]{0,4}[a-z0-9])?)?", fullmatch=True)
expressions = st.one_of(
    st.builds(
        lambda k, o, v: {"key": k, "operator": o, "values": v},
        keys,
        st.sampled_from(["In", "NotIn"]),
        st.lists(values, min_size=1, max_size=3),
    ),
    st.builds(lambda k, o: {"key": k, "operator": o}, keys, st.sampled_from(["Exists", "DoesNotExist"])),
)
selectors = st.fixed_dictionaries(
    {"matchLabels": st.dictionaries(keys, values, max_size=2), "matchExpressions": st.lists(expressions, max_size=3)}
)


@given(selectors, st.dictionaries(keys, values, max_size=4))
def test_text_and_object_select_the_same(data: dict[str, Any], labels: dict[str, str]) -> None:
    from_object = selector.from_label_selector(data)
    assert selector.parse(from_object.query()).matches(labels) == from_object.matches(labels)


@given(st.text(alphabet="ab=!,() <>in", max_size=15))
def test_any_text_is_a_selector_or_a_selector_error(text: str) -> None:
    with contextlib.suppress(SelectorError):
        parsed = selector.parse(text)
        assert selector.parse(parsed.query()) == parsed
    with contextlib.suppress(SelectorError):
        fields = selector.parse_fields(text)
        assert selector.parse_fields(str(fields)) == fields


FIELDS = {"metadata.name": "web", "spec.nodeName": "", "status.phase": "a=b,c\\d"}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        (",", True),
        ("metadata.name=web", True),
        ("metadata.name==web", True),
        ("metadata.name=api", False),
        ("metadata.name!=api", True),
        ("metadata.name!=web", False),
        ("spec.nodeName=", True),
        ("spec.nodeName!=", False),
        ("spec.other=", True),
        ("metadata.name=web,spec.nodeName=n1", False),
        ("metadata.name=web,spec.nodeName!=n1", True),
        (r"status.phase=a\=b\,c\\d", True),
    ],
)
def test_field_selectors(text: str, selected: bool) -> None:
    parsed = selector.parse_fields(text)
    assert parsed.matches(FIELDS) is selected
    assert selector.parse_fields(str(parsed)) == parsed


def test_a_field_selector_tells_the_exact_value() -> None:
    parsed = selector.parse_fields("metadata.name=web,spec.nodeName!=n1")
    assert parsed.exact("metadata.name") == "web"
    assert parsed.exact("spec.nodeName") is None


@pytest.mark.parametrize("text", ["metadata.name", "a in (b)", "a=b=c", r"a=b\x", "a=b\\", "a!b"])
def test_malformed_field_selectors(text: str) -> None:
    with pytest.raises(SelectorError):
        selector.parse_fields(text)


def test_an_unsupported_field_is_named() -> None:
    with pytest.raises(SelectorError) as caught:
        selector.parse_fields("spec.color=red", {"metadata.name", "metadata.namespace"})
    assert caught.value.what == "field label not supported: spec.color"
    assert caught.value.wanted == "one of metadata.name, metadata.namespace"


def term(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("terms", "selected"),
    [
        ([], False),
        ([{}], False),
        ([{"matchExpressions": [term("zone", "In", "a", "b")]}], True),
        ([{"matchExpressions": [term("zone", "NotIn", "a")]}], False),
        ([{"matchExpressions": [term("zone", "Exists"), term("cpus", "Gt", "4")]}], True),
        ([{"matchExpressions": [term("zone", "Exists"), term("cpus", "Lt", "4")]}], False),
        ([{"matchExpressions": [term("gpu", "DoesNotExist")]}], True),
        ([{"matchFields": [term("metadata.name", "In", "n1")]}], True),
        ([{"matchFields": [term("metadata.name", "NotIn", "n1")]}], False),
        ([{"matchExpressions": [term("zone", "Exists")], "matchFields": [term("metadata.name", "In", "n2")]}], False),
        ([{"matchFields": [term("metadata.name", "In", "n2")]}, {"matchExpressions": [term("zone", "Exists")]}], True),
    ],
)
def test_node_selectors(terms: list[dict[str, Any]], selected: bool) -> None:
    node: Mapping[str, str] = {"zone": "a", "cpus": "8"}
    assert selector.from_node_selector({"nodeSelectorTerms": terms}).matches(node, "n1") is selected
    typed = core_v1.NodeSelector(
        nodeSelectorTerms=[
            core_v1.NodeSelectorTerm(
                matchExpressions=[core_v1.NodeSelectorRequirement(**e) for e in t.get("matchExpressions", [])],
                matchFields=[core_v1.NodeSelectorRequirement(**e) for e in t.get("matchFields", [])],
            )
            for t in terms
        ]
    )
    assert selector.from_node_selector(typed).matches(node, "n1") is selected


@pytest.mark.parametrize(
    "bad",
    [
        {"matchExpressions": [term("cpus", "Gt", "many")]},
        {"matchExpressions": [term("cpus", "Gt", "1", "2")]},
        {"matchExpressions": [term("cpus", "Near", "1")]},
        {"matchFields": [term("metadata.uid", "In", "x")]},
        {"matchFields": [term("metadata.name", "Exists")]},
        {"matchFields": [term("metadata.name", "In", "a", "b")]},
    ],
)
def test_malformed_node_selectors(bad: dict[str, Any]) -> None:
    with pytest.raises(SelectorError):
        selector.from_node_selector_term(bad)
