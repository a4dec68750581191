"""`join`: this machine becomes a node of a cluster whose master runs elsewhere. A second run finds everything in place.

    cluster found, pin and token checked → preflight → data directory, kernel settings → Docker Engine → agent → Ready

The cluster is looked at before anything is changed: a wrong address, a wrong pin or an expired token leaves the
machine untouched, and is told as what it is instead of as an agent that doesn't get ready. A machine that has joined
already shows its own certificate; the token in the join file may have expired long ago then.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from enum import Enum, auto

from kube import cluster_info, join, kubeconfig, pki
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.cluster_info import ClusterInfo, JoinError
from kube.errors import KtoolError
from kube.join import JoinConfig
from kube.kubeconfig import Connection
from kube.status import ApiError
from kube.transport import HTTPTransport
from provision import lock
from provision.journal import Journal
from provision.local_cluster import steps, waiting
from provision.local_cluster.config import AGENT, LocalCluster, LocalClusterConfig
from provision.local_cluster.preparation import check_no_master
from provision.progress import Progress, step
from provision.services.detect import detect
from provision.services.service import ServiceStatus, ServiceSupervisor

REACH_SECONDS = 20.0
PAUSE_SECONDS = 1.0
REQUEST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Membership:
    """What this machine has of a cluster: the node's name, the CA's pin and how it reaches the API server."""

    node_name: str
    pin: str
    connection: Connection


async def enrol(
    config: LocalClusterConfig, invitation: JoinConfig, progress: Progress = lambda event: None
) -> LocalCluster:
    """Have this machine's node joined and Ready; `config.roles` is the agent alone.

    Raises JoinError (wrong pin, refused token, another cluster) and PreflightFailed with the machine untouched,
    KtoolError where a later step fails.
    """
    config = replace(config, roles=frozenset({AGENT}))
    config.check()
    warnings: list[str] = []
    supervisor = detect(config.data_dir, wanted=config.supervisor)
    member = membership(config, clock=SystemClock())
    check_membership(config, invitation, member)
    async with step(progress, "cluster", f"The cluster at {invitation.server}") as doing:
        info = await look(invitation, member)
        networks = info.networks
        doing.unchanged(f"pods {networks.pod_cidr}, Services {networks.service_cidr}")
    config = replace(config, pod_cidr=networks.pod_cidr, service_cidr=networks.service_cidr)
    address = await steps.check_machine(config, supervisor, progress, warnings)
    with lock.held(config.data_dir):
        journal = Journal(config.journal_file)
        await steps.prepare(config, supervisor, journal, progress)
        engine = await steps.start_engine(config, supervisor, journal, progress)
        began = time.time()
        news = await _invite(config, invitation, member, progress)
        await _agent(config, supervisor, address, progress, news=news, began=began)
    return LocalCluster(
        kubeconfig=config.agent_kubeconfig,
        server=invitation.server,
        node_name=config.node_name,
        node_address=address,
        docker_version=engine.version,
        docker_origin=engine.origin,
        supervisor=supervisor.name,
        warnings=tuple(warnings),
    )


def membership(config: LocalClusterConfig, *, clock: Clock) -> Membership | None:
    """The membership that this machine has; None if it never joined, or its certificate has ended."""
    if not config.agent_kubeconfig.exists() or not config.agent_certificate.exists():
        return None
    connection = kubeconfig.connect(config.agent_kubeconfig)
    certificate = pki.load_cert(config.agent_certificate)
    if pki.expires_at(certificate) <= clock.time():
        return None
    user, _ = pki.identity(certificate)
    pin = pki.ca_pin(pki.parse_cert(connection.ca_data, source=str(config.agent_kubeconfig)))
    return Membership(user.removeprefix("system:node:"), pin, connection)


def check_membership(config: LocalClusterConfig, invitation: JoinConfig, member: Membership | None) -> None:
    """JoinError where this machine is something else than a node of that cluster, under that name, already."""
    check_no_master(config)
    if member is None:
        return
    if member.pin not in invitation.ca_cert_hashes:
        raise JoinError(
            "this machine has joined another cluster",
            found=f"{member.connection.server}, with the CA {member.pin}",
            wanted=f"{invitation.server}, with the CA {' or '.join(invitation.ca_cert_hashes)}",
            mend="take it out of that cluster first: ktool down",
        )
    if member.node_name != config.node_name:
        raise JoinError(
            "this machine has joined under another name",
            found=member.node_name,
            wanted=config.node_name,
            mend=f"join with --node-name {member.node_name}, or take it out of the cluster first: ktool down",
        )


async def look(invitation: JoinConfig, member: Membership | None) -> ClusterInfo:
    """The cluster's description, from a server that proved to be the right one and that accepts us."""
    deadline = time.monotonic() + REACH_SECONDS
    while True:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await _ask(invitation, member)
        except ApiError as error:
            if error.code == 401:
                raise (refused(invitation) if member is None else refused_member(member, error)) from error
            found = error.message
        except (ConnectionError, TimeoutError) as error:
            found = str(error) or "no answer"
        if time.monotonic() >= deadline:
            raise KtoolError(
                "the master cannot be reached",
                found=f"{invitation.server}: {found}",
                wanted=f"an API server that answers within {REACH_SECONDS:g} s",
                mend="Is the address right, does the master run, does a firewall close its port?",
            )
        await asyncio.sleep(PAUSE_SECONDS)


async def _ask(invitation: JoinConfig, member: Membership | None) -> ClusterInfo:
    if member is not None:
        connection = replace(member.connection, server=invitation.server)
    else:
        ca = await cluster_info.discover(invitation)
        connection = Connection(invitation.server, ca_data=pki.cert_pem(ca), token=invitation.token)
    transport = HTTPTransport(connection)
    try:
        return await cluster_info.fetch(Client(transport, user_agent="ktool-join"))
    finally:
        await transport.close()


def refused(invitation: JoinConfig) -> JoinError:
    """What is said of a token that the cluster does not know (any more)."""
    return JoinError(
        "the cluster does not accept the join token",
        found=f"token {invitation.token_id} is unknown or has expired",
        wanted="a bootstrap token that is valid",
        mend="Write a new join file on the master: ktool token create --node NAME --join-file FILE",
    )


def refused_member(member: Membership, error: ApiError) -> JoinError:
    """What is said of a certificate that the cluster does not accept any more."""
    return JoinError(
        "the cluster does not accept this machine's certificate",
        found=f"node {member.node_name}: {error.message}",
        wanted="a node that was not removed from the cluster since it joined",
        mend="undo what is left of its membership (ktool down), then join anew",
    )


class News(Enum):
    """What an invitation is to the agent: nothing new, the one that it waits for, another one than it knows."""

    NONE = auto()
    AWAITED = auto()
    OTHER = auto()


async def _invite(
    config: LocalClusterConfig, invitation: JoinConfig, member: Membership | None, progress: Progress
) -> News:
    """Keep the invitation where the agent looks for it."""
    if member is None:
        wanted = replace_name(invitation, config.node_name)
        invited = config.join_file.exists()
        if invited and join.read(config.join_file) == wanted:
            return News.NONE
        config.agent_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        join.write(config.join_file, wanted)
        return News.OTHER if invited else News.AWAITED
    if member.connection.server == invitation.server:
        return News.NONE
    async with step(progress, "server", "The master's address") as doing:
        known = kubeconfig.load(config.agent_kubeconfig)
        for entry in known["clusters"]:
            entry["cluster"]["server"] = invitation.server
        join.write(config.join_file, replace_name(invitation, config.node_name))
        kubeconfig.save(config.agent_kubeconfig, known)
        doing.result = f"{invitation.server} instead of {member.connection.server}"
    return News.OTHER


def replace_name(invitation: JoinConfig, node_name: str) -> JoinConfig:
    """The invitation of a node that has this name."""
    return JoinConfig(
        server=invitation.server,
        token=invitation.token,
        ca_cert_hashes=invitation.ca_cert_hashes,
        node_name=node_name,
    )


def must_restart(news: News, agent: ServiceStatus) -> bool:
    """Whether an agent that runs must be started anew: it has read another invitation, or has given up waiting before.
    (It would be taken for one that cannot start.)"""
    return news is News.OTHER or (news is News.AWAITED and agent.restarts > 0)


async def _agent(
    config: LocalClusterConfig,
    supervisor: ServiceSupervisor,
    address: str,
    progress: Progress,
    *,
    news: News,
    began: float,
) -> None:
    async with step(progress, "agent", "Agent (runtime, kubelet, proxy, routes)") as doing:
        program = config.agent(node_address=address)
        restart = must_restart(news, await asyncio.to_thread(supervisor.status, AGENT))
        started = await asyncio.to_thread(steps.run_service, supervisor, program, restart=restart)
        anew = started or news is not News.NONE
        patience = waiting.Patience(config, supervisor, AGENT)
        while membership(config, clock=SystemClock()) is None:
            await patience.wait("the node has no certificate yet")
        transport = HTTPTransport(kubeconfig.connect(config.agent_kubeconfig))
        try:
            client = Client(transport, user_agent="ktool-join")
            await waiting.for_node(config, supervisor, client, doing, since=began if anew else 0.0)
        finally:
            await transport.close()
        doing.changed = anew
        doing.result = f"node {config.node_name} is Ready"
