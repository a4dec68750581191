"""Who may give a node which label, and how labels follow what is wanted."""

from __future__ import annotations

from typing import Any

import pytest

from kube.node_labels import is_restricted, reconciled

MEMORY = "ktool.io/labels-of-agent"


@pytest.mark.parametrize(
    ("label", "restricted"),
    [
        ("disk", False),
        ("example.com/disk", False),
        ("kubernetes.io/hostname", False),
        ("topology.kubernetes.io/zone", False),
        ("node.kubernetes.io/anything", False),
        ("sub.kubelet.kubernetes.io/anything", False),
        ("node-role.kubernetes.io/control-plane", True),
        ("node-restriction.kubernetes.io/secrets", True),
        ("kubernetes.io/role", True),
        ("x.k8s.io/y", True),
        ("notkubernetes.io/x", False),
    ],
)
def test_what_a_node_may_not_choose(label: str, restricted: bool) -> None:
    assert is_restricted(label) is restricted


@pytest.mark.parametrize(
    ("labels", "remembered", "wanted", "patch"),
    [
        pytest.param({"os": "linux"}, "", {}, None, id="nothing wanted"),
        pytest.param(
            {"os": "linux"},
            "",
            {"disk": "ssd"},
            {"labels": {"disk": "ssd"}, "annotations": {MEMORY: "disk"}},
            id="a first label",
        ),
        pytest.param({"os": "linux", "disk": "ssd"}, "disk", {"disk": "ssd"}, None, id="as it was"),
        pytest.param(
            {"os": "linux", "disk": "ssd"}, "disk", {"disk": "hdd"}, {"labels": {"disk": "hdd"}}, id="changed"
        ),
        pytest.param(
            {"os": "linux", "disk": "ssd", "mine": "1"},
            "disk,rack",
            {"zone": "a"},
            {"labels": {"zone": "a", "disk": None}, "annotations": {MEMORY: "zone"}},
            id="others' stay, ours go",
        ),
        pytest.param(
            {"os": "linux", "disk": "ssd"},
            "disk",
            {},
            {"labels": {"disk": None}, "annotations": {MEMORY: None}},
            id="no label any more",
        ),
        pytest.param({"os": "linux"}, "os", {}, {"annotations": {MEMORY: None}}, id="what is always wanted stays"),
        pytest.param({}, "", {}, {"labels": {"os": "linux"}}, id="and is set"),
    ],
)
def test_reconciled(
    labels: dict[str, str], remembered: str, wanted: dict[str, str], patch: dict[str, Any] | None
) -> None:
    annotations = {MEMORY: remembered} if remembered else {}
    found = reconciled(labels, annotations, wanted, annotation=MEMORY, keep={"os": "linux"})
    assert found == ({"metadata": patch} if patch else None)
