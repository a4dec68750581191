"""What every command gets: where the cluster is, and a client for it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ktool.remote_access import RemoteAccess
    from kube.client import Client
    from kube.kubeconfig import Connection
    from provision.inventory.lab import Lab

T = TypeVar("T")


@dataclass(slots=True)
class Session:
    """The global options of one call of ktool.

    `via` is where to go by SSH first (`ssh://user@host`): then `kubeconfig` and `data_dir` are paths there. `lab` is a
    lab's inventory, or its name.
    """

    kubeconfig: Path | None
    data_dir: Path
    via: str = ""
    lab: str = ""
    _remote: RemoteAccess | None = field(default=None, init=False, repr=False)

    @property
    def local_kubeconfig(self) -> Path:
        """The administrator's kubeconfig of this machine's cluster."""
        return self.data_dir / "admin.kubeconfig"

    def kubeconfig_path(self) -> Path:
        """The kubeconfig that counts: of the tunnel, of the lab, the option, $KUBECONFIG, this machine's cluster,
        ~/.kube/config. Opens the tunnel if there is to be one."""
        from kube.kubeconfig import default_path

        if self.via:
            return self.tunnel().kubeconfig
        if self.lab:
            return self._of_lab()
        if self.kubeconfig is not None:
            return self.kubeconfig
        if not os.environ.get("KUBECONFIG") and _is_file(self.local_kubeconfig):
            return self.local_kubeconfig
        return default_path()

    def tunnel(self, *, local_port: int = 0) -> RemoteAccess:
        """The way through SSH to the cluster, opened once; for `via`, or to the lab's master."""
        from ktool.remote_access import RemoteAccess

        if self._remote is None:
            path = str(self.kubeconfig or self.data_dir / "admin.kubeconfig")
            if self.via:
                from provision.ssh import config
                from provision.ssh.destination import Destination

                there = Destination.parse(self.via)
                self._remote = RemoteAccess.open(config.endpoint(there.host, there), path, local_port=local_port)
            else:
                self._remote = _to_a_master(self.lab, path, local_port=local_port)
        return self._remote

    def close(self) -> None:
        """End the tunnel, if there is one."""
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def connection(self) -> Connection:
        """Where the cluster is and who we are there."""
        from kube.kubeconfig import connect

        return connect(self.kubeconfig_path())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client of the cluster; a connection that fails becomes an error that says what to do."""
        from kube.client import Client
        from kube.errors import KtoolError
        from kube.kubeconfig import connect
        from kube.transport import HTTPTransport

        path = self.kubeconfig_path()
        connection = connect(path)
        client = Client(HTTPTransport(connection), user_agent="ktool-cli")
        try:
            yield client
        except ConnectionError as error:
            at = self._remote.server if self._remote is not None else f"{connection.server} (from {path})"
            raise KtoolError(
                "the API server cannot be reached",
                found=str(error),
                wanted=f"an API server at {at}",
                mend="`ktool up` starts this machine's cluster; --kubeconfig names another one."
                if self._remote is None
                else "`ktool status` on that machine says how its master does.",
            ) from error
        finally:
            await client.close()

    def namespace(self, chosen: str) -> str:
        """The namespace to use where the user may have named none."""
        return chosen or self.connection().namespace or "default"

    def _of_lab(self) -> Path:
        from kube.errors import KtoolError
        from provision.inventory.node_access import find_lab

        state, lab = find_lab(self.lab, Path.cwd())
        if not state.kubeconfig.exists():
            raise KtoolError(
                f"the lab {state.path.name} has no cluster yet",
                found=f"no {state.kubeconfig}",
                wanted="a lab that was created from here",
                mend=f"ktool lab create -i {self.lab}",
            )
        if lab is not None and _needs_tunnel(lab):
            return self.tunnel().kubeconfig
        return state.kubeconfig


def _needs_tunnel(lab: Lab) -> bool:
    """Whether the master's API server cannot be reached directly: behind a jump host, or behind its own network's
    address translation."""
    from provision.inventory.lab import NetworkMode, ProviderName

    master = next(iter(lab.masters), None)
    if master is None:
        return False
    hidden = master.provider is ProviderName.LIBVIRT and lab.network.mode is NetworkMode.USER
    return hidden or bool(master.ssh.jump)


def _to_a_master(named: str, path: str, *, local_port: int) -> RemoteAccess:
    """The way to the first of a lab's masters that can be reached. KtoolError of the first one if none can."""
    from ktool.remote_access import RemoteAccess
    from kube.errors import KtoolError
    from provision.inventory.node_access import find_lab
    from provision.providers.factory import providers_for

    state, lab = find_lab(named, Path.cwd())
    if lab is None or not lab.masters:
        raise KtoolError(
            f"how to reach the master of the lab {named} is not known",
            found="a lab's name" if lab is None else "no masters",
            wanted="the inventory's path, which says it",
            mend="ktool --lab inventories/FILE.yml ...",
        )
    providers = providers_for(lab, state)
    failures = []
    for master in lab.masters:
        try:
            endpoint = providers[master.provider].endpoint(master, lambda line: None, timeout=20.0)
            return RemoteAccess.open(endpoint, path, local_port=local_port)
        except KtoolError as error:
            failures.append(error)
    raise failures[0]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return False


# Seconds that an interrupted command may take to end what it has begun; labs' steps bear being cut short.
INTERRUPTED_SECONDS = 8.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end."""
    return asyncio.run(_interruptible(work))


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Python waits for the threads of an interrupted program without a limit, and one may wait for minutes for a
    machine to boot."""
    try:
        return await work
    except asyncio.CancelledError:
        timer = threading.Timer(INTERRUPTED_SECONDS, os._exit, [130])
        timer.daemon = True
        timer.start()
        raise


pass_session = click.make_pass_decorator(Session)
