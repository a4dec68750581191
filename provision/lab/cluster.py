"""A lab's cluster, as it is seen from the machine that makes it: its Nodes, its kubeconfig.

The API server is asked through the SSH connection to the master: no port has to be open on the way, and a lab behind
a jump host works like one next door.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kube import kubeconfig, objects
from kube.client import Client
from kube.errors import KtoolError
from kube.models import core_v1
from kube.status import ApiError
from kube.transport import HTTPTransport
from provision.lab_state import LabState

if TYPE_CHECKING:
    from provision.ssh.shell import Shell

POLL_SECONDS = 0.3
ASK_SECONDS = 15.0
REMOTE_KUBECONFIG = "/var/lib/ktool/admin.kubeconfig"


@dataclass(frozen=True, slots=True)
class NodeView:
    """A Node in a word: whether it is Ready, and if not, why."""

    name: str
    ready: bool
    why: str = ""
    address: str = ""
    version: str = ""
    schedulable: bool = True
    tainted: bool = False
    machine_id: str = ""

    @property
    def takes_pods(self) -> bool:
        """Whether pods that tolerate nothing may come here, as a master's node keeps them away."""
        return self.ready and self.schedulable and not self.tainted

    @property
    def status(self) -> str:
        """`Ready` or `NotReady`, as kubectl says it."""
        return "Ready" if self.ready else "NotReady"


def view(node: core_v1.Node) -> NodeView:
    """What the lab wants to know of a Node."""
    status = node.status
    ready = objects.condition(status.conditions if status else (), "Ready")
    addresses = [a.address or "" for a in (status.addresses if status else None) or () if a.type == "InternalIP"]
    return NodeView(
        name=node.metadata.name or "",
        ready=ready is not None and ready.status == "True",
        why="" if ready is None else ready.message or ready.reason or "",
        address=addresses[0] if addresses else "",
        version=(status.nodeInfo.kubeletVersion if status and status.nodeInfo else "") or "",
        schedulable=not (node.spec and node.spec.unschedulable),
        tainted=any(t.effect in ("NoSchedule", "NoExecute") for t in (node.spec.taints if node.spec else None) or ()),
        machine_id=(status.nodeInfo.machineID if status and status.nodeInfo else "") or "",
    )


async def connect(state: LabState, master: Shell | None, *, port: int) -> Client:
    """A client for the lab's cluster with the lab's kubeconfig, through `master`'s connection where there is one; to
    be closed by the caller."""
    connection = kubeconfig.connect(state.kubeconfig)
    if master is not None:
        host, local_port = await asyncio.to_thread(master.forward_local, "127.0.0.1", port)
        connection = replace(connection, server=f"https://{host}:{local_port}")
    return Client(HTTPTransport(connection), user_agent="ktool-lab")


@asynccontextmanager
async def connected(state: LabState, master: Shell | None, *, port: int) -> AsyncIterator[Client]:
    """The same for the length of a block."""
    client = await connect(state, master, port=port)
    try:
        yield client
    finally:
        await client.close()


async def nodes(client: Client) -> dict[str, NodeView]:
    """All Nodes by name."""
    return {found.name: found for found in map(view, (await client.list(core_v1.Node)).items)}


async def wait_ready(
    client: Client,
    names: Collection[str],
    *,
    timeout: float,
    on_change: Callable[[NodeView], None] = lambda view: None,
) -> dict[str, NodeView]:
    """Wait until the named Nodes are Ready, at most `timeout` seconds; gives those that are not, as seen last.

    `on_change` is told of each Node whenever it looks different from before.
    """
    deadline = time.monotonic() + timeout
    last: Mapping[str, NodeView] = {}
    while True:
        try:
            found = await nodes(client)
        except (ApiError, ConnectionError, TimeoutError) as error:
            if time.monotonic() > deadline:
                raise KtoolError(
                    "the cluster's API server does not answer",
                    found=str(error),
                    wanted=f"an answer within {timeout:g} s",
                ) from error
            found = {}
        seen = {name: found.get(name) or NodeView(name, False, "the node has not registered") for name in names}
        for name, one in seen.items():
            if last.get(name) != one:
                on_change(one)
        last = seen
        missing = {name: one for name, one in seen.items() if not one.ready}
        if not missing or time.monotonic() > deadline:
            return missing
        await asyncio.sleep(POLL_SECONDS)


async def wait_serving(state: LabState, master: Shell, *, port: int, timeout: float) -> str:
    """Wait until the API server on that master is ready, at most `timeout` seconds; what it says instead, or empty."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            async with asyncio.timeout(ASK_SECONDS), connected(state, master, port=port) as client:
                await client.raw("GET", "/readyz")
        except (KtoolError, ApiError, ConnectionError, TimeoutError) as error:
            said = str(error) or "no answer"
        else:
            return ""
        if time.monotonic() > deadline:
            return said
        await asyncio.sleep(POLL_SECONDS)


async def label(client: Client, name: str, labels: Mapping[str, str]) -> bool:
    """Have a Node carry the labels, also those that it may not give itself (`node-role.kubernetes.io/...`, Kubernetes:
    NodeRestriction); True if one was missing or different."""
    node = await client.get(core_v1.Node, name)
    missing = {key: value for key, value in labels.items() if (node.metadata.labels or {}).get(key) != value}
    if missing:
        await client.patch(core_v1.Node, name, {"metadata": {"labels": missing}})
    return bool(missing)


async def annotation(client: Client, name: str, key: str) -> str:
    """A Node's annotation; empty if it has none, or there is no such Node."""
    try:
        return ((await client.get(core_v1.Node, name)).metadata.annotations or {}).get(key, "")
    except ApiError as error:
        if error.code == 404:
            return ""
        raise


async def annotate(client: Client, name: str, key: str, value: str | None) -> None:
    """Set a Node's annotation; None removes it."""
    await client.patch(core_v1.Node, name, {"metadata": {"annotations": {key: value}}})


def save_kubeconfig(state: LabState, master: Shell, *, server: str) -> bool:
    """Fetch the administrator's kubeconfig from the master and keep it with the server's outside URL; True if it is
    new or differs from the one that is kept."""
    import yaml

    found = yaml.safe_load(master.get(REMOTE_KUBECONFIG))
    for cluster in found.get("clusters", ()):
        cluster["cluster"]["server"] = server
    before = state.kubeconfig.read_bytes() if state.kubeconfig.exists() else b""
    kubeconfig.save(state.kubeconfig, found)
    return state.kubeconfig.read_bytes() != before
