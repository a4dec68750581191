"""Logs and streams of real containers, with the stock kubectl where there is one (over loopback only)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.runtime.runtime import ContainerConfig
from kube import objects
from kube.models import core_v1
from tests.engine import Engine
from tests.runtime_bench import IMAGE, Bench, docker_bench, ended, shell
from tests.streams.conftest import PODS, Cluster, cluster

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl"),
]

SECONDS = 30
# A web server that only its own pod can reach.
LOOPBACK_SERVER = "mkdir /tmp/www; echo hello > /tmp/www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /tmp/www"


class Lab:
    """A cluster on a private engine, and kubectl."""

    def __init__(self, bench: Bench, found: Cluster, kubeconfig: Path) -> None:
        self.bench, self.cluster, self.kubeconfig = bench, found, kubeconfig

    async def run(self, name: str, *configs: ContainerConfig) -> tuple[core_v1.Pod, list[str]]:
        """A pod with one container of each configuration, the same name again being its next attempt."""
        names = [*dict.fromkeys(config.name for config in configs)]
        pod = await self.cluster.pod(name, *names)
        sandbox = self.cluster.sandbox(pod, self.bench.cgroup)
        sandbox_id = await self.bench.runtime.run_sandbox(sandbox)
        ids: list[str] = []
        attempts: dict[str, int] = {}
        for config in configs:
            attempt = attempts[config.name] = attempts.get(config.name, -1) + 1
            if attempt:
                await ended(self.bench, ids[-1])
            numbered = replace(config, attempt=attempt, image=IMAGE)
            ids.append(await self.bench.runtime.create_container(sandbox_id, numbered, sandbox))
            await self.bench.runtime.start_container(ids[-1])
        await self.cluster.kubelet.pods.refresh()
        state = {
            "name": names[0],
            "ready": True,
            "restartCount": 0,
            "image": "",
            "imageID": "",
            "state": {"running": {}},
        }
        await self.cluster.api.call(
            "PATCH",
            f"{PODS}/{objects.name(pod)}/status",
            {"status": {"phase": "Running", "containerStatuses": [state]}},
            content_type="application/merge-patch+json",
        )
        return pod, ids

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "kubectl",
            f"--kubeconfig={self.kubeconfig}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def kubectl(self, *arguments: str, stdin: bytes = b"") -> tuple[int | None, str, str]:
        """Exit code, stdout and stderr of one command."""
        process = await self.start(*arguments)
        try:
            async with asyncio.timeout(SECONDS):
                out, err = await process.communicate(stdin)
        finally:
            await finish(process)
        return process.returncode, out.decode(), err.decode()


async def finish(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
async def lab(private_engine: Engine, tmp_path: Path) -> AsyncIterator[Lab]:
    async with docker_bench(private_engine) as bench, cluster(bench.runtime, tmp_path) as found:
        await found.node()
        ca = found.kubelet.certificates.folder / "ca.crt"
        lines: Sequence[str] = (
            "apiVersion: v1",
            "kind: Config",
            "current-context: test",
            f"clusters: [{{name: test, cluster: {{server: 'https://127.0.0.1:{found.https.port}', "
            f"certificate-authority: {ca}}}}}]",
            "users: [{name: test, user: {token: any}}]",
            "contexts: [{name: test, context: {cluster: test, user: test}}]",
        )
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text("\n".join(lines))
        yield Lab(bench, found, kubeconfig)


async def test_exec(lab: Lab) -> None:
    await lab.run("web", shell("sleep 1000"))
    assert await lab.kubectl("exec", "web", "--", "echo", "hello") == (0, "hello\n", "")
    code, out, err = await lab.kubectl("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (code, out) == (3, "out\n")
    assert err == "err\ncommand terminated with exit code 3\n"
    # stdin to its end, which only v5 of the protocol can tell
    data = b"0123456789abcdef" * (1 << 16)
    code, out, _ = await lab.kubectl("exec", "-i", "web", "--", "sh", "-c", "cat | wc -c", stdin=data)
    assert (code, out.strip()) == (0, str(len(data)))
    code, out, _ = await lab.kubectl("exec", "-i", "web", "--", "cat", stdin=data)
    assert (code, out.encode() == data) == (0, True)
    code, _, err = await lab.kubectl("exec", "web", "--", "no-such-command")
    assert code in (1, 126, 127), err
    code, _, err = await lab.kubectl("exec", "web", "-c", "other", "--", "ls")
    assert code == 1
    assert "container other" in err


async def test_logs(lab: Lab) -> None:
    first, second = shell("echo first; exit 1"), shell("echo one; echo two >&2; sleep 1; echo three; exec sleep 1000")
    _, ids = await lab.run("web", first, second)
    assert await lab.kubectl("logs", "web", "--previous") == (0, "first\n", "")
    process = await lab.start("logs", "-f", "web")
    try:
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS):
            lines = [await process.stdout.readline() for _ in range(3)]
            assert sorted(lines[:2]) == [b"one\n", b"two\n"]
            assert lines[2] == b"three\n"
            await lab.bench.runtime.stop_container(ids[1], 0)
            assert await process.stdout.read() == b""
            assert await process.wait() == 0, "following ends with the container"
    finally:
        await finish(process)
    assert await lab.kubectl("logs", "web", "--tail=1") == (0, "three\n", "")
    code, out, _ = await lab.kubectl("logs", "web", "--timestamps", "--tail=1")
    assert (code, out.endswith("Z three\n")) == (0, True)
    assert await lab.kubectl("logs", "web", "--limit-bytes=2", "--tail=1") == (0, "th", "")
    assert await lab.kubectl("logs", "web", "--since=1s", "--tail=1") in ((0, "three\n", ""), (0, "", ""))
    await lab.run("two", shell("echo a", "a"), shell("echo b", "b"))
    assert await lab.kubectl("logs", "two", "-c", "b") == (0, "b\n", "")


async def test_attach(lab: Lab) -> None:
    config = replace(shell("read line; echo got $line; sleep 1"), stdin=True)
    await lab.run("web", config)
    code, out, err = await lab.kubectl("attach", "-i", "web", stdin=b"hello\n")
    assert (code, "got hello" in out) == (0, True), err


async def test_attach_to_a_stdin_that_ends_with_its_first_client(lab: Lab) -> None:
    await lab.run("web", replace(shell("cat; echo end"), stdin=True, stdin_once=True))
    code, out, err = await lab.kubectl("attach", "-i", "web", stdin=b"hello\n")
    assert (code, out) == (0, "hello\nend\n"), err


async def test_port_forward(lab: Lab) -> None:
    await lab.run("web", shell(LOOPBACK_SERVER))
    process = await lab.start("port-forward", "pod/web", ":8080", "--address=127.0.0.1")
    try:
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS):
            line = (await process.stdout.readline()).decode()
            port = int(line.split("->")[0].rpartition(":")[2])
            answers = await asyncio.gather(*(fetch(port) for _ in range(8)))
        assert all(answer.endswith(b"hello\n") for answer in answers), answers
    finally:
        await finish(process)


async def test_port_forward_to_nothing(lab: Lab) -> None:
    await lab.run("web", shell("sleep 1000"))
    process = await lab.start("port-forward", "pod/web", ":81", "--address=127.0.0.1")
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(SECONDS):
            line = (await process.stdout.readline()).decode()
            with contextlib.suppress(ConnectionError):
                assert await fetch(int(line.split("->")[0].rpartition(":")[2])) == b""
            text = (await process.stderr.readline()).decode()
        assert "error forwarding port 81: Connection refused" in text
    finally:
        await finish(process)


async def fetch(port: int) -> bytes:
    """What a web server answers to a request for /."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    try:
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
