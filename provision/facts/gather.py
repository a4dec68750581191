"""Taking a look at a machine: the probe goes there as text and comes back as facts, in one exchange."""

from __future__ import annotations

import inspect
import time
from functools import cache
from typing import Any

import msgspec

from kube.errors import KtoolError
from provision.facts import probe
from provision.facts.facts import RemoteFacts
from provision.facts.network import network
from provision.ssh.errors import BecomeFailed
from provision.ssh.shell import Result, Shell

# A guest without hardware help takes seconds to start Python.
TIMEOUT_SECONDS = 60.0
NO_SUCH_COMMAND = 127
# msgspec learns a type when it first converts to it, and crashes where several threads are the first. Machines are
# looked at side by side, so it is made to learn this one here.
msgspec.json.Decoder(RemoteFacts)


class PythonMissing(KtoolError):
    """The machine has no Python 3, so nothing can be known of it, and nothing of ktool can run there."""


def gather(shell: Shell, *, timeout: float = TIMEOUT_SECONDS) -> RemoteFacts:
    """The facts of a machine. As root where the user may become it, else as far as the user can see (`sudo` False).

    PythonMissing where there is no python3; other KtoolErrors if the connection or the probe fails.
    """
    sudo = True
    try:
        began, result, ended = _probe(shell, sudo=True, timeout=timeout)
    except BecomeFailed:
        sudo = False
        began, result, ended = _probe(shell, sudo=False, timeout=timeout)
    if result.status != 0:
        raise _failed(shell.name, result)
    try:
        # The probe says one line; what comes before it is a login script's that talks to everybody.
        seen = understood(result.stdout.rstrip().rpartition("\n")[2])
    except msgspec.MsgspecError as error:
        raise KtoolError(
            f"{shell.name}: what it says of itself cannot be understood",
            found=str(error),
            wanted="the probe's JSON",
            mend="tell us; meanwhile leave this machine out with --limit",
        ) from error
    return msgspec.structs.replace(
        seen,
        sudo=sudo and seen.euid == 0,
        # The clock is read between the two; where, nobody knows.
        skew=seen.time - (began + ended) / 2,
        skew_error=(ended - began) / 2,
        reached_at=getattr(getattr(shell, "endpoint", None), "address", ""),
    )


def understood(text: str) -> RemoteFacts:
    """The facts in what the probe says. MsgspecError if it is something else."""
    found = msgspec.json.decode(text, type=dict[str, Any])
    problems = list(found.get("problems", ()))
    try:
        found |= network(found.pop("ip", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"network: {type(error).__name__}: {error}")
    docker = dict(found.get("docker") or {})
    if (info := docker.pop("info", None)) is not None:
        docker |= _engine(info)
    try:
        manifest = msgspec.json.decode(found.pop("manifest", "") or "{}")
    except msgspec.DecodeError:
        manifest = {}
    runtime = manifest if isinstance(manifest, dict) else {}
    return msgspec.convert({**found, "docker": docker, "runtime": runtime, "problems": problems}, RemoteFacts)


def _engine(info: str) -> dict[str, Any]:
    """What Docker says of itself (`/info` of its API)."""
    try:
        said = msgspec.json.decode(info, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        return {"error": str(error)}
    swarm = (said.get("Swarm") or {}).get("LocalNodeState", "") == "active"
    return {"version": said.get("ServerVersion", ""), "swarm": swarm}


def _probe(shell: Shell, *, sudo: bool, timeout: float) -> tuple[float, Result, float]:
    began = time.time()
    # -I: without the user's own modules; -S: without those of the site, which takes time
    result = shell.run(["python3", "-IS", "-"], stdin=_source(), sudo=sudo, check=False, timeout=timeout)
    return began, result, time.time()


@cache
def _source() -> bytes:
    return inspect.getsource(probe).encode()


def _failed(name: str, result: Result) -> KtoolError:
    lines = [line for line in result.stderr.strip().splitlines() if line.strip()]
    said = lines[-1].strip() if lines else f"exit status {result.status}"
    if result.status == NO_SUCH_COMMAND:
        return PythonMissing(
            f"{name}: there is no python3",
            found=said,
            wanted="Python 3, which Ansible and ktool's node runtime need",
            mend="on the machine: apt-get install python3 (or dnf install python3)",
        )
    return KtoolError(
        f"{name}: it could not be looked at",
        found=said,
        wanted="a Python from 3.6 on that runs a script from its standard input",
        mend="on the machine: python3 --version",
    )
