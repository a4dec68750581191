"""The user's SSH configuration, as far as it says where a host is and how to get in (ssh_config(5)).

Read by paramiko: HostName, User, Port, IdentityFile, IdentitiesOnly, ProxyJump, UserKnownHostsFile, with
Host and Match; Include is put in its place here. ProxyCommand is refused by name: ignored, it would end in a
puzzling timeout.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kube.errors import KtoolError
from provision.ssh import known_hosts
from provision.ssh.destination import Destination
from provision.ssh.endpoint import Endpoint

if TYPE_CHECKING:
    from paramiko import SSHConfig

FILES = (Path("~/.ssh/config"), Path("/etc/ssh/ssh_config"))
_INCLUDE = re.compile(r"^\s*include[\s=]+(.+)$", re.IGNORECASE)
_DEPTH = 8


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What the configuration says of one host; empty where it says nothing."""

    address: str = ""
    user: str = ""
    port: int = 0
    identity_files: tuple[Path, ...] = ()
    identities_only: bool = False
    jump: tuple[str, ...] = ()
    known_hosts: tuple[Path, ...] = ()


def settings(host: str, files: tuple[Path, ...] = FILES) -> HostSettings:
    """What the user's configuration says of a host. KtoolError if it cannot be read, or wants a ProxyCommand."""
    found = _load(files).lookup(host)
    command = found.get("proxycommand", "none")
    if command.lower() != "none" and not found.get("proxyjump"):
        raise KtoolError(
            f"{host}: ktool does not use the ProxyCommand of the SSH configuration",
            found=f"ProxyCommand {command}",
            wanted="ProxyJump, or a machine that is reached directly",
            mend=f"for Host {host} in ~/.ssh/config: ProxyJump USER@GATEWAY and ProxyCommand none",
        )
    jump = found.get("proxyjump", "none")
    port = found.get("port", "")
    address = found.get("hostname", "")
    return HostSettings(
        address=address if address != host else "",
        user=found.get("user", ""),
        port=int(port) if port.isdigit() else 0,
        identity_files=tuple(Path(path).expanduser() for path in found.get("identityfile", ())),
        identities_only=found.get("identitiesonly", "no").lower() == "yes",
        jump=() if jump.lower() == "none" else tuple(part.strip() for part in jump.split(",")),
        known_hosts=tuple(Path(path).expanduser() for path in found.get("userknownhostsfile", "").split()),
    )


def endpoint(
    name: str,
    destination: Destination,
    *,
    user: str = "",
    jump: tuple[str, ...] | None = None,
    files: tuple[Path, ...] = FILES,
    _depth: int = 0,
) -> Endpoint:
    """The endpoint that a destination means with the user's configuration.

    What the destination says counts before the configuration, `user` after it (empty: the name of who runs this).
    `jump`: hosts to pass through instead of the configured ones.
    """
    said = settings(destination.host, files)
    hops = said.jump if jump is None else jump
    through: Endpoint | None = None
    for hop in hops if _depth < _DEPTH else ():
        where = Destination.parse(hop)
        # Only the first hop may have hops of its own: the others are reached from the one before.
        made = endpoint(where.host, where, jump=None if through is None else (), files=files, _depth=_depth + 1)
        through = made if through is None else replace(made, jump=through)
    return Endpoint(
        name=name,
        address=said.address or destination.host,
        port=destination.port or said.port or known_hosts.SSH_PORT,
        user=destination.user or said.user or user or _me(),
        identity_files=said.identity_files,
        known_hosts=(*said.known_hosts, *known_hosts.USERS_FILES) if said.known_hosts else (),
        jump=through,
        agent=not said.identities_only,
    )


def _me() -> str:
    import getpass

    return getpass.getuser()


@cache
def _load(files: tuple[Path, ...]) -> SSHConfig:
    from paramiko import ConfigParseError, SSHConfig

    config = SSHConfig()
    for file in files:
        try:
            config.parse(io.StringIO(_text(file.expanduser(), file.expanduser().parent, 0)))
        except (ConfigParseError, ValueError) as error:
            raise KtoolError(
                f"the SSH configuration {file} cannot be read",
                found=str(error),
                wanted="ssh_config(5)",
                mend=f"ssh -G -F {file} HOST says more",
            ) from error
    return config


def _text(file: Path, folder: Path, depth: int) -> str:
    """A file's text with what it includes in its place."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return ""
    found = []
    for line in lines:
        include = _INCLUDE.match(line)
        if include is None:
            found.append(line)
            continue
        for pattern in include.group(1).split() if depth < _DEPTH else ():
            path = Path(pattern.strip('"')).expanduser()
            base = path if path.is_absolute() else folder / path
            for included in sorted(base.parent.glob(base.name)):
                found.append(_text(included, folder, depth + 1))
    return "\n".join(found) + "\n"
