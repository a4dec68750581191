"""In which order machines are upgraded, and when a master may be stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kube.errors import KtoolError
from kube.models import core_v1
from kube.models.meta_v1 import ObjectMeta
from provision.facts.facts import RemoteFacts
from provision.inventory.lab import Lab, Machine, ProviderName, Role, Store
from provision.lab import cluster, etcd, upgrade
from provision.lab.etcd import MemberView
from provision.lab.open_lab import OpenLab
from provision.lab.upgrade import UpgradeOptions, order
from provision.lab_state import LabState

MASTERS = tuple(
    Machine(name=name, provider=ProviderName.NSPAWN, roles=frozenset({Role.MASTER})) for name in ("m1", "m2", "m3")
)
WORKER = Machine(name="w1", provider=ProviderName.NSPAWN, roles=frozenset({Role.WORKER}))
LAB = Lab(name="lab", source=Path("lab.yml"), machines=(WORKER, *MASTERS), store=Store.ETCD)


def test_masters_first() -> None:
    assert [machine.name for machine in order(LAB.machines, {"w1", "m1", "m3"})] == ["m1", "m3", "w1"]


@pytest.mark.parametrize(
    ("spec", "takes"),
    [
        (core_v1.NodeSpec(), True),
        (core_v1.NodeSpec(unschedulable=True), False),
        (
            core_v1.NodeSpec(taints=[core_v1.Taint(key="node-role.kubernetes.io/control-plane", effect="NoSchedule")]),
            False,
        ),
        (core_v1.NodeSpec(taints=[core_v1.Taint(key="slow", effect="PreferNoSchedule")]), True),
    ],
)
def test_which_nodes_take_the_pods_of_another(spec: core_v1.NodeSpec, takes: bool) -> None:
    ready = core_v1.NodeStatus(conditions=[core_v1.NodeCondition(type="Ready", status="True")])
    assert cluster.view(core_v1.Node(metadata=ObjectMeta(name="n"), spec=spec, status=ready)).takes_pods is takes


def opened(tmp_path: Path) -> OpenLab:
    """The lab, with all of its masters reached."""
    it = OpenLab(LAB, LabState(tmp_path))
    for machine in MASTERS:
        it.facts[machine.name] = RemoteFacts(services={"master": True}, has_master=True)
        it.connections[machine.name] = cast("Any", machine.name)
    return it


def test_while_a_master_is_upgraded_another_one_is_asked(tmp_path: Path) -> None:
    it = opened(tmp_path)
    assert it.master.name == "m1"
    it.passed_over = "m1"
    assert it.master.name == "m2"


@pytest.mark.parametrize(
    ("silent", "unhealthy", "refused"),
    [
        ((), (), ""),
        (("m1",), (), ""),  # the one that is to be upgraded: it may be mended by that
        (("m3",), (), "API server on m3 does not serve: m1 is needed"),
        ((), ("m2",), "etcd is not well"),
    ],
)
async def test_a_master_is_stopped_only_while_all_others_serve(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    silent: tuple[str, ...],
    unhealthy: tuple[str, ...],
    refused: str,
) -> None:
    @asynccontextmanager
    async def connected(state: LabState, master: str, *, port: int) -> AsyncIterator[Any]:
        async def raw(method: str, path: str) -> None:
            if master in silent:
                raise ConnectionError("refused")

        yield SimpleNamespace(raw=raw)

    async def members(open_lab: OpenLab) -> list[MemberView]:
        return [MemberView(id=m.name, name=m.name, healthy=m.name not in unhealthy) for m in MASTERS]

    monkeypatch.setattr(cluster, "connected", connected)
    monkeypatch.setattr(etcd, "members", members)
    monkeypatch.setattr(upgrade, "OTHERS_SECONDS", 0.0)
    doing = upgrade._Upgrade(opened(tmp_path), {}, lambda event: None, UpgradeOptions())
    if refused:
        with pytest.raises(KtoolError, match=refused):
            await doing._require_others(MASTERS[0])
    else:
        await doing._require_others(MASTERS[0])
