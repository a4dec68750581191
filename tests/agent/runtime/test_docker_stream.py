"""Frames, lines, events and errors as Docker Engine sends them."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime import docker_events, docker_images, docker_logs, docker_network, docker_times
from agent.runtime.docker_engine import engine_error
from agent.runtime.docker_network import BridgeNetwork
from agent.runtime.docker_stream import read_frame
from agent.runtime.errors import (
    ContainerError,
    ImageNotFound,
    ImagePullError,
    NotFound,
    RuntimeUnavailable,
)
from agent.runtime.event import EventType
from agent.runtime.image import RegistryAuth
from agent.runtime.stream import LogLine, StreamName

pieces = st.lists(st.tuples(st.sampled_from(StreamName), st.binary(max_size=50)))


def framed(frames: list[tuple[StreamName, bytes]]) -> bytes:
    numbers = {StreamName.STDOUT: 1, StreamName.STDERR: 2}
    return b"".join(struct.pack(">BxxxL", numbers[name], len(data)) + data for name, data in frames)


async def read_all(data: bytes) -> list[tuple[StreamName, bytes]]:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    found = []
    while (frame := await read_frame(reader)) is not None:
        found.append(frame)
    return found


@given(pieces)
def test_frames_come_back_as_they_were(frames: list[tuple[StreamName, bytes]]) -> None:
    assert asyncio.run(read_all(framed(frames))) == frames


@given(st.integers(1, 12))
def test_a_stream_that_ends_inside_a_frame_has_broken_off(missing: int) -> None:
    with pytest.raises(RuntimeUnavailable, match="broke off"):
        asyncio.run(read_all(framed([(StreamName.STDOUT, b"hello")])[:-missing]))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"2026-01-02T03:04:05.000000001Z hello world\n", ("2026-01-02T03:04:05.000000001Z", b"hello world\n")),
        (b"2026-01-02T03:04:05.000000001Z \n", ("2026-01-02T03:04:05.000000001Z", b"\n")),
        (b"2026-01-02T03:04:05.000000001Z no end", ("2026-01-02T03:04:05.000000001Z", b"no end")),
    ],
)
def test_log_line(text: bytes, wanted: tuple[str, bytes]) -> None:
    assert docker_logs.parse_line(StreamName.STDERR, text) == LogLine(StreamName.STDERR, *wanted)


def test_log_query() -> None:
    plain = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "0"}
    assert docker_logs.query(follow=False, tail_lines=None, since=None) == plain
    since = datetime(1970, 1, 1, 1, 0, 1, 500, timezone(timedelta(hours=1)))
    assert docker_logs.query(follow=True, tail_lines=0, since=since) == {
        **plain,
        "follow": "1",
        "tail": "0",
        "since": "1.000500000",
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.1Z", datetime(2026, 1, 2, 3, 4, 5, 100000, UTC)),
        ("2026-01-02T03:04:05.123456789Z", datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)),
        ("2026-01-02T05:04:05.123456789+02:00", datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
    ],
)
def test_times(text: str, wanted: datetime | None) -> None:
    assert docker_times.parse(text) == wanted


@given(st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)))
def test_times_for_queries(time: datetime) -> None:
    seconds, fraction = docker_times.unix(time).split(".")
    assert (int(seconds), int(fraction)) == (int(time.timestamp() // 1), time.microsecond * 1000)


def event(action: str, **attributes: str) -> dict[str, Any]:
    return {"Action": action, "Actor": {"ID": "c1", "Attributes": attributes}, "timeNano": 1_500_000_000}


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("create", EventType.CREATED),
        ("start", EventType.STARTED),
        ("die", EventType.STOPPED),
        ("destroy", EventType.DELETED),
        ("oom", EventType.OOM),
        ("exec_start: sh", None),
    ],
)
def test_event_types(action: str, kind: EventType | None) -> None:
    found = docker_events.parse(event(action))
    assert (found.type if found else None) is kind


def test_event_fields() -> None:
    found = docker_events.parse(event("die", exitCode="3", app="web", **{"io.ktool.sandbox": "s1"}))
    assert found is not None
    assert (found.container_id, found.sandbox_id, found.exit_code) == ("c1", "s1", 3)
    assert found.labels["app"] == "web"
    assert found.timestamp == datetime(1970, 1, 1, 0, 0, 1, 500000, UTC)
    sandbox = docker_events.parse(event("start", exitCode="3"))
    assert sandbox is not None
    assert (sandbox.sandbox_id, sandbox.exit_code) == ("c1", None)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (404, "No such image: x:1", ImageNotFound),
        (404, "No such container: c1", NotFound),
        (404, "No such exec instance: e1", NotFound),
        (404, "network ktool not found", NotFound),
        (404, "exec: no-such: executable file not found in $PATH", ContainerError),
        (409, "Container c1 is not running", ContainerError),
        (500, "anything", ContainerError),
        (None, "", ContainerError),
    ],
)
def test_errors(status: int | None, message: str, kind: type[Exception]) -> None:
    error = engine_error("do it", status, message)
    assert type(error) is kind
    assert error.found == message


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("manifest for x:1 not found: manifest unknown", ImageNotFound),
        ("pull access denied for x, repository does not exist or may require 'docker login'", ImageNotFound),
        ("dial tcp: lookup registry on 127.0.0.1:53: server misbehaving", ImagePullError),
        ("unauthorized: authentication required", ImagePullError),
    ],
)
def test_pull_errors(message: str, kind: type[Exception]) -> None:
    assert type(docker_images.pull_error("x:1", message)) is kind


def test_credentials_go_into_the_header_and_nowhere_else() -> None:
    auth = RegistryAuth("me", "secret", "registry.example")
    assert "secret" not in repr(auth)
    assert json.loads(base64.urlsafe_b64decode(docker_images.registry_header(auth))) == {
        "username": "me",
        "password": "secret",
        "serveraddress": "registry.example",
    }


WANTED = BridgeNetwork("10.244.1.0/24")
FOUND = {
    "Driver": "bridge",
    "IPAM": {"Config": [{"Subnet": "10.244.1.0/24"}]},
    "Options": {"com.docker.network.bridge.name": "ktool0"},
}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (FOUND, []),
        ({**FOUND, "Driver": "macvlan"}, ["driver macvlan instead of bridge"]),
        ({**FOUND, "IPAM": None}, ["subnet  instead of 10.244.1.0/24"]),
        ({**FOUND, "Options": {"com.docker.network.bridge.name": "br1"}}, ["bridge br1 instead of ktool0"]),
    ],
)
def test_network_difference(found: dict[str, Any], wanted: list[str]) -> None:
    assert docker_network.difference(found, WANTED) == wanted


def test_network_creation() -> None:
    arguments = docker_network.creation(BridgeNetwork("10.244.1.0/24", masquerade=False), "c")
    assert arguments["ipam"]["Config"] == [{"Subnet": "10.244.1.0/24", "Gateway": "10.244.1.1"}]
    assert arguments["options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"
    assert "com.docker.network.bridge.gateway_mode_ipv4" not in arguments["options"]
    assert arguments["labels"] == {"io.ktool.cluster": "c"}


@pytest.mark.parametrize(
    ("version", "needs"),
    [("20.10.24+dfsg1", False), ("27.5.1", False), ("28.0.4", True), ("29.1", True), ("dev", False)],
)
def test_engines_that_keep_other_machines_away_from_pods_are_told_not_to(version: str, needs: bool) -> None:
    assert docker_network._needs_gateway_mode(version) is needs
    arguments = docker_network.creation(BridgeNetwork("10.244.1.0/24", unprotected=needs), "c")
    mode = arguments["options"].get("com.docker.network.bridge.gateway_mode_ipv4")
    assert mode == ("nat-unprotected" if needs else None)


def test_a_network_of_an_older_agent_is_told_by_its_differences() -> None:
    options = {"com.docker.network.bridge.enable_ip_masquerade": "true"}
    wanted = BridgeNetwork("10.244.1.0/24", masquerade=False, unprotected=True)
    assert docker_network.small_difference({"Options": options}, wanted) == [
        "masquerading true instead of false",
        "gateway mode nat instead of nat-unprotected",
    ]
    same = docker_network.creation(wanted, "c")["options"]
    assert docker_network.small_difference({"Options": same}, wanted) == []
