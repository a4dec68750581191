"""Options of logs, which container is meant, and what of its lines is given."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from agent.kubelet.server.container_logs import LogOptions, find, parse, read
from agent.runtime.runtime import ContainerState, ContainerStatus, LogLine, Runtime, StreamName
from kube import objects
from kube.models import core_v1
from kube.status import ApiError

NOW = 1_750_000_000.0
OUT, ERR = StreamName.STDOUT, StreamName.STDERR


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({}, LogOptions()),
        ({"follow": "true", "previous": "1", "timestamps": "True"}, LogOptions(True, True, True)),
        ({"tailLines": "0", "limitBytes": "5"}, LogOptions(tail_lines=0, limit_bytes=5)),
        ({"sinceSeconds": "60"}, LogOptions(since=NOW - 60)),
        ({"sinceTime": "2025-06-15T15:06:40Z"}, LogOptions(since=NOW)),
        ({"stream": "Stderr"}, LogOptions(stream=ERR)),
        ({"stream": "All", "container": "main"}, LogOptions()),
    ],
)
def test_options(query: dict[str, str], wanted: LogOptions) -> None:
    assert parse(query, now=NOW) == wanted


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"tailLines": "-1"}, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ({"limitBytes": "0"}, "limitBytes: Invalid value: 0: must be greater than or equal to 1"),
        ({"sinceSeconds": "x"}, "sinceSeconds"),
        ({"sinceTime": "yesterday"}, "sinceTime"),
        ({"sinceSeconds": "1", "sinceTime": "2025-06-15T15:06:40Z"}, "at most one of"),
        ({"stream": "both"}, "Unsupported value"),
    ],
)
def test_wrong_options(query: dict[str, str], message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        parse(query, now=NOW)
    assert caught.value.code == 422


def pod(**state: Any) -> core_v1.Pod:
    statuses = [{"name": "main", "state": state}] if state else []
    data = {
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"containers": [{"name": "main"}]},
        "status": {"containerStatuses": statuses},
    }
    return objects.from_dict(data, core_v1.Pod)


def container(state: ContainerState) -> ContainerStatus:
    return ContainerStatus("c1", "s1", "main", 0, state, "x", "x", datetime.now(UTC), {}, {})


@pytest.mark.parametrize(
    ("its_pod", "found", "previous", "message"),
    [
        (pod(), None, False, 'container "main" in pod "web" is waiting to start: ContainerCreating'),
        (pod(waiting={"reason": "PodInitializing"}), None, False, "is waiting to start: PodInitializing"),
        (pod(waiting={"reason": "ImagePullBackOff"}), None, False, "trying and failing to pull image"),
        (pod(waiting={"reason": "CreateContainerConfigError"}), None, False, "CreateContainerConfigError"),
        (pod(terminated={"exitCode": 1}), None, False, "is terminated, and its log is gone"),
        (pod(), container(ContainerState.CREATED), False, "is waiting to start: ContainerCreating"),
        (pod(), None, True, 'previous terminated container "main" in pod "web" not found'),
    ],
)
def test_no_log_yet(its_pod: core_v1.Pod, found: ContainerStatus | None, previous: bool, message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        find(its_pod, "main", found, previous=previous)
    assert caught.value.code == 400


def test_found_and_unknown() -> None:
    running = container(ContainerState.RUNNING)
    assert find(pod(), "main", running, previous=False) is running
    with pytest.raises(ApiError, match='container "other" in pod "web" is not available'):
        find(pod(), "other", running, previous=False)


LINES = [
    LogLine(OUT, "T1", b"one\n"),
    LogLine(ERR, "T2", b"two\n"),
    LogLine(OUT, "T3", b"long"),
    LogLine(OUT, "T4", b" line\n"),
    LogLine(OUT, "T5", b"end"),
]


class Tape:
    """A runtime that has one log."""

    def __init__(self) -> None:
        self.closed = False
        self.asked: dict[str, Any] = {}

    async def logs(self, container_id: str, **options: Any) -> AsyncGenerator[LogLine, None]:
        self.asked = options
        try:
            for line in LINES:
                yield line
        finally:
            self.closed = True


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (LogOptions(), b"one\ntwo\nlong line\nend"),
        (LogOptions(follow=True), b"one\ntwo\nlong line\nend"),
        (LogOptions(timestamps=True), b"T1 one\nT2 two\nT3 long line\nT5 end"),
        (LogOptions(stream=ERR), b"two\n"),
        (LogOptions(stream=OUT), b"one\nlong line\nend"),
        (LogOptions(limit_bytes=6), b"one\ntw"),
        (LogOptions(limit_bytes=100), b"one\ntwo\nlong line\nend"),
        (LogOptions(limit_bytes=5, timestamps=True), b"T1 on"),
    ],
)
async def test_lines(options: LogOptions, wanted: bytes) -> None:
    tape = Tape()
    assert b"".join([piece async for piece in read(cast(Runtime, tape), "c1", options)]) == wanted
    assert tape.closed


async def test_what_the_runtime_is_asked() -> None:
    tape = Tape()
    options = LogOptions(follow=True, tail_lines=3, since=NOW)
    pieces = [piece async for piece in read(cast(Runtime, tape), "c1", options)]
    assert pieces == [line.data for line in LINES], "each line at once"
    assert tape.asked == {"follow": True, "tail_lines": 3, "since": datetime.fromtimestamp(NOW, UTC)}
