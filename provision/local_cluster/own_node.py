"""The node of a master's own machine: invited as soon as the API server answers, awaited until it is Ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kube import join, node_labels, pki
from kube.client import Client
from kube.clock import SystemClock
from kube.models import core_v1
from kube.status import ApiError
from provision import bootstrap_token
from provision.local_cluster import steps, waiting
from provision.local_cluster.config import AGENT, MASTER, LocalClusterConfig
from provision.progress import Progress, step
from provision.services.service import ServiceSupervisor

T = TypeVar("T")


class OwnNode:
    """First `invite`, then `run`. `began` is when the agent was started already (epoch seconds), None if it was not."""

    def __init__(
        self,
        config: LocalClusterConfig,
        supervisor: ServiceSupervisor,
        address: str,
        progress: Progress,
        client: Client,
        *,
        began: float | None,
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._agent = config.agent(node_address=address)
        self._progress = progress
        self._began = began
        self._restart = False
        self._client = client

    async def invite(self) -> None:
        """Have the agent joined, or a join file written for it; the API server answers already. ApiError where it
        refuses, KtoolError where it cannot do its work for too long."""
        config = self._config
        invited = config.join_file.exists()
        if invited and await self._answer(lambda: waiting.find_node(self._client, config.node_name)) is not None:
            return
        async with step(self._progress, "join", "Join token for this machine") as doing:
            token = await self._token()
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
        # One that had an invitation already knows nothing of the new one; others wait for theirs.
        self._restart = invited

    async def run(self) -> None:
        """Have the agent running, and its node Ready and labelled. KtoolError if that takes too long."""
        config, supervisor = self._config, self._supervisor
        async with step(self._progress, AGENT, "Agent (runtime, kubelet, proxy, routes)") as doing:
            now = time.time()
            started = await asyncio.to_thread(steps.run_service, supervisor, self._agent, restart=self._restart)
            since = now if started else self._began or 0.0
            node = await waiting.for_node(config, supervisor, self._client, doing, since=since)
            labelled = await self._label(node)
            doing.changed = started or self._began is not None or labelled
            doing.result = f"node {config.node_name} is Ready"

    async def _token(self) -> bootstrap_token.BootstrapToken:
        description = f"for {self._config.node_name}, made by ktool up"
        # 404: a master that has just started may not have made kube-system yet
        return await self._answer(
            lambda: bootstrap_token.create(self._client, clock=SystemClock(), description=description), passing=(404,)
        )

    async def _answer(self, ask: Callable[[], Awaitable[T]], *, passing: tuple[int, ...] = ()) -> T:
        """What the API server says to a request that may be made twice. It answers, but may not be ready: without an
        etcd that has a leader, or on its way down once more."""
        patience = waiting.Patience(self._config, self._supervisor, MASTER)
        while True:
            try:
                return await ask()
            except ApiError as error:
                if error.code not in (429, *range(500, 600), *passing):
                    raise
                found = error.message
            except (ConnectionError, TimeoutError) as error:
                found = f"no connection: {error}"
            await patience.wait(found)

    async def _label(self, node: core_v1.Node) -> bool:
        """Give the node the labels that it may not give itself; whether one had to be changed."""
        patch = node_labels.reconciled(
            node.metadata.labels,
            node.metadata.annotations,
            self._config.restricted_labels,
            annotation=node_labels.ADMIN_ANNOTATION,
        )
        if patch is None:
            return False
        await self._answer(lambda: self._client.patch(core_v1.Node, self._config.node_name, patch))
        return True
