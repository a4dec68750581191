"""Commands on a machine, built the same way however it is reached; subclasses say how a command line is executed."""

from __future__ import annotations

import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.ssh.errors import BecomeFailed
from provision.ssh.shell import (
    TIMEOUT_SECONDS,
    OnLine,
    RemoteCommandFailed,
    Result,
    command_line,
    put_script,
    shown,
)

# How much later than here the command is ended there, so that it is this side that tells of it.
GRACE_SECONDS = 2
LOCALE = "LC_ALL=C.UTF-8"


@dataclass(frozen=True, slots=True)
class Output:
    """What came of an execution. `status` is None if it took too long or was killed. `became`: sudo let it pass."""

    status: int | None
    stdout: bytes
    stderr: bytes
    became: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Become:
    """How to know what sudo says: `ask` is its prompt, `passed` the line that comes once it has let the command pass.

    Without these it would be guesswork whether a password is wanted (one that nobody asked for would go to the
    command itself) and whether a failure is sudo's or the command's.
    """

    password: str
    ask: str
    passed: str

    @classmethod
    def new(cls, password: str) -> Become:
        """With marks that no output has by accident."""
        mark = secrets.token_hex(8)
        return cls(password=password, ask=f"[sudo {mark}] ", passed=f"[passed {mark}]")

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` as root."""
        how = ["-S", "-p", self.ask] if self.password else ["-n"]
        return ["sudo", *how, "--", "sh", "-c", f'echo "{self.passed}" >&2; exec "$@"', "sh", *argv]


class Commands(ABC):
    """The part of a `Shell` that all have in common."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The machine's name."""

    @abstractmethod
    def _become(self) -> Become | None:
        """How to become root; None where that is not needed or not wanted."""

    def _learn(self) -> bool:
        """Find out another password for becoming root; whether there is one to try."""
        return False

    @abstractmethod
    def _execute(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | Path,
        timeout: float,
        become: Become | None,
        on_line: OnLine | None,
    ) -> Output:
        """Execute a command line for at most `timeout` seconds."""

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
        """See `Shell.run`."""
        output = self._run(command, timeout=timeout, stdin=stdin, sudo=sudo, check=check, on_line=on_line, env=env)
        return Result(
            0 if output.status is None else output.status,
            output.stdout.decode(errors="replace"),
            output.stderr.decode(errors="replace"),
        )

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
        """See `Shell.put`."""
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        self._run(put_script(remote, size=size, mode=mode, owner=owner), timeout=timeout, stdin=source, sudo=sudo)

    def get(self, remote: str, *, sudo: bool = True, timeout: float = 600.0) -> bytes:
        """See `Shell.get`."""
        return self._run(["cat", "--", remote], timeout=timeout, sudo=sudo).stdout

    def _run(
        self,
        command: Sequence[str] | str,
        *,
        timeout: float,
        sudo: bool,
        stdin: bytes | Path = b"",
        check: bool = True,
        on_line: OnLine | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Output:
        argv = [
            *("env", LOCALE, *(f"{key}={value}" for key, value in (env or {}).items())),
            *("timeout", "-k", "5", str(math.ceil(timeout) + GRACE_SECONDS)),
            *command_line(command),
        ]
        while True:
            become = self._become() if sudo else None
            line = argv if become is None else ["env", LOCALE, *become.wrap(argv)]
            output = self._execute(line, stdin=stdin, timeout=timeout, become=become, on_line=on_line)
            if become is None or output.became or output.status is None:
                break
            if not self._learn():
                raise self._not_root(become, output.stderr.decode(errors="replace"))
        if output.status is None or (check and output.status != 0):
            said = (output.stdout + b"\n" + output.stderr).decode(errors="replace")
            raise RemoteCommandFailed(self.name, shown(command), output.status, said)
        return output

    def _not_root(self, become: Become, said: str) -> BecomeFailed:
        lines = [line for line in said.replace(become.ask, "").splitlines() if line.strip()]
        return BecomeFailed(
            self.name,
            "cannot become root",
            found=lines[-1].strip() if lines else "sudo failed",
            wanted="root, or a user whom sudo lets run commands without a password or with the one given",
            mend="let the user in by sudoers (USER ALL=(ALL) NOPASSWD: ALL), set ansible_become_password, "
            "or set ansible_user=root",
        )
