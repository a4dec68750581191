"""Which pods a drain evicts, leaves or would lose; and the drain itself over the API."""

from __future__ import annotations

import pytest

from kube.models import core_v1
from kube.models.meta_v1 import ObjectMeta, OwnerReference
from provision.lab.drain import full_name, plan


def pod(
    name: str, *, owner: str = "", phase: str = "Running", annotations: dict[str, str] | None = None
) -> core_v1.Pod:
    owners = [OwnerReference(apiVersion="apps/v1", kind=owner, name="o", uid="u", controller=True)] if owner else None
    return core_v1.Pod(
        metadata=ObjectMeta(name=name, namespace="default", uid=name, ownerReferences=owners, annotations=annotations),
        status=core_v1.PodStatus(phase=phase),
    )


@pytest.mark.parametrize(
    ("one", "sorted_as"),
    [
        (pod("a", owner="ReplicaSet"), "evict"),
        (pod("a", owner="DaemonSet"), "stay"),
        (pod("a", annotations={"kubernetes.io/config.mirror": "x"}), "stay"),
        (pod("a"), "lost"),
        (pod("a", phase="Succeeded"), "evict"),
        (pod("a", phase="Failed", owner="Job"), "evict"),
    ],
)
def test_plan(one: core_v1.Pod, sorted_as: str) -> None:
    found = plan([one])
    names = {
        "evict": [full_name(p) for p in found.evict],
        "stay": [full_name(p) for p, _ in found.stay],
        "lost": [full_name(p) for p in found.lost],
    }
    assert names == {"evict": [], "stay": [], "lost": []} | {sorted_as: ["default/a"]}
