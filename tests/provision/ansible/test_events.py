from __future__ import annotations

from typing import Any

import pytest

from provision.ansible.events import Failure, HostResult, RunEvent, TaskState, counted, event_of


def _event(kind: str, **data: Any) -> dict[str, Any]:
    return {"event": kind, "event_data": {"host": "w1", "task": "Node", "duration": 1.5, **data}}


@pytest.mark.parametrize(
    ("event", "state", "message"),
    [
        (_event("runner_on_start", duration=None), TaskState.STARTED, ""),
        (_event("runner_on_ok", res={"changed": False, "runtime": "abc"}), TaskState.OK, ""),
        (_event("runner_on_ok", res={"changed": True, "runtime": "abc"}), TaskState.CHANGED, "runtime abc"),
        (
            _event("runner_on_ok", res={"changed": True, "installed": ["nftables", "docker.io"]}),
            TaskState.CHANGED,
            "installed nftables, docker.io",
        ),
        (
            _event(
                "runner_on_ok",
                res={
                    "changed": True,
                    "steps": [
                        {"step": "docker", "phase": "unchanged", "detail": "24.0"},
                        {"step": "agent", "phase": "done", "detail": "node w1 is Ready"},
                    ],
                },
            ),
            TaskState.CHANGED,
            "node w1 is Ready",
        ),
        (_event("runner_on_skipped", res={}), TaskState.SKIPPED, ""),
        (_event("runner_on_failed", res={"msg": "no room"}), TaskState.FAILED, "no room"),
        (_event("runner_on_failed", res={"msg": "no room"}, ignore_errors=True), TaskState.OK, ""),
        (
            _event("runner_on_failed", res={"msg": "non-zero return code", "rc": 1, "stderr": "a\n\nno such user\n"}),
            TaskState.FAILED,
            "a; no such user",
        ),
        (
            _event("runner_on_failed", res={"msg": "MODULE FAILURE: See stdout", "rc": 1, "module_stdout": "oops"}),
            TaskState.FAILED,
            "oops",
        ),
        (_event("runner_on_failed", res={"msg": "Task failed: Action failed: no"}), TaskState.FAILED, "no"),
        (_event("runner_on_failed", res={}), TaskState.FAILED, "failed without a word"),
        (
            _event(
                "runner_on_unreachable",
                res={
                    "unreachable": True,
                    "msg": "Task failed: Failed to connect to the host via ssh: ssh: connect to host 10.0.0.1 port 22: "
                    "No route to host",
                },
            ),
            TaskState.UNREACHABLE,
            "ssh: connect to host 10.0.0.1 port 22: No route to host",
        ),
        (
            _event(
                "runner_on_unreachable",
                res={
                    "msg": "Failed to connect to the host via ssh: @@@@@@\n@ WARNING @\nHost key verification failed."
                },
            ),
            TaskState.UNREACHABLE,
            "Host key verification failed.",
        ),
    ],
)
def test_events(event: dict[str, Any], state: TaskState, message: str) -> None:
    found = event_of(event)
    assert found is not None
    assert (found.host, found.task, found.state, found.message) == ("w1", "Node", state, message)
    assert found.seconds == (0.0 if state is TaskState.STARTED else 1.5)


@pytest.mark.parametrize(
    "event",
    [
        {"event": "playbook_on_task_start", "event_data": {"task": "Node"}},
        {"event": "verbose", "stdout": "text"},
        {"event": "runner_on_ok", "event_data": {"task": "no host"}},
        {},
    ],
)
def test_what_is_of_no_host_is_no_event(event: dict[str, Any]) -> None:
    assert event_of(event) is None


def test_an_error_of_ktool_keeps_its_parts() -> None:
    error = {"what": "no memory", "found": "1 MiB", "wanted": "512 MiB", "mend": "more"}
    event = event_of(_event("runner_on_failed", res={"msg": "no memory (...)", "error": error}))
    assert event is not None
    told = counted(HostResult(), event).error("w1")
    assert told is not None
    assert (told.what, told.found, told.wanted, told.mend) == ("w1: no memory", "1 MiB", "512 MiB", "more")


def test_counting() -> None:
    result = HostResult()
    events = (
        RunEvent("a", "t1", TaskState.STARTED),
        RunEvent("a", "t1", TaskState.CHANGED, message="runtime abc"),
        RunEvent("a", "t2", TaskState.OK, remains=("packages: x",)),
        RunEvent("a", "t3", TaskState.SKIPPED),
    )
    for event in events:
        result = counted(result, event)
    assert result == HostResult(ok=2, changed=1, skipped=1, did=("runtime abc",), remains=("packages: x",))
    assert not result.failed
    assert result.error("a") is None
    failed = counted(result, RunEvent("a", "t4", TaskState.FAILED, message="no room"))
    assert failed.failures == (Failure("t4", "no room"),)
    assert str(failed.error("a")) == "a: no room (found: while: t4)"
    gone = counted(result, RunEvent("a", "t4", TaskState.UNREACHABLE, message="timed out"))
    assert "timed out" in str(gone.error("a"))
