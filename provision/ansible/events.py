"""What Ansible tells while it runs, as typed events, and what came of it for each host. Pure functions over data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from kube.errors import KtoolError

MESSAGE_LIMIT = 1000


class TaskState(StrEnum):
    """What an event says about its task on its host."""

    STARTED = "started"
    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One task on one host. `seconds` is how long it took, 0 when it starts; `message` why it failed, or what it did.

    `error` has the fields of a KtoolError where ktool itself failed on the machine; `remains` what a reset left there.
    """

    host: str
    task: str
    state: TaskState
    seconds: float = 0.0
    message: str = ""
    error: Mapping[str, str] = field(default_factory=dict)
    remains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that failed on a host."""

    task: str
    message: str
    error: Mapping[str, str] = field(default_factory=dict)

    def as_error(self, host: str) -> KtoolError:
        """As an error for people; ktool's own on the machine keeps its parts."""
        if what := self.error.get("what"):
            sides = {name: self.error.get(name, "") for name in ("found", "wanted", "mend")}
            return KtoolError(f"{host}: {what}", **sides)
        return KtoolError(f"{host}: {self.message}", found=f"while: {self.task}")


@dataclass(frozen=True, slots=True)
class HostResult:
    """What a run did on a host: numbers of tasks, failures, and why it could not be reached (empty: it could).

    `did` says in words what was changed, `remains` what a reset left on the machine.
    """

    ok: int = 0
    changed: int = 0
    skipped: int = 0
    failures: tuple[Failure, ...] = ()
    unreachable: str = ""
    did: tuple[str, ...] = ()
    remains: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the host is not as it should be."""
        return bool(self.failures or self.unreachable)

    def error(self, host: str) -> KtoolError | None:
        """Why the host is not as it should be, for people; None if it is."""
        if self.unreachable:
            return KtoolError(f"{host} cannot be reached over SSH", found=self.unreachable, wanted="a connection")
        return self.failures[-1].as_error(host) if self.failures else None


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run. `seconds` it took; `log` is the folder with all that Ansible said."""

    hosts: Mapping[str, HostResult]
    seconds: float
    log: Path

    @property
    def changed(self) -> int:
        """Tasks that changed something, on all hosts."""
        return sum(host.changed for host in self.hosts.values())

    @property
    def failed(self) -> dict[str, HostResult]:
        """Hosts that are not as they should be."""
        return {name: host for name, host in self.hosts.items() if host.failed}


_STATES = {
    "runner_on_start": TaskState.STARTED,
    "runner_on_ok": TaskState.OK,
    "runner_on_failed": TaskState.FAILED,
    "runner_on_unreachable": TaskState.UNREACHABLE,
    "runner_on_skipped": TaskState.SKIPPED,
}


def event_of(event: Mapping[str, Any]) -> RunEvent | None:
    """An event of ansible-runner; None for what is not about a task on a host."""
    state = _STATES.get(event.get("event", ""))
    data = event.get("event_data") or {}
    if state is None or not data.get("host"):
        return None
    found = data.get("res") or {}
    message, error = "", {}
    if state is TaskState.OK and found.get("changed"):
        state = TaskState.CHANGED
    if state is TaskState.FAILED and data.get("ignore_errors"):
        state = TaskState.OK
    elif state is TaskState.FAILED:
        message = failure_message(found)
        error = {name: text for name, text in (found.get("error") or {}).items() if isinstance(text, str)}
    elif state is TaskState.UNREACHABLE:
        message = unreachable_reason(str(found.get("msg") or ""))
    elif state is TaskState.CHANGED:
        message = change_message(found)
    return RunEvent(
        host=str(data["host"]),
        task=str(data.get("task") or ""),
        state=state,
        seconds=float(data.get("duration") or 0.0),
        message=message,
        error=error,
        remains=tuple(map(str, found.get("remains") or ())),
    )


def failure_message(found: Mapping[str, Any]) -> str:
    """Why a task failed, from its result: the module's own words, a command's last ones where it has said nothing."""
    message = str(found.get("msg") or "")
    if (not message or message.startswith("non-zero return code")) and (said := _last(found)):
        message = said
    if "rc" in found and "MODULE FAILURE" in message:
        message = _last(found) or message
    if items := [one for one in found.get("results") or () if one.get("failed")]:
        message = "; ".join(failure_message(one) for one in items)
    message = re.sub(r"^Task failed: (Action failed: |Module failed: )?", "", message.strip())
    return " ".join(message.split())[:MESSAGE_LIMIT] or "failed without a word"


def _last(found: Mapping[str, Any]) -> str:
    said = str(found.get("stderr") or found.get("module_stderr") or found.get("module_stdout") or "")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return "; ".join(lines[-3:])


def unreachable_reason(message: str) -> str:
    """Why a host cannot be reached, from what ssh said."""
    text = re.sub(r"^(Task failed: )?(Failed to connect to the host via ssh: )?", "", message.strip())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("@", "Warning:"))]
    return " ".join(lines[-2:])[:MESSAGE_LIMIT] or "no connection"


def change_message(found: Mapping[str, Any]) -> str:
    """What a task changed, in a few words; empty if it does not say."""
    steps = [step for step in found.get("steps") or () if isinstance(step, Mapping)]
    said = [str(step.get("detail") or step.get("step")) for step in steps if step.get("phase") == "done"]
    if installed := found.get("installed"):
        said.append("installed " + ", ".join(map(str, installed)))
    if runtime := found.get("runtime"):
        said.append(f"runtime {runtime}")
    return "; ".join(said)[:MESSAGE_LIMIT]


def counted(result: HostResult, event: RunEvent) -> HostResult:
    """A host's result after one more event."""
    if event.remains:
        result = replace(result, remains=(*result.remains, *event.remains))
    match event.state:
        case TaskState.OK:
            return replace(result, ok=result.ok + 1)
        case TaskState.CHANGED:
            did = (*result.did, event.message or event.task)
            return replace(result, ok=result.ok + 1, changed=result.changed + 1, did=did)
        case TaskState.SKIPPED:
            return replace(result, skipped=result.skipped + 1)
        case TaskState.FAILED:
            return replace(result, failures=(*result.failures, Failure(event.task, event.message, event.error)))
        case TaskState.UNREACHABLE:
            return replace(result, unreachable=event.message)
        case TaskState.STARTED:
            return result


def final(result: HostResult, host: str, event: Mapping[str, Any]) -> HostResult:
    """A host's result with the numbers of Ansible's own recap, which knows what tasks with `no_log` changed."""
    if event.get("event") != "playbook_on_stats":
        return result
    data = event.get("event_data") or {}
    ok, changed, skipped = (int((data.get(name) or {}).get(host, 0)) for name in ("ok", "changed", "skipped"))
    return replace(result, ok=ok, changed=changed, skipped=skipped)
