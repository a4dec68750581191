"""Waiting until a service does what it is for: bounded, with the reason and the log's end when it doesn't."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path

from kube import kubeconfig, objects, times
from kube.client import Client
from kube.errors import KtoolError
from kube.models import core_v1
from kube.status import ApiError
from kube.transport import HTTPTransport
from provision.local_cluster.config import AGENT, MASTER, LocalClusterConfig
from provision.progress import Step
from provision.services.service import ServiceSupervisor, tail

POLL_SECONDS = 0.05
# Where to look takes long (an emulated machine: a tenth of a second), looking must not take what is waited for the
# processor: after each look, it is left alone for this many times as long (at most two seconds).
POLL_REST = 8
POLL_MOST_SECONDS = 2.0
# How long a watch lasts, how much later it is given up (of a master that has vanished behind a load balancer nothing is
# heard), and the pause before the next.
WATCH_SECONDS = 10
WATCH_GRACE_SECONDS = 5.0
WATCH_AGAIN_SECONDS = 0.2
# The supervisor, which takes longest to ask, is asked when the service's process has gone, and this often besides.
FIRST_ASK_SECONDS = 1.0
ASK_SECONDS = 5.0
# A service that died this often on its way up will not come up.
RESTARTS_TO_GIVE_UP = 3


async def for_api(
    config: LocalClusterConfig, supervisor: ServiceSupervisor, stack: AsyncExitStack, answers: asyncio.Future[Client]
) -> None:
    """Wait until this machine's API server is ready. As soon as it answers at all, `answers` has a client of it, which
    lives as long as `stack`. KtoolError as from `Patience`."""
    patience = Patience(config, supervisor, MASTER)
    found = "no kubeconfig yet"
    client: Client | None = None
    while True:
        if client is None and config.kubeconfig.exists() and await _is_open(config.api_port):
            # One for all that follows: another handshake would take an emulated machine half a second.
            client = Client(HTTPTransport(kubeconfig.connect(config.kubeconfig)), user_agent="ktool-up")
            stack.push_async_callback(client.close)
        if client is not None:
            ready, found = await _is_ready(client, answers)
            if ready:
                return
        await patience.wait(found)


async def _is_open(port: int) -> bool:
    """Whether somebody listens: for this, neither TLS nor HTTP is needed, which take an emulated machine long."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _is_ready(client: Client, answers: asyncio.Future[Client]) -> tuple[bool, str]:
    try:
        async with asyncio.timeout(5):
            response = await client.raw("GET", "/readyz")
    except ApiError as error:
        ready, found = False, f"/readyz: {error.message}"
    except (ConnectionError, TimeoutError) as error:
        return False, f"no connection: {error}"
    else:
        ready, found = response.status == 200, f"/readyz answers {response.status}"
    if not answers.done():
        answers.set_result(client)
    return ready, found


async def for_node(
    config: LocalClusterConfig, supervisor: ServiceSupervisor, client: Client, doing: Step, *, since: float
) -> core_v1.Node:
    """Wait until this machine's node is Ready, by what it said after `since` (epoch seconds)."""
    patience = Patience(config, supervisor, AGENT)
    seen = _NodeWatch(client, config.node_name)
    following = asyncio.create_task(seen.follow(), name="node")
    last = ""
    try:
        while True:
            seen.changed.clear()
            ready, found = readiness(seen.node, since=since) if not seen.problem else (False, seen.problem)
            if ready and seen.node is not None:
                return seen.node
            if found != last:
                doing.detail(found)
                last = found
            await patience.wait(found, changed=seen.changed)
            if following.done():
                following.result()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class _NodeWatch:
    """The Node as the API server tells of each change of it: to ask again and again takes the processor from those who
    are waited for. `node` is None until it has registered, `problem` why it cannot be seen at the moment."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self.node: core_v1.Node | None = None
        self.problem = ""
        self.changed = asyncio.Event()

    async def follow(self) -> None:
        """Keep `node` as it is, until cancelled. ApiError where the API server refuses."""
        while True:
            try:
                async with asyncio.timeout(WATCH_SECONDS + WATCH_GRACE_SECONDS):
                    await self._watch()
                self.problem = ""
            except ApiError as error:
                if error.code not in (410, 429, *range(500, 600)):
                    raise
                # A master that has just started, one whose etcd elects a leader, a load balancer without a master.
                self.problem = f"the API server cannot answer: {error.message}"
            except (ConnectionError, TimeoutError) as error:
                self.problem = f"the API server cannot be reached: {str(error) or 'no answer'}"
            finally:
                self.changed.set()
            await asyncio.sleep(WATCH_AGAIN_SECONDS)

    async def _watch(self) -> None:
        events = self._client.watch(
            core_v1.Node, field_selector=f"metadata.name={self._name}", timeout_seconds=WATCH_SECONDS
        )
        async with aclosing(events):
            async for event in events:
                self.problem = ""
                if event.type != "BOOKMARK":
                    self.node = None if event.type == "DELETED" else event.object
                self.changed.set()


async def find_node(client: Client, name: str) -> core_v1.Node | None:
    """The Node, None if it has not registered. ApiError, ConnectionError."""
    try:
        return await client.get(core_v1.Node, name)
    except ApiError as error:
        if error.code == 404:
            return None
        raise


def readiness(node: core_v1.Node | None, *, since: float = 0.0) -> tuple[bool, str]:
    """(Ready, what is known) of a Node that may not have registered yet.

    What it said before `since` (epoch seconds) does not count: a kept Node still says what it said before `down`.
    """
    if node is None:
        return False, "the node has not registered yet"
    ready = objects.condition(node.status.conditions if node.status else (), "Ready")
    if ready is None:
        return False, "the node has registered"
    if ready.lastHeartbeatTime and times.parse(ready.lastHeartbeatTime) < int(since):
        return False, "the node has not reported since its agent was started"
    return ready.status == "True", f"the node is not ready: {ready.message or ready.reason}"


class Patience:
    """Waiting for what a service is to do, from now on for `ready_timeout` seconds: a look by the caller, a pause."""

    def __init__(self, config: LocalClusterConfig, supervisor: ServiceSupervisor, service: str) -> None:
        self._config = config
        self._supervisor = supervisor
        self._service = service
        self._deadline = time.monotonic() + config.ready_timeout
        self._looked_from = time.monotonic()
        self._pid: int | None = None
        self._ask_at = time.monotonic() + FIRST_ASK_SECONDS

    async def wait(self, found: str, *, changed: asyncio.Event | None = None) -> None:
        """Wait a moment, or for `changed`; KtoolError if the service dies again and again, or the time is up. `found`
        is what the caller has just seen instead of what is waited for."""
        restarts = 0
        gone = self._pid is not None and not _exists(self._pid)
        if gone or time.monotonic() >= min(self._ask_at, self._deadline):
            status = await asyncio.to_thread(self._supervisor.status, self._service)
            restarts, self._pid = status.restarts, status.pid
            self._ask_at = time.monotonic() + ASK_SECONDS
        now = time.monotonic()
        if restarts < RESTARTS_TO_GIVE_UP and now < self._deadline:
            if changed is None:
                await asyncio.sleep(min(POLL_MOST_SECONDS, max(POLL_SECONDS, POLL_REST * (now - self._looked_from))))
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), POLL_MOST_SECONDS)
            self._looked_from = time.monotonic()
            return
        config, log = self._config, self._config.log_path(self._service)
        lines = tail(log, lines=3)
        why = f"it ended {restarts} times" if restarts >= RESTARTS_TO_GIVE_UP else found
        raise KtoolError(
            f"the {self._service} does not become ready",
            found=f"{why}; its log ends: {lines}" if lines else why,
            wanted=f"ready within {config.ready_timeout:g} s",
            mend=f"see {log}",
        )


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
