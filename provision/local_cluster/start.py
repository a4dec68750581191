"""`up`: from whatever state this machine is in to a running cluster. A second run finds everything in place.

    preflight → data directory, kernel settings → Docker Engine ────┐
                                   (etcd →) master → join file ─────┴→ agent → node Ready

Docker Engine and the master start at the same time; neither needs the other. So does a new agent, which waits for its
join file then: to be loaded takes it as long as the master. Each step looks first, changes only
what differs, and then checks. Interrupted or failed, the machine is left as it is at that moment: the next `up` goes
on from there, and `down` removes what there is. A master without an agent has neither engine nor node.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from kube import join, kubeconfig, node_labels, pki
from kube.client import Client
from kube.clock import SystemClock
from kube.errors import KtoolError
from kube.models import core_v1
from kube.status import ApiError
from kube.transport import HTTPTransport
from provision import bootstrap_token, lock
from provision.docker_engine import Engine
from provision.journal import Journal
from provision.local_cluster import steps, waiting
from provision.local_cluster.config import AGENT, ETCD, LocalCluster, LocalClusterConfig
from provision.progress import Progress, step
from provision.services.detect import detect
from provision.services.service import ServiceSupervisor

logger = logging.getLogger(__name__)


Store = Callable[[LocalClusterConfig, ServiceSupervisor, Journal, str], Awaitable[None]]
"""Has the store ready that the master is to use; gets this machine's address last."""


async def up(
    config: LocalClusterConfig, progress: Progress = lambda event: None, *, store: Store | None = None
) -> LocalCluster:
    """Have the cluster running and this machine's node Ready. `store` sees to the master's store, where that is more
    than to begin (or go on with) one here.

    Raises PreflightFailed with the machine untouched, and KtoolError where a step fails (the message says which part
    of the log matters).
    """
    config = replace(config, store=steps.chosen_store(config))
    config.check()
    warnings: list[str] = []
    supervisor = detect(config.data_dir, wanted=config.supervisor)
    if store is None:
        _check_roles(config, supervisor)
    address = await steps.check_machine(config, supervisor, progress, warnings)
    engine: Engine | None = None
    with lock.held(config.data_dir):
        journal = Journal(config.journal_file)
        await steps.prepare(config, supervisor, journal, progress)
        if AGENT not in config.roles:
            await _control_plane(config, supervisor, journal, address, progress, store)
        else:
            began = await asyncio.to_thread(_start_new_agent, config, supervisor, address)
            with steps.first_of_group():
                async with asyncio.TaskGroup() as group:
                    engine_task = group.create_task(steps.start_engine(config, supervisor, journal, progress))
                    group.create_task(_control_plane(config, supervisor, journal, address, progress, store))
            engine = engine_task.result()
            transport = HTTPTransport(kubeconfig.connect(config.kubeconfig))
            try:
                client = Client(transport, user_agent="ktool-up")
                await _agent(config, supervisor, address, client, progress, began=began)
            finally:
                await transport.close()
    return LocalCluster(
        kubeconfig=config.kubeconfig,
        server=config.server,
        node_name=config.node_name,
        node_address=address,
        docker_version=engine.version if engine else "",
        docker_origin=engine.origin if engine else None,
        supervisor=supervisor.name,
        warnings=tuple(warnings),
    )


def _check_roles(config: LocalClusterConfig, supervisor: ServiceSupervisor) -> None:
    """KtoolError where this machine is something else already."""
    if config.agent_ca_certificate.exists() and not config.ca_certificate.exists():
        raise KtoolError(
            "this machine is a node of a cluster whose master runs elsewhere",
            found=f"a node's certificate in {config.agent_dir}, no cluster of its own",
            wanted="a machine that is not part of a cluster",
            mend="take it out of that cluster first: ktool down",
        )
    if AGENT not in config.roles and AGENT in supervisor.names():
        raise KtoolError(
            "this machine is a node already",
            found="a running agent",
            wanted="none, for a master without a node",
            mend="run `ktool up` without --no-agent, or remove everything first: ktool down --keep-data",
        )


# ---- steps


async def _control_plane(
    config: LocalClusterConfig,
    supervisor: ServiceSupervisor,
    journal: Journal,
    address: str,
    progress: Progress,
    store: Store | None,
) -> None:
    if store is not None:
        await store(config, supervisor, journal, address)
    elif config.store == ETCD:
        from provision.local_cluster import etcd

        await etcd.begin(config, supervisor, journal, address, progress)
    await _master(config, supervisor, address, progress)


async def _master(config: LocalClusterConfig, supervisor: ServiceSupervisor, address: str, progress: Progress) -> None:
    async with step(progress, "master", "Master (store, API server, scheduler, controllers)") as doing:
        spec = config.master_spec(node_address=address)
        started = await asyncio.to_thread(steps.run_service, supervisor, spec)
        await waiting.for_api(config, supervisor)
        doing.changed = started
        doing.result = f"{config.server} is ready"


def _start_new_agent(config: LocalClusterConfig, supervisor: ServiceSupervisor, address: str) -> float | None:
    """Start an agent that will wait for its join file; when it was started (epoch seconds), None if it was not."""
    if config.join_file.exists() or supervisor.status(AGENT).running:
        return None
    began = time.time()
    steps.run_service(supervisor, config.agent_spec(node_address=address))
    return began


async def _agent(
    config: LocalClusterConfig,
    supervisor: ServiceSupervisor,
    address: str,
    client: Client,
    progress: Progress,
    *,
    began: float | None,
) -> None:
    spec = config.agent_spec(node_address=address)
    invited = config.join_file.exists()
    status = await asyncio.to_thread(supervisor.status, AGENT)
    joined = invited and await waiting.find_node(client, config.node_name) is not None
    if not joined:
        async with step(progress, "join", "Join token for this machine") as doing:
            token = await _create_token(client, config.node_name)
            ca = pki.parse_cert(config.ca_certificate.read_bytes(), source=str(config.ca_certificate))
            config.agent_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            join.write(
                config.join_file,
                join.JoinConfig(
                    server=config.server,
                    token=token.text,
                    ca_cert_hashes=(pki.ca_pin(ca),),
                    node_name=config.node_name,
                ),
            )
            doing.result = f"{token.id}, valid for {bootstrap_token.LIFETIME_SECONDS / 60:.0f} minutes"
    async with step(progress, "agent", "Agent (runtime, kubelet, proxy, routes)") as doing:
        now = time.time()
        # One that had an invitation already knows nothing of the new one; others wait for theirs.
        restart = status.running and invited and not joined
        started = await asyncio.to_thread(steps.run_service, supervisor, spec, restart=restart)
        since = now if started else began or 0.0
        node = await waiting.for_node(config, supervisor, client, doing, since=since)
        labelled = await _label(client, node, config)
        doing.changed = started or began is not None or labelled
        doing.result = f"node {config.node_name} is Ready"


async def _label(client: Client, node: core_v1.Node, config: LocalClusterConfig) -> bool:
    """Give the node the labels that it may not give itself; whether one had to be changed."""
    patch = node_labels.reconciled(
        node.metadata.labels,
        node.metadata.annotations,
        config.restricted_labels,
        annotation=node_labels.ADMIN_ANNOTATION,
    )
    if patch is None:
        return False
    await client.patch(core_v1.Node, config.node_name, patch)
    return True


async def _create_token(client: Client, node_name: str) -> bootstrap_token.BootstrapToken:
    """A token; a master that has just started may not have made kube-system yet."""
    for attempt in range(100):
        try:
            return await bootstrap_token.create(
                client, clock=SystemClock(), description=f"for {node_name}, made by ktool up"
            )
        except ApiError as error:
            if error.code != 404 or attempt == 99:
                raise
        await asyncio.sleep(waiting.POLL_SECONDS)
    raise AssertionError("unreachable: the last attempt returns or raises")
