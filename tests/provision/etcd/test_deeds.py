"""What a machine that joins does when etcd's answers get lost, or nobody answers for a moment; without an etcd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kube.errors import KtoolError
from provision.etcd.client import EtcdError, NoEtcd
from provision.etcd.membership import Member, peer_url
from provision.local_cluster import etcd
from provision.local_cluster.config import ETCD, LocalClusterConfig
from provision.services.service import ServiceStatus

ADDRESS = "192.0.2.3"
FIRST = Member(id="1", name="m1", peer_urls=("https://192.0.2.1:2380",))


class Cluster:
    """A cluster of one, and this machine: both as far as a join sees them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members_now = [FIRST]
        self.running = False
        self.lost: list[str] = []  # deeds that are done, and whose answers get lost
        self.silent = 0  # questions that nobody answers
        self.deeds: list[str] = []

    # the client

    async def members(self) -> list[Member]:
        if self.silent:
            self.silent -= 1
            raise NoEtcd("no member of etcd answers")
        return [*self.members_now]

    async def add_learner(self, url: str) -> None:
        assert url == peer_url(ADDRESS)
        self.members_now.append(Member(id="3", peer_urls=(url,), learner=True))
        self._done("add", "Peer URLs already exists")

    async def promote(self, member_id: str) -> None:
        self._change(learner=False)
        self._done("promote", "can only promote a learner member")

    def _done(self, deed: str, again: str) -> None:
        self.deeds.append(deed)
        if deed in self.lost:
            # the first member did it, and died; the second one was asked the same
            raise EtcdError("etcd refuses", found=again)

    def _change(self, **changes: Any) -> None:
        fields = {"id": "3", "name": "m3", "peer_urls": (peer_url(ADDRESS),), "learner": True} | changes
        self.members_now[-1] = Member(**fields)

    # the supervisor

    def status(self, name: str) -> ServiceStatus:
        return ServiceStatus(ETCD, running=self.running)

    def run_etcd(self, *_: object) -> bool:
        self.deeds.append("start")
        self.running = True
        (self.folder / "etcd" / "member").mkdir(parents=True)
        self._change()
        self.silent = 1 if "start" in self.lost else 0
        return True


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    found = Cluster(tmp_path)
    monkeypatch.setattr(etcd, "_run", found.run_etcd)
    monkeypatch.setattr(etcd, "_write_settings", lambda *_, **__: None)
    monkeypatch.setattr(etcd, "PAUSE_SECONDS", 0.001)
    return found


@pytest.fixture
def join(cluster: Cluster, tmp_path: Path) -> Callable[[], Any]:
    config = LocalClusterConfig(data_dir=tmp_path, node_name="m3", store=ETCD, ready_timeout=1)
    doing = SimpleNamespace(detail=lambda text: None)
    anything = cast("Any", cluster)
    return etcd._Join(config, anything, anything, ADDRESS, cast("Any", doing)).run


@pytest.mark.parametrize("lost", [(), ("add",), ("promote",), ("start",), ("add", "start", "promote")])
async def test_each_deed_is_done_once_whatever_gets_lost(
    cluster: Cluster, join: Callable[[], Any], lost: tuple[str, ...]
) -> None:
    cluster.lost = [*lost]
    assert await join()
    assert cluster.deeds == ["add", "start", "promote"]


async def test_joining_ends_where_others_undo_it_again_and_again(
    cluster: Cluster, join: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd, "PATIENCE_SECONDS", 0.1)

    async def undone(url: str) -> None:
        cluster.deeds.append("add")
        raise EtcdError("etcd refuses", found="too many learner members in cluster")

    monkeypatch.setattr(cluster, "add_learner", undone)
    with pytest.raises(KtoolError, match="does not become a member") as caught:
        await join()
    assert "too many learner" in caught.value.found
    assert len(cluster.deeds) > 1
