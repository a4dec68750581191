"""Strategic merge patch over the real schemas of Pod, Deployment, Service and ObjectMeta."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import schema
from kube.patch import strategic
from kube.patch.errors import MalformedPatchError, PatchFailedError
from kube.schema import TypeNode

Json = dict[str, Any]


def node(group: str, version: str, kind: str) -> TypeNode:
    return schema.load().kind(group, version, kind)


POD = node("", "v1", "Pod")
DEPLOYMENT = node("apps", "v1", "Deployment")
SERVICE = node("", "v1", "Service")


def spec(**fields: Any) -> Json:
    return {"spec": fields}


def named(*names: str) -> list[Json]:
    return [{"name": name} for name in names]


def containers(*items: Json, **more: Any) -> Json:
    return {"spec": {"containers": list(items)} | more}


def meta(**fields: Any) -> Json:
    return {"metadata": {key.replace("__", "/"): value for key, value in fields.items()}}


A, B = {"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        # plain fields and maps
        (meta(name="p"), {}, meta(name="p")),
        (meta(labels={"a": "1"}), meta(labels={"b": "2"}), meta(labels={"a": "1", "b": "2"})),
        (meta(labels={"a": "1", "b": "2"}), meta(labels={"a": None}), meta(labels={"b": "2"})),
        (meta(labels={"a": "1"}), meta(labels=None), meta()),
        (meta(), meta(labels={"a": "1", "b": None}), meta(labels={"a": "1"})),
        (meta(labels={"a": "1"}), meta(labels={"$patch": "replace", "b": "2"}), meta(labels={"b": "2"})),
        (meta(labels={"a": "1"}), meta(labels={"$patch": "delete"}), meta(labels={})),
        (meta(labels={"a": "1"}), meta(labels={"$patch": "merge", "b": "2"}), meta(labels={"a": "1", "b": "2"})),
        (meta(labels=None), meta(labels={"b": "2"}), meta(labels={"b": "2"})),
        # lists merged by key
        (containers(A, B), containers({"name": "b", "image": "y:2"}), containers(A, {"name": "b", "image": "y:2"})),
        (containers(A), containers(B), containers(B, A)),
        (containers(A, B), containers({"name": "a", "$patch": "delete"}), containers(B)),
        (containers(A, B), containers({"$patch": "replace"}, B), containers(B)),
        (containers(A, B), containers({"$patch": "replace"}), containers()),
        (containers(A), containers({"name": "a", "image": None}), containers({"name": "a"})),
        (containers(A), containers({"name": "a", "$patch": "replace", "tty": True}), containers()),
        (containers(A), containers({"name": "new", "image": None, "$patch": "merge"}), containers({"name": "new"}, A)),
        (
            containers({"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}),
            containers({"name": "a", "ports": [{"containerPort": 80, "protocol": "UDP"}, {"containerPort": 81}]}),
            containers(
                {
                    "name": "a",
                    "ports": [{"containerPort": 80, "name": "http", "protocol": "UDP"}, {"containerPort": 81}],
                }
            ),
        ),
        (
            containers({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}),
            containers({"name": "a", "env": [{"name": "X", "$patch": "delete"}, {"name": "Z", "value": "3"}]}),
            containers({"name": "a", "env": [{"name": "Z", "value": "3"}, {"name": "Y", "value": "2"}]}),
        ),
        # a list that is new loses its directives
        ({}, containers({"name": "a", "$patch": "delete"}, B), containers(B)),
        ({"spec": {}}, {"spec": {"$setElementOrder/containers": named("b"), "containers": [B]}}, containers(B)),
        # lists without a merge key are replaced
        (
            containers({"name": "a", "args": ["1", "2"]}),
            containers({"name": "a", "args": ["3"]}),
            containers({"name": "a", "args": ["3"]}),
        ),
        (spec(tolerations=[{"key": "a"}]), spec(tolerations=[{"key": "b"}]), spec(tolerations=[{"key": "b"}])),
        # lists of plain values
        (meta(finalizers=["a", "b"]), meta(finalizers=["c", "a"]), meta(finalizers=["c", "a", "b"])),
        (
            meta(finalizers=["a", "b", "c"]),
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b", "x"]}},
            meta(finalizers=["a", "c"]),
        ),
        (
            meta(finalizers=["a", "b"]),
            {
                "metadata": {
                    "$deleteFromPrimitiveList/finalizers": ["a"],
                    "finalizers": ["c"],
                    "$setElementOrder/finalizers": ["c", "b"],
                }
            },
            meta(finalizers=["c", "b"]),
        ),
        (meta(), {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}, meta()),
        # order
        (
            containers(A, B, {"name": "c"}),
            {"spec": {"$setElementOrder/containers": named("c", "a")}},
            containers(B, {"name": "c"}, A),
        ),
        (
            containers(A, B, {"name": "sidecar"}),
            {"spec": {"$setElementOrder/containers": named("b", "new", "a"), "containers": [{"name": "new"}]}},
            containers(B, {"name": "new"}, A, {"name": "sidecar"}),
        ),
        (
            containers({"name": "injected"}, A, B),
            {"spec": {"$setElementOrder/containers": named("a", "b"), "containers": [{"name": "b", "tty": True}]}},
            containers({"name": "injected"}, A, B | {"tty": True}),
        ),
        ({"spec": {}}, {"spec": {"$setElementOrder/containers": named("a")}}, {"spec": {}}),
        # unions
        (
            spec(volumes=[{"name": "v", "emptyDir": {}}, {"name": "w"}]),
            spec(volumes=[{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]),
            spec(volumes=[{"name": "v", "hostPath": {"path": "/x"}}, {"name": "w"}]),
        ),
        # what the schema does not know: objects merge, lists are replaced, types may change
        ({"odd": {"a": 1, "l": [1]}}, {"odd": {"b": 2, "l": [2]}}, {"odd": {"a": 1, "b": 2, "l": [2]}}),
        ({"spec": "text"}, containers(A), containers(A)),
        (containers(A), {"spec": {"containers": "text"}}, {"spec": {"containers": "text"}}),
    ],
)
def test_apply(document: Json, patch: Json, expected: Json) -> None:
    before = copy.deepcopy((document, patch))
    assert strategic.apply(document, patch, POD) == expected
    assert (document, patch) == before


def test_a_replaced_strategy() -> None:
    document = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"type": "Recreate", "$retainKeys": ["type"]}}}
    assert strategic.apply(document, patch, DEPLOYMENT) == {"spec": {"strategy": {"type": "Recreate"}}}


def test_a_field_that_is_replaced_as_a_whole() -> None:
    budget = node("policy", "v1", "PodDisruptionBudget")
    document = {"spec": {"selector": {"matchLabels": {"a": "1"}}}}
    wanted = {"spec": {"selector": {"matchLabels": {"b": "2"}}}}
    assert strategic.apply(document, wanted, budget) == wanted
    assert strategic.three_way(None, wanted, document, budget) == wanted
    assert strategic.three_way(None, wanted, wanted, budget) == {}


def test_without_a_schema_it_is_a_merge_patch() -> None:
    assert strategic.apply(containers(A), containers(B, x=1), None) == containers(B, x=1)


@pytest.mark.parametrize(
    ("patch", "where"),
    [
        ({"$patch": "erase"}, "the whole"),
        (meta(labels={"$patch": 7}), "metadata.labels"),
        (containers({"image": "x"}), "spec.containers[0]"),
        (containers(A, {"$patch": "delete"}), "spec.containers[1]"),
        (containers({"name": ["a"]}), "spec.containers[0]"),
        (containers({"name": "a", "$patch": "erase"}), "spec.containers[0]"),
        ({"spec": {"containers": ["a"]}}, "spec.containers[0]"),
        ({"spec": {"$setElementOrder/containers": "a"}}, "spec.$setElementOrder/containers"),
        ({"spec": {"$setElementOrder/containers": [{"image": "x"}]}}, "spec.$setElementOrder/containers"),
        ({"spec": {"$setElementOrder/containers": named("b"), "containers": [A]}}, "spec.containers"),
        ({"spec": {"$setElementOrder/containers": named("b", "a"), "containers": [A, B]}}, "spec.containers"),
        ({"metadata": {"finalizers": [{"a": 1}]}}, "metadata.finalizers"),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}, "metadata.$deleteFromPrimitiveList/finalizers"),
        ({"metadata": {"$retainKeys": "a"}}, "metadata.$retainKeys"),
        ({"metadata": {"$retainKeys": ["name"], "labels": {}}}, "metadata.$retainKeys"),
    ],
)
def test_directives_that_make_no_sense_name_their_field(patch: Json, where: str) -> None:
    document = containers(A, B) | meta(finalizers=["x"], labels={"a": "1"})
    with pytest.raises(MalformedPatchError) as caught:
        strategic.apply(document, patch, POD)
    assert caught.value.what.endswith(where)
    assert caught.value.wanted


def test_what_cannot_be_patched() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(PatchFailedError, match="deeply"):
        strategic.apply({}, deep, None)
    with pytest.raises(MalformedPatchError):
        strategic.apply({}, [], None)  # type: ignore[arg-type]
    with pytest.raises(MalformedPatchError):
        strategic.three_way({}, [], {}, None)  # type: ignore[arg-type]


DEFAULTED = {"imagePullPolicy": "Always"}


@pytest.mark.parametrize(
    ("kind", "original", "modified", "current", "patch"),
    [
        pytest.param(
            POD, containers(A), containers(A), containers(A | DEFAULTED, restartPolicy="Always"), {}, id="unchanged"
        ),
        pytest.param(
            POD,
            containers(A),
            containers({"name": "a", "image": "x:2"}),
            containers(A | DEFAULTED, B),
            {"spec": {"containers": [{"name": "a", "image": "x:2"}], "$setElementOrder/containers": named("a")}},
            id="one container's image",
        ),
        pytest.param(
            POD,
            containers(A, B),
            containers(A),
            containers(A, B, {"name": "injected"}),
            {
                "spec": {
                    "containers": [{"$patch": "delete", "name": "b"}],
                    "$setElementOrder/containers": named("a"),
                }
            },
            id="a container removed",
        ),
        pytest.param(POD, containers(A, B), containers(A), containers(A), {}, id="removed already"),
        pytest.param(
            POD,
            None,
            containers(B, A),
            containers(A, B),
            {"spec": {"$setElementOrder/containers": named("b", "a")}},
            id="only the order",
        ),
        pytest.param(
            POD,
            containers({"name": "a", "tty": True}),
            containers({"name": "a"}),
            containers({"name": "a", "tty": True} | DEFAULTED),
            {
                "spec": {
                    "containers": [{"name": "a", "tty": None}],
                    "$setElementOrder/containers": named("a"),
                }
            },
            id="a field of an item removed",
        ),
        pytest.param(
            POD,
            meta(labels={"a": "1", "b": "1"}),
            meta(labels={"a": "2"}),
            meta(labels={"a": "1", "b": "1", "c": "1"}),
            meta(labels={"a": "2", "b": None}),
            id="labels",
        ),
        pytest.param(
            POD,
            meta(finalizers=["a", "b"]),
            meta(finalizers=["a", "c"]),
            meta(finalizers=["a", "b", "x"]),
            {
                "metadata": {
                    "finalizers": ["c"],
                    "$deleteFromPrimitiveList/finalizers": ["b"],
                    "$setElementOrder/finalizers": ["a", "c"],
                }
            },
            id="plain values",
        ),
        pytest.param(
            DEPLOYMENT,
            spec(strategy={"type": "RollingUpdate"}),
            spec(strategy={"type": "Recreate"}),
            spec(strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}),
            spec(strategy={"type": "Recreate", "$retainKeys": ["type"]}),
            id="another choice of a union",
        ),
        pytest.param(
            POD,
            spec(volumes=[{"name": "v", "emptyDir": {}}]),
            spec(volumes=[{"name": "v", "hostPath": {"path": "/x"}}]),
            spec(volumes=[{"name": "v", "emptyDir": {}}]),
            spec(
                **{
                    "volumes": [
                        {
                            "name": "v",
                            "emptyDir": None,
                            "hostPath": {"path": "/x"},
                            "$retainKeys": ["hostPath", "name"],
                        }
                    ],
                    "$setElementOrder/volumes": named("v"),
                }
            ),
            id="another kind of volume",
        ),
        pytest.param(
            SERVICE,
            None,
            spec(ports=[{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]),
            spec(ports=[{"port": 53, "protocol": "TCP", "nodePort": 1}, {"port": 53, "protocol": "UDP"}]),
            {},
            id="a repeated key, unchanged",
        ),
        pytest.param(
            SERVICE,
            None,
            spec(ports=[{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "name": "dns"}]),
            spec(ports=[{"port": 53, "protocol": "TCP", "nodePort": 1}, {"port": 53, "protocol": "UDP"}, {"port": 9}]),
            spec(
                ports=[
                    {"$patch": "replace"},
                    {"port": 53, "protocol": "TCP", "nodePort": 1},
                    {"port": 53, "protocol": "UDP", "name": "dns"},
                    {"port": 9},
                ]
            ),
            id="a repeated key, changed",
        ),
        pytest.param(
            POD, containers(), containers(A), {"spec": {}}, containers(A), id="a list that is not there"
        ),
        pytest.param(POD, {}, {"odd": [1]}, {"odd": [1, 2]}, {"odd": [1]}, id="unknown to the schema"),
        pytest.param(POD, {}, meta(labels=None), meta(labels={"a": "1"}), meta(labels=None), id="explicit null"),
        pytest.param(POD, {}, meta(labels=None), meta(), {}, id="explicit null of nothing"),
    ],
)  # fmt: skip
def test_three_way(kind: TypeNode, original: Any, modified: Json, current: Json, patch: Json) -> None:
    before = copy.deepcopy((original, modified, current))
    assert strategic.three_way(original, modified, current, kind) == patch
    result = strategic.apply(current, patch, kind)
    assert strategic.three_way(modified, modified, result, kind) == {}
    assert (original, modified, current) == before


def test_an_item_without_its_merge_key_is_named() -> None:
    with pytest.raises(MalformedPatchError, match=r"spec.containers\[1\]"):
        strategic.three_way(None, containers(A, {"image": "x"}), containers(A), POD)


# --- properties ---------------------------------------------------------------------------------------------------

words = st.sampled_from(["a", "b", "c", "d"])
label_maps = st.dictionaries(words, st.sampled_from(["1", "2"]), max_size=3)


def listed(key: str, keys: st.SearchStrategy[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Json]]:
    item = st.fixed_dictionaries({key: keys}, optional=fields)
    return st.lists(item, max_size=4, unique_by=lambda i: i[key])


volume = st.sampled_from([{"emptyDir": {}}, {"hostPath": {"path": "/x"}}, {"hostPath": {"path": "/y"}}, {}])
volumes = st.lists(
    st.builds(lambda name, source: {"name": name} | source, words, volume), max_size=3, unique_by=lambda i: i["name"]
)
pods = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {}, optional={"labels": label_maps, "finalizers": st.lists(words, max_size=4, unique=True)}
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "nodeName": words,
                "volumes": volumes,
                "tolerations": st.lists(st.fixed_dictionaries({"key": words}), max_size=2),
                "containers": listed(
                    "name",
                    words,
                    image=words,
                    tty=st.booleans(),
                    args=st.lists(words, max_size=2),
                    ports=listed("containerPort", st.integers(1, 4), hostPort=st.integers(1, 2)),
                ),
            },
        ),
    },
)


@given(pods, pods)
def test_the_diff_leads_from_old_to_new(old: Json, new: Json) -> None:
    patch = strategic.diff(old, new, POD)
    assert strategic.apply(old, patch, POD) == new
    assert strategic.diff(new, new, POD) == {}


@given(pods, pods, pods)
def test_an_apply_sets_what_is_wanted_and_is_done_after_once(original: Json, modified: Json, current: Json) -> None:
    inputs = copy.deepcopy((original, modified, current))
    patch = strategic.three_way(original, modified, current, POD)
    result = strategic.apply(current, patch, POD)
    assert holds(result, modified, POD)
    assert strategic.three_way(modified, modified, result, POD) == {}
    assert (original, modified, current) == inputs


@given(pods, pods)
def test_an_apply_keeps_what_others_added(modified: Json, current: Json) -> None:
    """Whoever has never applied before deletes nothing: only fields and items that they name may change."""
    result = strategic.apply(current, strategic.three_way(None, modified, current, POD), POD)
    for names in (lambda p: p.get("metadata", {}).get("labels", {}), by_name("containers"), by_name("volumes")):
        before, wanted, after = names(current), names(modified), names(result)
        assert {k: v for k, v in after.items() if k not in wanted} == {
            k: v for k, v in before.items() if k not in wanted
        }
    kept = [c["name"] for c in current.get("spec", {}).get("containers", [])]
    others = [name for name in kept if name not in by_name("containers")(modified)]
    assert [name for name in by_name("containers")(result) if name in others] == others


def by_name(field: str) -> Any:
    return lambda pod: {item["name"]: item for item in pod.get("spec", {}).get(field, [])}


@given(pods, pods)
def test_the_result_shares_nothing_with_the_inputs(document: Json, patch: Json) -> None:
    inputs = copy.deepcopy((document, patch))
    scribble(strategic.apply(document, patch, POD))
    scribble(strategic.three_way(None, patch, document, POD))
    assert (document, patch) == inputs


def scribble(value: Any) -> None:
    if isinstance(value, dict):
        for inner in value.values():
            scribble(inner)
        value["scribble"] = True
    elif isinstance(value, list):
        for inner in value:
            scribble(inner)
        value.append("scribble")


def holds(whole: Any, part: Any, type_: TypeNode | None) -> bool:
    """Whether everything that `part` names is in `whole`, items of merged lists by their key and in order."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and held(whole[name], value, type_, name) for name, value in part.items())
    return bool(whole == part)


def held(whole: Any, part: Any, type_: TypeNode | None, name: str) -> bool:
    field = type_.fields.get(name) if type_ else None
    if field is None or "merge" not in field.patch_strategies:
        return holds(whole, part, field.type if field else None)
    if not field.patch_merge_key:
        return bool([item for item in whole if item in part] == part)
    key = field.patch_merge_key
    found = {item[key]: item for item in whole}
    wanted = [item[key] for item in part]
    return [k for k in found if k in wanted] == wanted and all(
        holds(found[item[key]], item, field.type.items) for item in part
    )
