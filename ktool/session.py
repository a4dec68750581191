"""What every command gets: where the cluster is, and a client for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kube.client import Client
    from kube.kubeconfig import Connection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    """The global options of one call of ktool."""

    kubeconfig: Path | None
    data_dir: Path

    @property
    def local_kubeconfig(self) -> Path:
        """The administrator's kubeconfig of this machine's cluster."""
        return self.data_dir / "admin.kubeconfig"

    def kubeconfig_path(self) -> Path:
        """The kubeconfig that counts: the option, $KUBECONFIG, this machine's cluster, ~/.kube/config."""
        from kube.kubeconfig import default_path

        if self.kubeconfig is not None:
            return self.kubeconfig
        if not os.environ.get("KUBECONFIG") and _is_file(self.local_kubeconfig):
            return self.local_kubeconfig
        return default_path()

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
            raise KtoolError(
                "the API server cannot be reached",
                found=str(error),
                wanted=f"an API server at {connection.server} (from {path})",
                mend="`ktool up` starts this machine's cluster; --kubeconfig names another one.",
            ) from error
        finally:
            await client.close()

    def namespace(self, chosen: str) -> str:
        """The namespace to use where the user may have named none."""
        from kube.kubeconfig import connect

        return chosen or connect(self.kubeconfig_path()).namespace or "default"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return False


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end."""
    return asyncio.run(work)


pass_session = click.make_pass_decorator(Session)
