"""`up`: from whatever state this machine is in to a running cluster. A second run finds everything in place.

    preflight → data directory, kernel settings → Docker Engine ─────────┐
                                  (etcd →) master ┬→ API server answers ─┴→ join file ─┬→ agent → node Ready
                                                  └→ is ready ─────────────────────────┘

Docker Engine and the master start at the same time; neither needs the other. So does a new agent, which waits for its
join file then: to be loaded takes it as long as the master. Each step looks first, changes only
what differs, and then checks. Interrupted or failed, the machine is left as it is at that moment: the next `up` goes
on from there, and `down` removes what there is. A master without an agent has neither engine nor node.

What talks to the API server (`own_node`, `waiting`) is imported while master and agent load: on an emulated machine
that takes seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from kube.errors import KtoolError
from provision import lock
from provision.docker_engine import Engine
from provision.journal import Journal
from provision.local_cluster import steps
from provision.local_cluster.config import AGENT, ETCD, MASTER, LocalCluster, LocalClusterConfig
from provision.progress import Progress, step
from provision.services.detect import detect
from provision.services.service import ServiceSupervisor

if TYPE_CHECKING:
    from kube.client import Client

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
            api = _Api()
            async with api.stack:
                await _control_plane(config, supervisor, journal, address, progress, store, api)
        else:
            engine = await _master_and_node(config, supervisor, journal, address, progress, store)
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
    if AGENT not in config.roles and AGENT in supervisor.names() and not steps.waits(config, supervisor, AGENT):
        raise KtoolError(
            "this machine is a node already",
            found="a running agent",
            wanted="none, for a master without a node",
            mend="run `ktool up` without --no-agent, or remove everything first: ktool down --keep-data",
        )


# ---- steps


class _Api:
    """How far the master is: `started` when its process runs, `answers` when its API server does, with a client of it
    that lives as long as `stack`."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.answers: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self.stack = AsyncExitStack()


async def _master_and_node(
    config: LocalClusterConfig,
    supervisor: ServiceSupervisor,
    journal: Journal,
    address: str,
    progress: Progress,
    store: Store | None,
) -> Engine:
    """Everything side by side that can be; the machine's Docker Engine."""
    api = _Api()
    async with api.stack:
        with steps.first_of_group():
            async with asyncio.TaskGroup() as group:
                engine = group.create_task(steps.start_engine(config, supervisor, journal, progress))
                group.create_task(_control_plane(config, supervisor, journal, address, progress, store, api))
                if config.store != ETCD:  # a master on etcd starts late, and the agent has time before it
                    await api.started.wait()
                began = await asyncio.to_thread(_start_new_agent, config, supervisor, address)
                from provision.local_cluster.own_node import OwnNode

                client = await api.answers
                # Where no engine starts, no agent has joined: there is nothing on one that `down` would have to remove.
                await engine
                node = OwnNode(config, supervisor, address, progress, client, began=began)
                group.create_task(node.invite())
        await node.run()
    return engine.result()


async def _control_plane(
    config: LocalClusterConfig,
    supervisor: ServiceSupervisor,
    journal: Journal,
    address: str,
    progress: Progress,
    store: Store | None,
    api: _Api,
) -> None:
    """The store, then the master, until it is ready."""
    if store is not None:
        await store(config, supervisor, journal, address)
    elif config.store == ETCD:
        from provision.local_cluster import etcd

        await etcd.begin(config, supervisor, journal, address, progress)
    async with step(progress, MASTER, "Master (store, API server, scheduler, controllers)") as doing:
        master = config.master(node_address=address)
        doing.changed = await asyncio.to_thread(steps.run_service, supervisor, master)
        api.started.set()
        await asyncio.sleep(0)  # whoever waits for that goes first
        from provision.local_cluster import waiting

        await waiting.for_api(config, supervisor, api.stack, api.answers)
        doing.result = f"{config.server} is ready"


def _start_new_agent(config: LocalClusterConfig, supervisor: ServiceSupervisor, address: str) -> float | None:
    """Start an agent that will wait for its join file; when it was started (epoch seconds), None if it was not."""
    agent = config.agent(node_address=address)
    if config.join_file.exists() or (agent.told and supervisor.status(AGENT).running):
        return None
    began = time.time()
    return began if steps.run_service(supervisor, agent) else None
