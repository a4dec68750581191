"""Logs of containers (Kubernetes: PodLogOptions): which container, from where, how much."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

from msgspec import Struct

from agent.runtime.runtime import ContainerState, ContainerStatus, Runtime, StreamName
from kube import objects, status, times
from kube.errors import FieldError
from kube.models import core_v1

# Short lines are sent together, except to those who follow and want each at once.
BUFFER_BYTES = 32 << 10

_TRUE = frozenset({"1", "t", "true"})


class LogOptions(Struct, frozen=True):
    """What of a log is wanted. `since` is seconds since 1970; `stream` narrows it to one output."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since: float | None = None
    limit_bytes: int | None = None
    stream: StreamName | None = None


def parse(query: Mapping[str, str], *, now: float) -> LogOptions:
    """Options out of a query; ApiError 422 with all fields that are wrong."""
    errors: list[FieldError] = []

    def number(name: str, least: int) -> int | None:
        text = query.get(name, "")
        if not text:
            return None
        try:
            value = int(text)
        except ValueError:
            errors.append(FieldError.type_invalid(name, text, "must be a whole number"))
            return None
        if value < least:
            errors.append(FieldError.invalid(name, value, f"must be greater than or equal to {least}"))
        return value

    tail, limit = number("tailLines", 0), number("limitBytes", 1)
    seconds, since = number("sinceSeconds", 1), None
    moment = query.get("sinceTime", "")
    if seconds is not None and moment:
        errors.append(
            FieldError.forbidden("sinceTime", "at most one of `sinceTime` or `sinceSeconds` may be specified")
        )
    elif seconds is not None:
        since = now - seconds
    elif moment:
        try:
            since = times.parse(moment)
        except times.TimeError as error:
            errors.append(FieldError.invalid("sinceTime", moment, str(error)))
    stream = query.get("stream", "") or "All"
    if stream not in ("All", "Stdout", "Stderr"):
        errors.append(FieldError.not_supported("stream", stream, ("All", "Stdout", "Stderr")))
    if errors:
        raise status.invalid("", "PodLogOptions", "", errors)
    return LogOptions(
        follow=_flag(query, "follow"),
        previous=_flag(query, "previous"),
        timestamps=_flag(query, "timestamps"),
        tail_lines=tail,
        since=since,
        limit_bytes=limit,
        stream=None if stream == "All" else StreamName(stream.lower()),
    )


def find(pod: core_v1.Pod, name: str, container: ContainerStatus | None, *, previous: bool) -> ContainerStatus:
    """The container whose log is meant; ApiError in Kubernetes' words where there is none yet, or no more.

    `container` is what the node has: the newest attempt, or with `previous` the one before.
    """
    assert pod.spec is not None
    what = f'container "{name}" in pod "{objects.name(pod)}"'
    if not any(c.name == name for c in [*pod.spec.initContainers, *pod.spec.containers]):
        raise status.bad_request(f"{what} is not available")
    if previous:
        if container is None:
            message = f'previous terminated container "{name}" in pod "{objects.name(pod)}" not found'
            raise status.bad_request(message)
        return container
    if container is None or container.state is ContainerState.CREATED:
        raise status.bad_request(f"{what} {_waiting(pod, name)}")
    return container


def _waiting(pod: core_v1.Pod, name: str) -> str:
    known = pod.status or core_v1.PodStatus()
    for found in [*known.initContainerStatuses, *known.containerStatuses]:
        if found.name == name and found.state is not None and found.state.waiting is not None:
            reason = found.state.waiting.reason or "ContainerCreating"
            if reason in ("ErrImagePull", "ImagePullBackOff"):
                return "is waiting to start: trying and failing to pull image"
            return f"is waiting to start: {reason}"
        if found.name == name and found.state is not None and found.state.terminated is not None:
            return "is terminated, and its log is gone with it"
    return "is waiting to start: ContainerCreating"


async def read(runtime: Runtime, container_id: str, options: LogOptions) -> AsyncGenerator[bytes, None]:
    """The log's bytes, in pieces. Raises ContainerRuntimeError."""
    since = datetime.fromtimestamp(options.since, UTC) if options.since is not None else None
    lines = runtime.logs(container_id, follow=options.follow, tail_lines=options.tail_lines, since=since)
    left = options.limit_bytes
    begins = {StreamName.STDOUT: True, StreamName.STDERR: True}
    pending = bytearray()
    async with aclosing(lines):
        async for line in lines:
            if options.stream is not None and line.stream is not options.stream:
                continue
            data = line.data
            # A long line comes in pieces, and has its time at the beginning only.
            if options.timestamps and begins[line.stream]:
                data = line.timestamp.encode() + b" " + data
            begins[line.stream] = line.data.endswith(b"\n")
            if left is not None:
                data = data[:left]
                left -= len(data)
            pending += data
            if options.follow or len(pending) >= BUFFER_BYTES:
                yield bytes(pending)
                pending.clear()
            if left == 0:
                break
    if pending:
        yield bytes(pending)


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in _TRUE
