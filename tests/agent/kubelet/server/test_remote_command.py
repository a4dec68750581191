"""Commands over channels: streams, stdin's end, terminal sizes, outcomes."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from agent.kubelet.server.remote_command import V4, V5, StreamOptions, serve, terminal_size
from agent.runtime.runtime import ContainerError, ContainerStream, StreamName
from kube.status import ApiError
from tests.agent.kubelet.server.sessions import MemorySocket, Script

ALL = StreamOptions(stdin=True, stdout=True, stderr=True)


async def run(
    socket: MemorySocket, script: Script, options: StreamOptions = ALL, protocol: str = V5, *, exit_code: bool = True
) -> dict[str, object]:
    """Serve to the end; the outcome."""

    async def start() -> ContainerStream:
        return script

    async with asyncio.timeout(20):
        await serve(socket, protocol, options, start, exit_code=exit_code)
    found: dict[str, object] = orjson.loads(socket.channel(3)) if socket.channel(3) else {}
    return found


async def test_output_and_success() -> None:
    socket = MemorySocket()
    script = Script(said=[(StreamName.STDOUT, b"out"), (StreamName.STDERR, b"err")])
    script.end()
    outcome = await run(socket, script)
    assert socket.sent[0] == b"\x01", "an empty message of stdout says that the connection stands"
    assert (socket.channel(1), socket.channel(2)) == (b"out", b"err")
    assert outcome["status"] == "Success"
    assert script.closed


async def test_exit_code() -> None:
    script = Script(code=3)
    script.end()
    outcome = await run(MemorySocket(), script)
    assert (outcome["status"], outcome["reason"]) == ("Failure", "NonZeroExitCode")
    assert outcome["details"] == {"causes": [{"reason": "ExitCode", "message": "3"}]}
    assert "exit code" in str(outcome["message"])


async def test_attach_tells_no_exit_code() -> None:
    script = Script(code=3)
    script.end()
    assert (await run(MemorySocket(), script, exit_code=False))["status"] == "Success"


async def test_stdin_and_its_end_in_v5() -> None:
    socket = MemorySocket()
    socket.put(b"\x00", b"\x00one ", b"\x00two", b"\xff\x00", b"\x00late")
    outcome = await run(socket, Script())
    assert socket.channel(1) == b"one two"
    assert outcome["status"] == "Success"


async def test_v4_has_no_end_of_stdin() -> None:
    socket = MemorySocket()
    script = Script()
    socket.put(b"\xff\x00", b"\x00x")
    task = asyncio.create_task(run(socket, script, protocol=V4))
    await socket.until(lambda: socket.channel(1) == b"x")
    assert not task.done()
    script.end()
    assert (await task)["status"] == "Success"


async def test_only_what_was_asked_for() -> None:
    socket = MemorySocket()
    script = Script(said=[(StreamName.STDOUT, b"out"), (StreamName.STDERR, b"err")])
    socket.put(b"\x00unwanted", b'\x04{"Width":80,"Height":24}')
    await asyncio.sleep(0)
    script.end()
    await run(socket, script, StreamOptions(stderr=True))
    assert (socket.channel(1), socket.channel(2)) == (b"", b"err")
    assert socket.sent[0] == b"\x02"
    assert script.sizes == []


async def test_terminal() -> None:
    socket = MemorySocket()
    script = Script()
    socket.put(b'\x04{"Width":80,"Height":24}', b"\x04nonsense", b"\x00ls", b"\xff\x00")
    await run(socket, script, StreamOptions(stdin=True, stdout=True, tty=True))
    assert script.sizes == [(80, 24)]
    assert socket.channel(1) == b"ls"


async def test_a_process_that_no_longer_reads() -> None:
    socket = MemorySocket()
    script = Script(said=[(StreamName.STDOUT, b"done")])
    script.deaf = True
    socket.put(b"\x00a", b"\x00b")
    script.end()
    assert (await run(socket, script))["status"] == "Success"
    assert socket.channel(1) == b"done"


async def test_the_client_goes_away() -> None:
    socket = MemorySocket()
    script = Script()
    socket.put(None)
    assert await run(socket, script) == {}
    assert script.closed
    mute = MemorySocket()
    mute.gone = True
    assert await run(mute, Script()) == {}
    late, talker = MemorySocket(), Script()
    task = asyncio.create_task(run(late, talker))
    await asyncio.sleep(0.01)
    late.gone = True
    await talker.write(b"x")
    await task
    assert talker.closed


async def test_a_command_that_cannot_begin() -> None:
    async def start() -> ContainerStream:
        raise ContainerError("container c does not run")

    socket = MemorySocket()
    await serve(socket, V5, ALL, start, exit_code=True)
    outcome = orjson.loads(socket.channel(3))
    assert (outcome["status"], outcome["reason"]) == ("Failure", "InternalError")
    assert "container c does not run" in outcome["message"]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b'{"Width":80,"Height":24}', (80, 24)),
        (b'{"Width":0,"Height":24}', None),
        (b'{"Width":80}', None),
        (b'{"Width":"x","Height":1}', None),
        (b"[]", None),
        (b"", None),
        (b'{"Width":70000,"Height":1}', None),
    ],
)
def test_terminal_size(data: bytes, wanted: tuple[int, int] | None) -> None:
    assert terminal_size(data) == wanted


def test_options() -> None:
    assert StreamOptions.parse({"input", "output", "error", "tty"}.__contains__) == StreamOptions(
        stdin=True, stdout=True, stderr=False, tty=True
    )
    with pytest.raises(ApiError, match="at least 1 of stdin, stdout, stderr"):
        StreamOptions.parse({"tty"}.__contains__)
