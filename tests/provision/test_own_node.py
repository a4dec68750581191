"""The invitation of a master's own node, by an API server that answers but is not ready yet."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kube import join, pki, status
from kube.clock import SystemClock
from kube.errors import KtoolError
from kube.models import core_v1, meta_v1
from kube.status import ApiError
from provision.local_cluster import waiting
from provision.local_cluster.config import MASTER, LocalClusterConfig
from provision.local_cluster.own_node import OwnNode
from provision.services.service import ServiceStatus

NODE = core_v1.Node(metadata=meta_v1.ObjectMeta(name="one"))
GONE = ConnectionError("reset by peer")


class Server:
    """A client whose API server says one thing after the other, the last again and again."""

    def __init__(self, *answers: object) -> None:
        self.answers = [*answers]

    async def get(self, kind: type[Any], name: str) -> Any:
        return self._next()

    async def create(self, obj: Any) -> Any:
        return self._next()

    def _next(self) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalClusterConfig:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.001)
    (tmp_path / "pki").mkdir()
    config = LocalClusterConfig(data_dir=tmp_path, node_name="one")
    config.ca_certificate.write_bytes(pki.create_ca(clock=SystemClock()).cert_pem)
    return config


def node_of(config: LocalClusterConfig, server: Server) -> OwnNode:
    answer = ServiceStatus(MASTER, running=True, pid=os.getpid())
    supervisor = cast("Any", SimpleNamespace(status=lambda name: answer))
    return OwnNode(config, supervisor, "192.0.2.1", lambda event: None, cast("Any", server), began=None)


def invited(config: LocalClusterConfig) -> bytes:
    config.agent_dir.mkdir()
    pin = pki.ca_pin(pki.load_cert(config.ca_certificate))
    invitation = join.JoinConfig(
        server=config.server, token="aaaaaa.bbbbbbbbbbbbbbbb", ca_cert_hashes=(pin,), node_name="one"
    )
    join.write(config.join_file, invitation)
    return config.join_file.read_bytes()


async def test_a_node_that_has_joined_is_looked_for_until_somebody_can_tell(config: LocalClusterConfig) -> None:
    before = invited(config)
    server = Server(status.service_unavailable("etcd has no leader"), GONE, NODE)
    await node_of(config, server).invite()
    assert server.answers == [NODE]
    assert config.join_file.read_bytes() == before


async def test_a_token_is_made_when_the_master_can(config: LocalClusterConfig) -> None:
    missing = status.not_found("namespaces", "kube-system")
    server = Server(missing, status.internal_error("not read yet"), GONE, core_v1.Secret())
    await node_of(config, server).invite()
    assert len(server.answers) == 1
    assert join.read(config.join_file).node_name == "one"


async def test_a_refusal_is_told_at_once(config: LocalClusterConfig) -> None:
    server = Server(status.forbidden("secrets", "x", "no"), core_v1.Secret())
    with pytest.raises(ApiError, match="forbidden"):
        await node_of(config, server).invite()
    assert not config.join_file.exists()


async def test_a_master_that_has_gone_for_good(config: LocalClusterConfig) -> None:
    invited(config)
    with pytest.raises(KtoolError, match="master does not become ready") as caught:
        await node_of(replace(config, ready_timeout=0.05), Server(GONE)).invite()
    assert "reset by peer" in caught.value.found
