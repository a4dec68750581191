from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from kube import schema
from kube.patch import last_applied, merge, strategic

DEPLOYMENT = schema.load().kind("apps", "v1", "Deployment")


def manifest(image: str = "web:1", **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "labels": labels},
        "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "web", "image": image}]}}},
    }


def stored(sent: dict[str, Any]) -> dict[str, Any]:
    """What a server makes of an object: defaults, status, a revision."""
    result = copy.deepcopy(sent)
    result["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    result["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
    result["spec"]["strategy"] = {"type": "RollingUpdate"}
    result["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always"
    result["status"] = {"replicas": 3}
    return result


def test_the_annotation_holds_the_manifest() -> None:
    before = manifest()
    sent = last_applied.annotated(before)
    assert before == manifest()
    text = sent["metadata"]["annotations"][last_applied.ANNOTATION]
    assert text.endswith("}\n")
    assert json.loads(text)["spec"] == before["spec"]
    assert last_applied.ANNOTATION not in json.loads(text)["metadata"]["annotations"]
    assert last_applied.annotated(sent) == sent
    assert last_applied.original(sent) == json.loads(text)


@pytest.mark.parametrize("node", [DEPLOYMENT, None], ids=["strategic", "merge"])
def test_the_second_apply_has_nothing_to_do(node: Any) -> None:
    def server(current: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
        return strategic.apply(current, patch, node) if node else merge.apply(current, patch)

    def wanted(*args: Any, **labels: str) -> dict[str, Any]:
        made = manifest(*args, **labels)
        if node is None:  # without a schema lists are replaced, defaults in them too
            made["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always"
        return made

    current = stored(last_applied.annotated(wanted(app="web", tier="front")))
    assert last_applied.plan(wanted(app="web", tier="front"), current, node) == {}
    patch = last_applied.plan(wanted("web:2", app="web"), current, node)
    assert patch["metadata"]["labels"] == {"tier": None}
    assert "strategy" not in patch["spec"]
    current = server(current, patch)
    assert current["metadata"]["labels"] == {"app": "web"}
    assert current["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    assert current["spec"]["template"]["spec"]["containers"] == [
        {"name": "web", "image": "web:2", "imagePullPolicy": "Always"}
    ]
    assert last_applied.plan(wanted("web:2", app="web"), current, node) == {}


def test_the_annotation_of_another_tool_is_understood() -> None:
    current = stored(last_applied.annotated(manifest()))
    text = json.dumps(last_applied.original(current), indent=1)
    current["metadata"]["annotations"][last_applied.ANNOTATION] = text
    assert last_applied.plan(manifest(), current, DEPLOYMENT) == {}


def test_an_object_that_was_never_applied_gets_the_annotation_only() -> None:
    current = stored(last_applied.annotated(manifest()))
    del current["metadata"]["annotations"][last_applied.ANNOTATION]
    patch = last_applied.plan(manifest(), current, DEPLOYMENT)
    assert list(patch) == ["metadata"]
    assert list(patch["metadata"]) == ["annotations"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", 7])
def test_a_spoiled_annotation_counts_as_none(text: Any) -> None:
    assert last_applied.original({"metadata": {"annotations": {last_applied.ANNOTATION: text}}}) is None
    assert last_applied.original({}) is None


def test_a_field_removed_from_the_manifest_that_others_set_back_is_removed() -> None:
    current = stored(last_applied.annotated(manifest()))
    without = manifest()
    del without["spec"]["replicas"]
    assert last_applied.plan(without, current, DEPLOYMENT)["spec"] == {"replicas": None}
