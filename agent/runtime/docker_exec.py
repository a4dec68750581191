"""Commands in containers on Docker Engine: run one and wait, or connect to one; attach to the container's own process.

The engine cannot end a command that it started in a container, and a probe that hangs comes again every few seconds.
So a command that exceeds its time is killed here, by the process id that the engine tells; a pidfd and a look at its
cgroup make sure that the id still means that command, and means it on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker

from agent.runtime.docker_engine import DockerEngine
from agent.runtime.docker_stream import DockerStream
from agent.runtime.errors import ContainerError, ExecTimeout, RuntimeUnavailable
from agent.runtime.stream import MAX_OUTPUT_BYTES, ExecResult, StreamName

# Between the end of a command's output and the engine's knowing its exit code.
_EXIT_SECONDS = 10.0
_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.2


async def run(engine: DockerEngine, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
    """Run a command and wait for its end. Raises ExecTimeout after `timeout` seconds, having killed it."""
    exec_id = await _create(engine, container_id, command, stdin=False, tty=False)
    output = {StreamName.STDOUT: bytearray(), StreamName.STDERR: bytearray()}
    try:
        async with asyncio.timeout(timeout), await _start(engine, exec_id, tty=False) as stream:
            async for name, data in stream:
                output[name] += data[: MAX_OUTPUT_BYTES - len(output[name])]
            code = await stream.wait()
    except TimeoutError as error:
        killed = await engine.call("end a command", lambda api: _kill(api, exec_id))
        raise ExecTimeout(
            f"the command did not end within {timeout:g} s",
            found="it has been killed" if killed else "it may still run",
            wanted=" ".join(command),
        ) from error
    return ExecResult(bytes(output[StreamName.STDOUT]), bytes(output[StreamName.STDERR]), code)


async def connect(
    engine: DockerEngine, container_id: str, command: Sequence[str], *, stdin: bool, tty: bool
) -> DockerStream:
    """Start a command and connect to its streams."""
    return await _start(engine, await _create(engine, container_id, command, stdin=stdin, tty=tty), tty=tty)


async def attach(engine: DockerEngine, container_id: str, *, stdin: bool) -> DockerStream:
    """Connect to the process of a running container. Raises ContainerError if it does not run."""
    what = f"attach to container {container_id}"
    found: dict[str, Any] = await engine.call(what, lambda api: dict(api.inspect_container(container_id)))
    if not found["State"]["Running"]:
        raise ContainerError(f"cannot {what}: it does not run", found=found["State"]["Status"], wanted="running")
    path = f"/containers/{container_id}/attach?stream=1&stdout=1&stderr=1&stdin={int(stdin)}"
    reader, writer = await engine.hijack(what, path)

    async def resize(width: int, height: int) -> None:
        await engine.call(f"resize container {container_id}", lambda api: api.resize(container_id, height, width))

    async def wait() -> int:
        async with engine.request(what, "POST", f"/containers/{container_id}/wait") as response:
            return int((await response.json())["StatusCode"])

    # A stdin that stays open for the next client must not be ended: the engine would end the output as well.
    tty = bool(found["Config"]["Tty"])
    keep_stdin = tty or not found["Config"]["StdinOnce"]
    return DockerStream(reader, writer, tty=tty, resize=resize, wait=wait, keep_stdin=keep_stdin)


async def _create(engine: DockerEngine, container_id: str, command: Sequence[str], *, stdin: bool, tty: bool) -> str:
    return await engine.call(
        f"run {command[0] if command else 'nothing'} in container {container_id}",
        lambda api: str(api.exec_create(container_id, list(command), stdin=stdin, tty=tty)["Id"]),
    )


async def _start(engine: DockerEngine, exec_id: str, *, tty: bool) -> DockerStream:
    body = {"Detach": False, "Tty": tty}
    reader, writer = await engine.hijack("run a command", f"/exec/{exec_id}/start", body=body)

    async def resize(width: int, height: int) -> None:
        await engine.call("resize a terminal", lambda api: api.exec_resize(exec_id, height, width))

    async def wait() -> int:
        pause, waited = _FIRST_PAUSE, 0.0
        while waited < _EXIT_SECONDS:
            state = await engine.call("ask for an exit code", lambda api: api.exec_inspect(exec_id))
            if not state["Running"] and state["ExitCode"] is not None:
                return int(state["ExitCode"])
            await asyncio.sleep(pause)
            waited += pause
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise RuntimeUnavailable(
            "the command's output has ended, its exit code did not come",
            found=f"still running after {_EXIT_SECONDS:g} s",
        )

    return DockerStream(reader, writer, tty=tty, resize=resize, wait=wait)


def _kill(api: docker.APIClient, exec_id: str) -> bool:
    found = api.exec_inspect(exec_id)
    pid = int(found.get("Pid") or 0)
    if not found["Running"] or pid <= 0:
        return not found["Running"]
    with contextlib.suppress(OSError):  # it ended by itself, or runs where this process cannot see it
        process = os.pidfd_open(pid)
        try:
            if found["ContainerID"] in Path(f"/proc/{pid}/cgroup").read_text():
                signal.pidfd_send_signal(process, signal.SIGKILL)
                return True
        finally:
            os.close(process)
    return False
