"""What an agent notes down about itself before it makes anything: enough to take everything back later (`reset`).

The options of the running agent are not known to whoever cleans up after it, nor is the name under which it made its
containers. The lock says whether an agent is using the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kube.errors import KtoolError
from kube.files import write_atomic

RECORD_FILE = "agent.json"
LOCK_FILE = "agent.lock"


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How an agent was run. `cluster` labels its containers on the engine."""

    cluster: str
    node_name: str
    runtime: str
    docker_socket: str
    network: str
    bridge: str
    cluster_cidr: str
    service_cidr: str
    cgroup_parent: str
    proxy: bool
    routes: bool = False


def read(data_dir: Path) -> AgentRecord | None:
    """The record of this directory's agent; None if it never ran. KtoolError if it cannot be read."""
    path = data_dir / RECORD_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=AgentRecord)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise KtoolError(f"the agent's record {path} cannot be read", found=str(error)) from error


def write(data_dir: Path, record: AgentRecord) -> None:
    """Note a record down."""
    write_atomic(data_dir / RECORD_FILE, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


@contextlib.contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the directory for this process alone; KtoolError if another agent has it."""
    data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KtoolError(
                "another agent uses this data directory",
                found=str(data_dir),
                mend="Stop it first, or give this one another --data-dir.",
            ) from error
        yield
    finally:
        os.close(descriptor)
