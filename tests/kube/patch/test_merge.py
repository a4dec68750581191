from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.patch import merge
from kube.patch.errors import MalformedPatchError, PatchFailedError


# The examples of RFC 7386, appendix A.
@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_rfc_7386(document: Any, patch: Any, expected: Any) -> None:
    before = copy.deepcopy((document, patch))
    assert merge.apply(document, patch) == expected
    assert (document, patch) == before


keys = st.sampled_from("abcd")
scalars = st.integers(0, 3) | st.booleans() | st.sampled_from(["x", "y"])
# Objects without nulls: a merge patch cannot tell null from absent.
objects = st.recursive(
    st.dictionaries(keys, scalars | st.lists(scalars, max_size=2), max_size=3),
    lambda inner: st.dictionaries(keys, scalars | inner, max_size=3),
    max_leaves=8,
)


@given(objects, objects)
def test_the_diff_leads_from_old_to_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merge.apply(old, merge.diff(old, new)) == new
    assert merge.diff(new, new) == {}


@given(objects, objects, objects)
def test_an_apply_sets_what_is_wanted_and_keeps_what_others_did(
    original: dict[str, Any], modified: dict[str, Any], current: dict[str, Any]
) -> None:
    inputs = copy.deepcopy((original, modified, current))
    patch = merge.three_way(original, modified, current)
    result = merge.apply(current, patch)
    assert (original, modified, current) == inputs
    assert contains(result, modified)
    for key, value in current.items():
        if key not in modified:
            assert (key not in result) if key in original else result[key] == value
    assert merge.three_way(modified, modified, result) == {}


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    return bool(whole == part)


@given(objects, objects)
def test_the_result_shares_nothing_with_the_inputs(document: dict[str, Any], patch: dict[str, Any]) -> None:
    inputs = copy.deepcopy((document, patch))
    scribble(merge.apply(document, patch))
    scribble(merge.diff(document, patch))
    scribble(merge.three_way(document, patch, document))
    assert (document, patch) == inputs


def scribble(value: Any) -> None:
    if isinstance(value, dict):
        for inner in value.values():
            scribble(inner)
        value["scribble"] = True
    elif isinstance(value, list):
        value.append("scribble")


@pytest.mark.parametrize(
    ("original", "modified", "current", "patch"),
    [
        (None, {"a": 1}, {"a": 1, "b": 2}, {}),
        (None, {"a": 1}, {"a": True}, {"a": 1}),
        ({"a": 1}, {}, {"a": 1, "b": 2}, {"a": None}),
        ({"a": 1}, {}, {"b": 2}, {}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, {"a": {"x": 5, "y": 2, "z": 3}}, {"a": {"x": 1, "y": None}}),
        ({}, {"a": [1]}, {"a": [1, 2]}, {"a": [1]}),
        ({}, {"a": {"x": 1}}, {"a": 7}, {"a": {"x": 1}}),
        ({}, {"a": None}, {"a": 7}, {"a": None}),
        ({}, {"a": None}, {}, {}),
    ],
)
def test_three_way(original: Any, modified: Any, current: Any, patch: Any) -> None:
    assert merge.three_way(original, modified, current) == patch


def test_what_cannot_be_patched() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(PatchFailedError, match="deeply"):
        merge.apply({}, deep)
    with pytest.raises(MalformedPatchError):
        merge.three_way({}, [], {})
