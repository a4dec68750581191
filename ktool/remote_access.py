"""A cluster whose API server is reached through SSH: the remote kubeconfig, and a tunnel to the server that it names.

The tunnel's near end is a port on this machine's loopback. TLS goes through it from end to end: the server is checked
against the remote kubeconfig's CA by the name that stands there, and nobody gains anything by the open port but a
server that wants a certificate. The kubeconfig for it is a file in a folder of this process' own, so that everything
that takes a kubeconfig works with it, kubectl as well; both are gone at the end.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from provision.ssh.connection import Connection
    from provision.ssh.endpoint import Endpoint
    from provision.ssh.local import LocalConnection

LOOPBACK = "127.0.0.1"
REACH_SECONDS = 30.0
# Entries of a kubeconfig that name files: (section, singular, key).
_FILES = (
    ("clusters", "cluster", "certificate-authority"),
    ("users", "user", "client-certificate"),
    ("users", "user", "client-key"),
)


class RemoteAccess:
    """An open way to a cluster through SSH."""

    def __init__(self, shell: Connection | LocalConnection, folder: Path, server: str) -> None:
        self._shell = shell
        self._folder = folder
        self.server = server

    @classmethod
    def open(cls, endpoint: Endpoint, remote_kubeconfig: str, *, local_port: int = 0) -> RemoteAccess:
        """Connect, read the kubeconfig there, make the tunnel. Asks for passwords on the terminal. KtoolErrors."""
        from kube.errors import KtoolError
        from kube.kubeconfig import save
        from provision.ssh.prompt import terminal
        from provision.ssh.reach import reach

        shell = reach(endpoint, timeout=REACH_SECONDS, ask=terminal())
        folder = Path(tempfile.mkdtemp(prefix="ktool-via-", dir=_private_place()))
        try:
            where = f"{endpoint.name}:{remote_kubeconfig}"
            config = _with_data(_read(shell, remote_kubeconfig, where), shell, PurePosixPath(remote_kubeconfig).parent)
            entry = _current_cluster(config, where)
            server = str(entry.get("server", ""))
            url = urlsplit(server)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise KtoolError(f"{where} names no API server", found=repr(server), wanted="an https:// URL")
            remote_port = url.port or (443 if url.scheme == "https" else 80)
            try:
                host, port = shell.forward_local(url.hostname, remote_port, local_port=local_port)
            except OSError as error:
                raise KtoolError(
                    f"port {local_port} of this machine cannot be used for the tunnel",
                    found=error.strerror or str(error),
                    wanted="a port that is free",
                    mend="choose another --port, or leave it out",
                ) from error
            netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            entry["server"] = url._replace(netloc=netloc).geturl()
            if url.hostname != host:
                entry.setdefault("tls-server-name", url.hostname)
            save(folder / "kubeconfig", config)
        except BaseException:
            shell.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(shell, folder, f"{server} through {endpoint.user}@{endpoint.name}")

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig that leads through the tunnel."""
        return self._folder / "kubeconfig"

    @property
    def active(self) -> bool:
        """Whether the SSH connection still stands."""
        return self._shell.active

    def close(self) -> None:
        """End the tunnel and remove its kubeconfig."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._shell.close()


def _private_place() -> str | None:
    """A folder in memory, since the file holds the administrator's key; None: wherever temporary files go."""
    for place in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):  # noqa: S108 (a folder of our own is made there)
        if place and os.access(place, os.W_OK | os.X_OK):
            return place
    return None


def _read(shell: Connection | LocalConnection, path: str, where: str) -> dict[str, Any]:
    import yaml

    from kube.errors import KtoolError

    try:
        config = yaml.safe_load(_get(shell, path))
    except KtoolError as error:
        raise KtoolError(
            "the kubeconfig on the other machine cannot be read",
            found=f"{where}: {error.found}",
            wanted="the administrator's kubeconfig of a master",
            mend="see that the machine is a master (ktool up), or name the file there with --kubeconfig",
        ) from error
    except yaml.YAMLError:
        config = None  # the parser quotes what may be secret
    if not isinstance(config, dict):
        raise KtoolError(f"{where} is no kubeconfig", found="something else", wanted="YAML with kind: Config")
    return config


def _get(shell: Connection | LocalConnection, path: str) -> bytes:
    """A file's content: as the user, who may be allowed to, otherwise as root."""
    from provision.ssh.shell import RemoteCommandFailed

    with contextlib.suppress(RemoteCommandFailed):
        return shell.get(path, sudo=False)
    return shell.get(path)


def _current_cluster(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The cluster that the current context means, to be changed in place."""
    from kube.errors import KtoolError

    contexts = {entry.get("name"): entry.get("context") or {} for entry in config.get("contexts") or ()}
    name = contexts.get(config.get("current-context"), {}).get("cluster")
    for entry in config.get("clusters") or ():
        if entry.get("name") == name and isinstance(entry.get("cluster"), dict):
            cluster: dict[str, Any] = entry["cluster"]
            return cluster
    raise KtoolError(f"{where} has no current context with a cluster", found=repr(config.get("current-context")))


def _with_data(config: dict[str, Any], shell: Connection | LocalConnection, folder: PurePosixPath) -> dict[str, Any]:
    """The kubeconfig with the content of files that it names: they are on the other machine."""
    for section, singular, key in _FILES:
        for entry in config.get(section) or ():
            inner = entry.get(singular) or {}
            if path := inner.pop(key, None):
                inner.setdefault(f"{key}-data", base64.b64encode(_get(shell, str(folder / path))).decode())
    for entry in config.get("users") or ():
        inner = entry.get("user") or {}
        if (path := inner.pop("tokenFile", None)) and not inner.get("token"):
            inner["token"] = _get(shell, str(folder / path)).decode(errors="replace").strip()
    return config
