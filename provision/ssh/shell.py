"""What can be done with a machine once one is on it, whichever way one came: run, put, get, forward, close.

`Connection` does it over SSH, `LocalConnection` on this machine. Commands run by the machine's own shell, so
everything here is quoted for POSIX shells; what they need on the other side is coreutils.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from provision.command import CommandFailed

TIMEOUT_SECONDS = 60.0
OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: exit status, and what it wrote."""

    status: int
    stdout: str
    stderr: str


class RemoteCommandFailed(CommandFailed):
    """A command on a machine ended badly or not at all (`status` None). `machine` is its name."""

    def __init__(self, machine: str, argv: Sequence[str], status: int | None, output: str) -> None:
        super().__init__(argv, status, output)
        self.machine = machine
        self.what = f"{machine}: {self.what}"


@runtime_checkable
class Shell(Protocol):
    """A machine on which commands can be run. Methods block, and several threads may call them at once."""

    @property
    def name(self) -> str:
        """The machine's name, for messages."""
        ...

    def run(
        self,
        command: Sequence[str] | str,
        *,
        timeout: float = TIMEOUT_SECONDS,
        stdin: bytes = b"",
        sudo: bool = True,
        check: bool = True,
        on_line: OnLine | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a command (a list of arguments) or a script (text, by `sh`), as root if `sudo`.

        With `check`, RemoteCommandFailed unless the status is 0. It ends after `timeout` seconds at the latest, there
        and here. `on_line` gets each line of output as it comes. `env` is no place for secrets (it is seen in the
        list of processes); `stdin` is.
        """
        ...

    def put(
        self,
        source: bytes | Path,
        remote: str,
        *,
        mode: int = 0o644,
        owner: str = "",
        sudo: bool = True,
        timeout: float = 600.0,
    ) -> None:
        """Write a file (its folder is made) in one step: whole or not at all, and never readable to more than `mode`
        says. `owner` as chown(1) takes it; empty: who writes it."""
        ...

    def get(self, remote: str, *, sudo: bool = True, timeout: float = 600.0) -> bytes:
        """Content of a file; RemoteCommandFailed if it cannot be read."""
        ...

    def forward_local(self, remote_host: str, remote_port: int) -> tuple[str, int]:
        """An address on this machine's loopback whose connections come out on the machine and go to
        `remote_host:remote_port` from there; until close()."""
        ...

    def close(self) -> None:
        """End it; harmless to call again."""
        ...


def command_line(command: Sequence[str] | str) -> list[str]:
    """The arguments of a command, or of the shell that runs a script."""
    return ["sh", "-c", command] if isinstance(command, str) else list(command)


def shown(command: Sequence[str] | str) -> list[str]:
    """A command as errors show it: of a script the first line that says something."""
    if not isinstance(command, str):
        return list(command)
    lines = [line.strip() for line in command.splitlines() if line.strip()]
    return ["sh", "-c", lines[0] + (" ..." if len(lines) > 1 else "")] if lines else ["sh"]


def put_script(remote: str, *, size: int, mode: int, owner: str) -> str:
    """A script that writes its standard input to `remote`, in one step.

    A lost connection looks like the end of the input, so the size is compared before the file takes its place.
    """
    folder, base = posixpath.split(remote)
    beside = shlex.quote(posixpath.join(folder, f".{base}.XXXXXX"))
    lines = [
        "set -e; umask 077",
        f"[ -d {shlex.quote(folder or '.')} ] || (umask 022; mkdir -p {shlex.quote(folder or '.')})",
        f"t=$(mktemp {beside}); trap 'rm -f \"$t\"' EXIT",
        'cat > "$t"',
        f'n=$(wc -c < "$t"); [ "$n" -eq {size} ] || {{ echo "$n of {size} bytes arrived" >&2; exit 75; }}',
        *([f'chown {shlex.quote(owner)} "$t"'] if owner else []),
        f'chmod {mode:o} "$t"',
        f'mv -fT "$t" {shlex.quote(remote)}; trap - EXIT',
    ]
    return "\n".join(lines)
