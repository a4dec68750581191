"""What this machine has of a cluster, and when it may join one. (Joining for real: tests/cluster/test_join.py.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kube import join, kubeconfig, pki, status
from kube.clock import VirtualClock
from kube.cluster_info import JoinError
from kube.errors import KtoolError
from kube.join import JoinConfig
from kube.kubeconfig import Connection
from provision.local_cluster import enrolment
from provision.local_cluster.config import AGENT, MASTER, LocalClusterConfig
from provision.local_cluster.enrolment import Membership, News, check_membership, enrol, membership, replace_name
from provision.services.service import ServiceStatus

PIN, OTHER = ("sha256:" + text * 32 for text in ("0a", "0b"))
SERVER = "https://192.0.2.1:6443"
INVITATION = JoinConfig(server=SERVER, token="abcdef.0123456789abcdef", ca_cert_hashes=(OTHER, PIN), node_name="one")
MEMBER = Membership("one", PIN, Connection(SERVER))


@pytest.fixture
def config(tmp_path: Path) -> LocalClusterConfig:
    return LocalClusterConfig(data_dir=tmp_path, node_name="one", roles=frozenset({AGENT}), ktool_version="1")


@pytest.mark.parametrize(
    ("member", "name", "refusal"),
    [
        (None, "one", ""),
        (MEMBER, "one", ""),
        (replace(MEMBER, connection=Connection("https://192.0.2.9:6443")), "one", ""),  # the master has moved
        (MEMBER, "two", "under another name"),
        (replace(MEMBER, pin="sha256:" + "0c" * 32), "one", "joined another cluster"),
    ],
)
def test_who_may_join(config: LocalClusterConfig, member: Membership | None, name: str, refusal: str) -> None:
    config = replace(config, node_name=name)
    if not refusal:
        check_membership(config, INVITATION, member)
        return
    with pytest.raises(JoinError, match=refusal) as error:
        check_membership(config, INVITATION, member)
    assert error.value.found
    assert "ktool down" in error.value.mend


async def test_a_master_that_does_not_answer(config: LocalClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "REACH_SECONDS", 0.1)
    monkeypatch.setattr(enrolment, "PAUSE_SECONDS", 0.1)
    invitation = JoinConfig(server="https://127.0.0.1:1", token=INVITATION.token, ca_cert_hashes=(PIN,))
    with pytest.raises(KtoolError, match="the master cannot be reached") as error:
        await enrol(replace(config, data_dir=config.data_dir / "data"), invitation)
    assert "https://127.0.0.1:1" in error.value.found
    assert [*config.data_dir.iterdir()] == []


def test_a_master_does_not_join(config: LocalClusterConfig) -> None:
    config.kubeconfig.write_text("")
    with pytest.raises(JoinError, match="a master of its own"):
        check_membership(config, INVITATION, None)


def test_membership_is_read_from_the_node_s_own_certificate(config: LocalClusterConfig) -> None:
    clock = VirtualClock()
    assert membership(config, clock=clock) is None
    ca = pki.create_ca(clock=clock)
    pair = pki.issue_client(ca, "system:node:one", organizations=("system:nodes",), clock=clock, lifetime=1000)
    pki.save_pair(pair, cert=config.agent_certificate, key=config.agent_certificate.with_suffix(".key"))
    assert membership(config, clock=clock) is None  # interrupted while joining
    kubeconfig.save(
        config.agent_kubeconfig,
        kubeconfig.build(server=SERVER, ca_data=ca.cert_pem, client_cert=pair.cert_pem, client_key=pair.key_pem),
    )
    found = membership(config, clock=clock)
    assert found is not None
    assert (found.node_name, found.pin, found.connection.server) == ("one", pki.ca_pin(ca.certificate), SERVER)
    assert membership(config, clock=VirtualClock(clock.time() + 2000)) is None  # it has ended


def test_labels_and_taints_become_the_agents_or_the_administrators(config: LocalClusterConfig) -> None:
    control_plane = "node-role.kubernetes.io/control-plane"
    both = replace(
        config,
        roles=frozenset({MASTER, AGENT}),
        labels={"disk": "ssd", "node-role.kubernetes.io/db": ""},
        taints=("x=y:NoExecute", f"{control_plane}:NoSchedule"),
        control_plane=True,
        tls_sans=("lb.example", "192.0.2.50"),
    )
    arguments = both.agent(node_address="192.0.2.1").arguments
    assert [word for word in arguments if word.startswith(("--label", "--taint"))] == [
        "--label=disk=ssd",
        "--taint=x=y:NoExecute",
        f"--taint={control_plane}:NoSchedule",
    ]
    assert both.restricted_labels == {control_plane: "", "node-role.kubernetes.io/db": ""}
    master = " ".join(both.master(node_address="192.0.2.1").arguments)
    assert "--advertise-address 192.0.2.1 " in master
    assert master.endswith("--tls-san lb.example --tls-san 192.0.2.50")
    assert replace(both, taints=(), schedulable=True).all_taints == ()
    both.check()
    with pytest.raises(KtoolError, match="may not give itself"):
        replace(both, roles=frozenset({AGENT})).check()
    with pytest.raises(KtoolError, match="this label cannot be used"):
        replace(config, labels={"a b": "c"}).check()


@pytest.mark.parametrize(
    ("there", "member", "server", "news"),
    [
        ("", None, SERVER, News.AWAITED),
        (SERVER, None, SERVER, News.NONE),
        ("https://192.0.2.9:6443", None, SERVER, News.OTHER),
        (SERVER, MEMBER, SERVER, News.NONE),
    ],
)
async def test_what_an_invitation_is_to_the_agent(
    config: LocalClusterConfig, there: str, member: Membership | None, server: str, news: News
) -> None:
    if there:
        config.agent_dir.mkdir()
        join.write(config.join_file, replace_name(join.at(INVITATION, there), "one"))
    found = await enrolment._invite(config, join.at(INVITATION, server), member, lambda event: None)
    assert found is news
    assert join.read(config.join_file).server == server


@pytest.mark.parametrize(
    ("news", "restarts", "restart"),
    [
        (News.NONE, 2, False),
        (News.AWAITED, 0, False),
        (News.AWAITED, 1, True),  # nobody invited it for minutes: it has given up before
        (News.OTHER, 0, True),
    ],
)
def test_an_agent_that_waits_is_not_started_anew(news: News, restarts: int, restart: bool) -> None:
    assert enrolment.must_restart(news, ServiceStatus(AGENT, running=True, restarts=restarts)) is restart


@pytest.mark.parametrize(("member", "says"), [(None, "join token"), (MEMBER, "this machine's certificate")])
async def test_who_is_not_accepted_is_told_by_what(
    monkeypatch: pytest.MonkeyPatch, member: Membership | None, says: str
) -> None:
    async def refused(*_: object) -> None:
        raise status.unauthorized("node one was removed from the cluster")

    monkeypatch.setattr(enrolment, "_ask", refused)
    with pytest.raises(JoinError, match=says) as error:
        await enrolment.look(INVITATION, member)
    assert ("node one was removed" in error.value.found) == (member is not None)
