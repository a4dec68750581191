"""Commands of the machine: run with a time limit, and their failure told as a KtoolError."""

from __future__ import annotations

import logging
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Protocol

from kube.errors import KtoolError

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0


class CommandFailed(KtoolError):
    """A command ended with a status other than 0, could not be started or took too long.

    `status` is the exit status, or None where there is none.
    """

    def __init__(self, argv: Sequence[str], status: int | None, output: str) -> None:
        ended = "did not end" if status is None else f"exit status {status}"
        last = output.strip().splitlines()[-3:]
        super().__init__(
            f"the command `{shlex.join(argv)}` failed",
            found="; ".join([ended, *last]),
            wanted="exit status 0",
        )
        self.status = status
        self.output = output


class Runner(Protocol):
    """What runs commands; tests put a recorder here."""

    def __call__(
        self, argv: Sequence[str], *, timeout: float = ..., stdin: str = ..., env: Mapping[str, str] | None = ...
    ) -> str:
        """Run `argv` and give its standard output; CommandFailed unless it ended well within `timeout` seconds."""
        ...


def run(
    argv: Sequence[str],
    *,
    timeout: float = TIMEOUT_SECONDS,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command without a shell; its standard output.

    Raises CommandFailed, whose `found` ends with the last lines that the command said.
    """
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, text=True, timeout=timeout, env=env, check=False
        )
    except FileNotFoundError as error:
        raise CommandFailed(argv, None, f"{error.filename}: no such command") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(argv, None, f"no end within {timeout:g} s") from error
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr or done.stdout)
    return done.stdout


def attempt(runner: Runner, argv: Sequence[str]) -> str | None:
    """The output of a command that a machine need not have (or whose kernel part it may lack); None if it failed."""
    try:
        return runner(argv)
    except CommandFailed as failed:
        logger.debug("%s", failed)
        return None
