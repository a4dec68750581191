"""Joining: what is trusted when, what is kept, what is said when it does not work."""

from __future__ import annotations

import asyncio
import base64
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import certificates, join
from agent.certificates import CertificateError, Files, Renewal
from agent.join import JoinError
from kube import join as join_file
from kube import kubeconfig, pki
from kube.client import Client
from kube.clock import VirtualClock
from kube.errors import KtoolError
from kube.join import JoinConfig
from kube.kubeconfig import Connection
from kube.status import unauthorized
from kube.transport import Request, Response
from tests.fake_api import FakeAPI

SERVER = "https://192.0.2.1:6443"
TOKEN = "abcdef.0123456789abcdef"


@dataclass
class Master:
    """A cluster that answers: its CA, its information, and whoever approves and signs."""

    clock: VirtualClock
    away: bool = False
    verdict: str = "Approved"
    token: str = TOKEN
    lifetime: float = pki.CERT_LIFETIME
    connections: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.api = FakeAPI(self.clock)
        self.ca = pki.create_ca(clock=self.clock)
        self.publish(self.ca)

    def publish(self, ca: pki.KeyPair) -> None:
        config = kubeconfig.build(server=SERVER, ca_data=ca.cert_pem, user="")
        config = {**config, "users": [], "contexts": [], "current-context": ""}
        self.api.put(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "cluster-info", "namespace": "kube-public"},
                "data": {"kubeconfig": yaml.safe_dump(config)},
            }
        )

    def connect(self, connection: Connection) -> Door:
        self.connections.append(connection)
        return Door(self, connection)

    def decide(self) -> None:
        """Approve or deny all open requests."""
        for request in self.api.all("CertificateSigningRequest"):
            if "status" in request or not self.verdict:
                continue
            status: dict[str, Any] = {"conditions": [{"type": self.verdict, "status": "True", "message": "because"}]}
            if self.verdict == "Approved":
                spec = request["spec"]
                pem = pki.sign_csr(
                    self.ca,
                    base64.b64decode(spec["request"]),
                    clock=self.clock,
                    usages=spec["usages"],
                    lifetime=self.lifetime,
                )
                status["certificate"] = base64.b64encode(pem).decode()
            self.api.change("CertificateSigningRequest", request["metadata"]["name"], status=status)


@dataclass
class Door:
    """A connection to the master, with somebody's credentials."""

    master: Master
    connection: Connection

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        await asyncio.sleep(0)
        if self.master.away:
            raise ConnectionError("nobody is there")
        anonymous = not self.connection.token and not self.connection.client_cert
        if anonymous:
            assert request.path == "/api/v1/namespaces/kube-public/configmaps/cluster-info"
        elif self.connection.token and self.connection.token != self.master.token:
            error = unauthorized()
            return Response(401, {}, yaml.safe_dump(error.to_status()).encode())
        response = await self.master.api.send(request, stream=stream, timeout=timeout)
        self.master.decide()
        return response

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def master(clock: VirtualClock) -> Master:
    return Master(clock)


def invite(folder: Path, master: Master, *, pin: str = "", token: str = TOKEN) -> Path:
    path = folder / "join.json"
    pins = (pin or pki.ca_pin(master.ca.certificate),)
    join_file.write(path, JoinConfig(server=SERVER, token=token, ca_cert_hashes=pins, node_name="node-a"))
    return path


async def join_now(folder: Path, master: Master, invitation: Path | None, *, seconds: float = 60) -> join.Identity:
    task = asyncio.create_task(
        join.identify(folder / "agent", join=invitation, node_name="", clock=master.clock, connect=master.connect)
    )
    for _ in range(int(seconds * 2)):
        await master.clock.advance(0.5)
        if task.done():
            break
    if not task.done():
        task.cancel()
    return await task


async def test_it_waits_for_the_join_file(tmp_path: Path, master: Master) -> None:
    """An agent that is started beside its master is invited later."""
    path = tmp_path / "join.json"
    task = asyncio.create_task(
        join.identify(tmp_path / "agent", join=path, node_name="", clock=master.clock, connect=master.connect)
    )
    await master.clock.advance(20)
    assert not task.done()
    invite(tmp_path, master)
    await master.clock.advance(1)
    await asyncio.wait_for(task, 10)


async def test_a_join_file_that_never_comes(tmp_path: Path, master: Master) -> None:
    with pytest.raises(KtoolError, match="there is no join file"):
        await join_now(tmp_path, master, tmp_path / "join.json", seconds=400)


async def test_a_machine_joins(tmp_path: Path, master: Master) -> None:
    found = await join_now(tmp_path, master, invite(tmp_path, master))
    assert found.node_name == "node-a"
    assert found.pin == pki.ca_pin(master.ca.certificate)
    pair = found.client.load()
    assert pair is not None
    assert pki.identity(pair.certificate) == ("system:node:node-a", ("system:nodes",))
    pki.check_issued(pair.certificate, master.ca.certificate, master.clock)
    first, second = master.connections
    assert (first.insecure, first.token) == (True, "")
    assert (second.insecure, second.ca_data, second.token) == (False, master.ca.cert_pem, TOKEN)


async def test_secrets_are_readable_by_their_owner_only(tmp_path: Path, master: Master) -> None:
    found = await join_now(tmp_path, master, invite(tmp_path, master))
    for path in (found.kubeconfig, found.client.key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not found.client.pending.exists()
    text = found.kubeconfig.read_text()
    assert TOKEN not in text
    assert kubeconfig.connect(found.kubeconfig).server == SERVER


async def test_the_second_start_needs_nothing(tmp_path: Path, master: Master) -> None:
    await join_now(tmp_path, master, invite(tmp_path, master))
    master.away = True
    again = await join_now(tmp_path, master, None)
    assert again.node_name == "node-a"
    assert again.connection.client_key
    assert again.connection.token == ""


async def test_a_wrong_pin_ends_it_before_the_token_is_shown(tmp_path: Path, master: Master) -> None:
    impostor = pki.create_ca(clock=master.clock)
    invitation = invite(tmp_path, master)
    master.publish(impostor)
    with pytest.raises(JoinError) as error:
        await join_now(tmp_path, master, invitation)
    assert error.value.found == pki.ca_pin(impostor.certificate)
    assert error.value.wanted == pki.ca_pin(master.ca.certificate)
    assert all(not connection.token for connection in master.connections)


async def test_an_expired_token(tmp_path: Path, master: Master) -> None:
    master.token = "another.0123456789abcdef"
    with pytest.raises(JoinError, match="does not accept the join token") as error:
        await join_now(tmp_path, master, invite(tmp_path, master), seconds=120)
    assert "abcdef" in error.value.found
    assert "0123456789abcdef" not in str(error.value)


async def test_a_master_that_comes_later(tmp_path: Path, master: Master) -> None:
    master.away = True
    invitation = invite(tmp_path, master)
    task = asyncio.create_task(join_now(tmp_path, master, invitation, seconds=300))
    await master.clock.advance(100)
    assert not task.done()
    master.away = False
    assert (await task).node_name == "node-a"


async def test_a_denied_request(tmp_path: Path, master: Master) -> None:
    master.verdict = "Denied"
    with pytest.raises(CertificateError, match="was denied") as error:
        await join_now(tmp_path, master, invite(tmp_path, master))
    assert error.value.found == "because"
    # The next try makes a new request, not the denied one again.
    master.verdict = "Approved"
    assert (await join_now(tmp_path, master, invite(tmp_path, master))).node_name == "node-a"


async def test_nobody_approves(tmp_path: Path, master: Master) -> None:
    master.verdict = ""
    with pytest.raises(CertificateError, match="not issued in time") as error:
        await join_now(tmp_path, master, invite(tmp_path, master), seconds=400)
    assert "kubectl certificate approve node-csr-" in error.value.mend


async def test_an_interrupted_join_finds_its_request_again(tmp_path: Path, master: Master) -> None:
    master.verdict = ""
    with pytest.raises(asyncio.CancelledError):
        await join_now(tmp_path, master, invite(tmp_path, master), seconds=5)
    master.verdict = "Approved"
    await join_now(tmp_path, master, invite(tmp_path, master))
    assert len(master.api.all("CertificateSigningRequest")) == 1


async def test_no_join_file(tmp_path: Path, master: Master) -> None:
    with pytest.raises(JoinError, match="has not joined"):
        await join_now(tmp_path, master, None)


async def test_another_name_than_before(tmp_path: Path, master: Master) -> None:
    found = await join_now(tmp_path, master, invite(tmp_path, master))
    with pytest.raises(JoinError, match="under another name"):
        join.load(found.kubeconfig.parent, node_name="node-b", clock=master.clock)


async def test_an_ended_certificate_means_joining_again(tmp_path: Path, master: Master) -> None:
    master.lifetime = 3600
    await join_now(tmp_path, master, invite(tmp_path, master))
    await master.clock.advance(3601)
    with pytest.raises(JoinError, match="has not joined"):
        await join_now(tmp_path, master, None)


async def test_renewal(tmp_path: Path, master: Master) -> None:
    master.lifetime = 10_000
    files = Files.of(tmp_path, "kubelet-serving")
    brought: list[pki.KeyPair] = []

    async def renewed(pair: pki.KeyPair) -> None:
        brought.append(pair)

    request = certificates.serving_request("node-a", ("192.0.2.10",))
    connection = Connection(SERVER, client_cert=b"x", client_key=b"y")

    renewal = Renewal(Client(Door(master, connection)), request, files, clock=master.clock, renewed=renewed)
    task = asyncio.create_task(renewal.run())
    for _ in range(4):
        await master.clock.advance(1)
    assert len(brought) == 1
    assert (await renewal.first()).cert_pem == brought[0].cert_pem
    await master.clock.advance(0.68 * 10_000)
    assert len(brought) == 1
    await master.clock.advance(0.25 * 10_000)
    assert len(brought) == 2
    assert brought[0].key_pem != brought[1].key_pem
    task.cancel()
    await asyncio.wait([task], timeout=5)


async def test_a_new_address_wants_a_new_certificate(tmp_path: Path, master: Master) -> None:
    pair = pki.issue_server(
        master.ca, "system:node:node-a", clock=master.clock, dns_names=["node-a"], ips=["192.0.2.10"]
    )

    async def renewed(_: pki.KeyPair) -> None:
        """Nobody is interested."""

    def left(*addresses: str) -> float:
        request = certificates.serving_request("node-a", addresses)
        files = Files.of(tmp_path, "x")
        client = Client(master.api)
        return Renewal(client, request, files, clock=master.clock, renewed=renewed).seconds_left(pair)

    assert left("192.0.2.10") > 0
    assert left("192.0.2.11") <= 0
