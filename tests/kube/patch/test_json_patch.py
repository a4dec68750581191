from __future__ import annotations

import copy
from typing import Any

import pytest

from kube.patch import json_patch
from kube.patch.errors import MalformedPatchError, PatchFailedError

POD = {"metadata": {"labels": {"app": "web", "a/b": "x"}}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}}


def op(op: str, path: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "path": path} | {key.rstrip("_"): value for key, value in more.items()}


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([], POD),
        (
            [op("replace", "/metadata/labels/app", value="api")],
            POD | {"metadata": {"labels": {"app": "api", "a/b": "x"}}},
        ),
        ([op("remove", "/metadata/labels/a~1b")], POD | {"metadata": {"labels": {"app": "web"}}}),
        ([op("add", "/spec/containers/-", value={"name": "c"}), op("remove", "/spec/containers/0")],
         POD | {"spec": {"containers": [{"name": "b"}, {"name": "c"}]}}),
        ([op("add", "/spec/containers/0", value={"name": "0"})],
         POD | {"spec": {"containers": [{"name": "0"}, {"name": "a"}, {"name": "b"}]}}),
        ([op("move", "/status", from_="/spec"), op("test", "/status/containers/0/name", value="a")],
         {"metadata": POD["metadata"], "status": POD["spec"]}),
        ([op("copy", "/copy", from_="/metadata/labels"), op("replace", "/copy/app", value="api")],
         POD | {"copy": {"app": "api", "a/b": "x"}}),
        ([op("replace", "", value={"a": 1})], {"a": 1}),
    ],
)  # fmt: skip
def test_apply(operations: list[dict[str, Any]], expected: Any) -> None:
    before = copy.deepcopy((POD, operations))
    result = json_patch.apply(POD, operations)
    assert result == expected
    assert (POD, operations) == before
    assert result is not POD


def test_the_result_shares_nothing_with_the_inputs() -> None:
    operations = [op("add", "/new", value={"inner": {}}), op("add", "/new/inner/x", value=1)]
    result = json_patch.apply(POD, operations)
    result["metadata"]["labels"]["app"] = "changed"
    assert POD["metadata"]["labels"]["app"] == "web"  # type: ignore[index]
    assert operations[0]["value"] == {"inner": {}}


@pytest.mark.parametrize(
    "patch",
    [
        {},
        None,
        "[]",
        [7],
        [{"path": "/a"}],
        [op("merge", "/a", value=1)],
        [{"op": ["add"], "path": "/a", "value": 1}],
        [{"op": "add", "value": 1}],
        [op("add", "/a")],
        [op("move", "/a")],
        [op("add", "a", value=1)],
        [{"op": "remove", "path": 7}],
        [op("test", "/a", value=1)] * 10_001,
    ],
)
def test_a_malformed_patch(patch: Any) -> None:
    with pytest.raises(MalformedPatchError) as caught:
        json_patch.apply(POD, patch)
    assert caught.value.wanted


@pytest.mark.parametrize(
    "failing",
    [
        op("remove", "/none"),
        op("replace", "/metadata/labels/none", value=1),
        op("add", "/none/deeper", value=1),
        op("add", "/spec/containers/7", value=1),
        op("add", "/spec/containers/x", value=1),
        op("add", "/metadata/labels/app/0", value="w"),
        op("replace", "/metadata/labels/app/0", value="w"),
        op("remove", "/metadata/labels/app/0"),
        op("test", "/metadata/labels/app", value="api"),
        op("test", "/none", value=1),
        op("copy", "/a", from_="/none"),
        op("move", "/a", from_="/none"),
        op("move", "/spec/containers", from_="/spec"),
        op("remove", ""),
    ],
)
def test_a_patch_that_does_not_fit_names_its_operation(failing: dict[str, Any]) -> None:
    with pytest.raises(PatchFailedError, match="operation 1 of the JSON patch"):
        json_patch.apply(POD, [op("test", "/metadata/labels/app", value="web"), failing])


def test_copying_is_bounded() -> None:
    doubling = [op("copy", f"/a/{n}", from_="/a") for n in range(60)]
    with pytest.raises(PatchFailedError, match="copies too much"):
        json_patch.apply({"a": {"x": "y" * 1000}}, doubling)


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "add", "path": "/nope/x", "value": 1},
        {"op": "remove", "path": "/nope"},
        {"op": "replace", "path": "/nope/x", "value": 1},
        {"op": "move", "from": "/nope", "path": "/x"},
        {"op": "copy", "from": "/data/nope/x", "path": "/x"},
        {"op": "test", "path": "/data/password", "value": "guess"},
        {"op": "add", "path": "/data/password/x", "value": 1},
    ],
    ids=lambda operation: f"{operation['op']} {operation['path']}",
)
def test_what_cannot_be_done_does_not_tell_what_is_there(operation: dict[str, Any]) -> None:
    with pytest.raises(PatchFailedError) as failed:
        json_patch.apply({"data": {"password": "secret"}}, [operation])
    assert "secret" not in str(failed.value)
