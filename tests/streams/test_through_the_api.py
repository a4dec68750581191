"""Logs and streams from a client through the API server to a node, on a runtime that plays its part in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.kubelet.server import spdy
from agent.runtime.hollow import HollowRuntime
from agent.runtime.runtime import ContainerConfig, ContainerStream, LogLine, RuntimeUnavailable, StreamName
from kube import pki
from kube.models import core_v1
from tests.agent.kubelet.server.sessions import Script
from tests.kubelet_under_test import CLOCK
from tests.streams.conftest import PODS, Cluster, cluster


class ActingRuntime(HollowRuntime):
    """A hollow runtime whose commands echo, whose logs tell the attempt, and whose port 80 answers."""

    def __init__(self) -> None:
        super().__init__(images=["x:1"])
        self.commands: list[tuple[str, ...]] = []
        self.streams: list[Script] = []
        self.following: list[str] = []
        self.ended: list[str] = []
        self.broken = False

    async def exec(
        self, container_id: str, command: Sequence[str], *, stdin: bool = False, tty: bool = False
    ) -> ContainerStream:
        self.commands.append(tuple(command))
        script = Script(code=int(command[1]) if command[0] == "exit" else 0)
        if not stdin:
            script.end()
        self.streams.append(script)
        return script

    async def attach(self, container_id: str, *, stdin: bool = False) -> ContainerStream:
        script = Script(said=[(StreamName.STDOUT, b"attached\n")])
        script.end()
        return script

    async def port_forward(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port)

    async def logs(self, container_id: str, **options: Any) -> AsyncGenerator[LogLine, None]:
        if self.broken:
            raise RuntimeUnavailable("the engine does not answer")
        status = await self.container_status(container_id)
        yield LogLine(StreamName.STDOUT, "2026-01-31T12:00:00.123456789Z", f"attempt {status.attempt}\n".encode())
        if options["follow"]:
            self.following.append(container_id)
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.append(container_id)


@pytest.fixture
async def runtime() -> ActingRuntime:
    runtime = ActingRuntime()
    await runtime.update_runtime_config("10.244.9.0/24")
    return runtime


@pytest.fixture
async def lab(runtime: ActingRuntime, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(runtime, tmp_path) as running:
        await running.node()
        yield running


async def start(lab: Cluster, pod: core_v1.Pod, *, attempts: int = 1) -> list[str]:
    """Run the pod's first container, ended and started again as often as wanted; the container ids."""
    assert pod.spec is not None
    runtime, sandbox = lab.kubelet.runtime, lab.sandbox(pod)
    sandbox_id = await runtime.run_sandbox(sandbox)
    ids = []
    for attempt in range(attempts):
        if ids:
            await runtime.stop_container(ids[-1], 0)
        config = ContainerConfig(pod.spec.containers[0].name or "", "x:1", attempt=attempt)
        ids.append(await runtime.create_container(sandbox_id, config, sandbox))
        await runtime.start_container(ids[-1])
    await lab.kubelet.pods.refresh()
    return ids


async def refused(lab: Cluster, path: str, *query: tuple[str, str], **headers: str) -> tuple[int, str]:
    """Code and message of a Status."""
    async with lab.session.get(lab.url(path, query), headers=headers) as response:
        found = await response.json()
        assert found["kind"] == "Status"
        assert found["code"] == response.status
        return response.status, found["message"]


# --- log


async def test_log_and_previous(lab: Cluster) -> None:
    await start(lab, await lab.pod("web"), attempts=3)
    for query, wanted in (
        ([], "attempt 2\n"),
        ([("previous", "true")], "attempt 1\n"),
        ([("container", "main"), ("timestamps", "True")], "2026-01-31T12:00:00.123456789Z attempt 2\n"),
        ([("limitBytes", "3")], "att"),
    ):
        async with lab.session.get(lab.url(f"{PODS}/web/log", query)) as response:
            assert response.status == 200
            assert response.content_type == "text/plain"
            assert await response.text() == wanted


async def test_a_followed_log_ends_with_its_client(lab: Cluster, runtime: ActingRuntime) -> None:
    (container_id,) = await start(lab, await lab.pod("web"))
    async with lab.session.get(lab.url(f"{PODS}/web/log", [("follow", "true")])) as response:
        assert await response.content.readline() == b"attempt 0\n"
    async with asyncio.timeout(20):
        while runtime.ended != [container_id]:  # noqa: ASYNC110 (it happens in the server)
            await asyncio.sleep(0.01)


async def test_logs_that_there_are_not(lab: Cluster, runtime: ActingRuntime) -> None:
    two = await lab.pod("two", "a", "b")
    message = "a container name must be specified for pod two, choose one of: [a b]"
    assert await refused(lab, f"{PODS}/two/log") == (400, message)
    assert await refused(lab, f"{PODS}/two/log", ("container", "c")) == (400, "container c is not valid for pod two")
    lab.sandbox(two)
    message = 'container "a" in pod "two" is waiting to start: ContainerCreating'
    assert await refused(lab, f"{PODS}/two/log", ("container", "a")) == (400, message)
    message = 'previous terminated container "a" in pod "two" not found'
    assert await refused(lab, f"{PODS}/two/log", ("container", "a"), ("previous", "1")) == (400, message)
    assert (await refused(lab, f"{PODS}/two/log", ("container", "a"), ("tailLines", "-1")))[0] == 422
    assert (await refused(lab, f"{PODS}/none/log"))[0] == 404

    await lab.pod("waiting", node="")
    async with lab.session.get(lab.url(f"{PODS}/waiting/log")) as response:
        assert (response.status, await response.text()) == (200, "")

    await start(lab, await lab.pod("web"))
    runtime.broken = True
    assert await refused(lab, f"{PODS}/web/log") == (503, "the engine does not answer")


async def test_nodes_that_do_not_answer(lab: Cluster, tmp_path: Path) -> None:
    await lab.node(name="silent", port=1)
    await lab.pod("far", node="silent")
    code, message = await refused(lab, f"{PODS}/far/log")
    assert code == 500
    assert "error dialing backend: node silent: " in message
    await lab.pod("lost", node="nowhere")
    assert (await refused(lab, f"{PODS}/lost/log"))[0] == 404
    await lab.api.call("POST", "/api/v1/nodes", {"metadata": {"name": "new"}})
    await lab.pod("early", node="new")
    assert (await refused(lab, f"{PODS}/early/log"))[0] == 503


@pytest.mark.parametrize("wrong", ["address", "authority"])
async def test_a_kubelet_must_prove_who_it_is(lab: Cluster, wrong: str) -> None:
    await start(lab, await lab.pod("web"))
    if wrong == "address":
        lab.kubelet.certificates.serve(ips=["192.0.2.77"])
    else:
        lab.kubelet.certificates.serve(ips=["127.0.0.1"], ca=pki.create_ca("other", clock=CLOCK))
    code, message = await refused(lab, f"{PODS}/web/log")
    assert code == 500
    assert "certificate verify failed" in message.lower()


async def test_an_api_server_that_the_kubelet_does_not_know(lab: Cluster) -> None:
    await start(lab, await lab.pod("web"))
    environment = lab.api.api.environment
    assert environment.assets is not None
    stranger = lab.kubelet.certificates.client()
    environment.assets = type(environment.assets)(lambda: stranger, Path("none"), "none")
    code, message = await refused(lab, f"{PODS}/web/log")
    assert code == 500, "not 401: it is not the user who is unknown"
    assert "refuses the API server" in message


# --- exec and attach


async def exec_(lab: Cluster, *command: str, stdin: bytes | None = None, protocol: str = "v5.channel.k8s.io") -> Any:
    """Run a command through the API; (stdout, outcome)."""
    query = [("command", word) for word in command] + [("stdout", "true"), ("stderr", "1")]
    if stdin is not None:
        query.append(("stdin", "True"))
    out, outcome = b"", {}
    url = lab.url(f"{PODS}/web/exec", query)
    async with lab.session.ws_connect(url, protocols=(protocol, "v4.channel.k8s.io")) as socket:
        assert socket.protocol == protocol
        if stdin is not None:
            await socket.send_bytes(b"\x00" + stdin)
            await socket.send_bytes(b"\xff\x00")
        async for message in socket:
            if message.data[0] == 1:
                out += message.data[1:]
            elif message.data[0] == 3:
                outcome = orjson.loads(message.data[1:])
        assert socket.close_code == 1000
    return out, outcome


async def test_exec(lab: Cluster, runtime: ActingRuntime) -> None:
    await start(lab, await lab.pod("web"))
    out, outcome = await exec_(lab, "cat", "a b", "&=%", stdin=b"x" * 300_000)
    assert out == b"x" * 300_000
    assert outcome["status"] == "Success"
    assert runtime.commands == [("cat", "a b", "&=%")]
    _, outcome = await exec_(lab, "exit", "3", protocol="v4.channel.k8s.io")
    assert outcome["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    assert all(script.closed for script in runtime.streams)


async def test_attach(lab: Cluster) -> None:
    await start(lab, await lab.pod("web"))
    url = lab.url(f"{PODS}/web/attach", [("stdout", "1"), ("container", "main")])
    async with lab.session.ws_connect(url, protocols=("v5.channel.k8s.io",)) as socket:
        messages = [message.data async for message in socket]
    assert messages[:2] == [b"\x01", b"\x01attached\n"]


async def test_a_client_that_goes_away_ends_its_stream(lab: Cluster, runtime: ActingRuntime) -> None:
    await start(lab, await lab.pod("web"))
    url = lab.url(f"{PODS}/web/exec", [("command", "cat"), ("stdin", "1"), ("stdout", "1")])
    async with lab.session.ws_connect(url, protocols=("v5.channel.k8s.io",)) as socket:
        assert (await socket.receive_bytes()) == b"\x01"
    async with asyncio.timeout(20):
        while not (runtime.streams and runtime.streams[0].closed):  # noqa: ASYNC110 (it happens in the server)
            await asyncio.sleep(0.01)


async def test_exec_that_is_refused_before_the_connection_is_taken_over(lab: Cluster) -> None:
    web = await lab.pod("web")
    run = [("command", "sh"), ("stdout", "1")]
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": "v5.channel.k8s.io",
    }
    path = f"{PODS}/web/exec"
    assert await refused(lab, path, *run, **upgrade) == (404, 'pods "web" not found'), "the kubelet has no such pod"
    lab.sandbox(web)
    code, message = await refused(lab, path, *run, **upgrade)
    assert (code, message) == (400, 'container not found ("main"): it does not run in pod "web"')
    await lab.kubelet.runtime.run_sandbox(lab.sandbox(web))
    assert await refused(lab, path, *run) == (400, "Upgrade request required")
    assert (await refused(lab, path, ("stdout", "1"), **upgrade))[1].startswith("you must specify at least one command")
    assert "at least one of stdin" in (await refused(lab, path, ("command", "sh"), **upgrade))[1]
    code, message = await refused(lab, path, *run, **{**upgrade, "Sec-WebSocket-Protocol": "v1.other"})
    assert code == 400
    await lab.pod("waiting", node="")
    code, message = await refused(lab, f"{PODS}/waiting/exec", *run, **upgrade)
    assert (code, message) == (400, "pod waiting does not have a host assigned")


# --- port-forward


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.readline()).upper())
    writer.close()
    await writer.wait_closed()


async def test_port_forward_by_spdy(lab: Cluster) -> None:
    await start(lab, await lab.pod("web"))
    listener = await asyncio.start_server(shout, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        encoder, decoder = spdy.Encoder(), spdy.Decoder()
        said = b""
        async with lab.session.ws_connect(
            lab.url(f"{PODS}/web/portforward"), protocols=("SPDY/3.1+portforward.k8s.io",)
        ) as socket:
            for stream_id, kind in ((1, "error"), (3, "data")):
                headers = {"streamtype": kind, "port": str(port), "requestid": "0"}
                await socket.send_bytes(encoder.encode(spdy.SynStream(stream_id, headers)))
            await socket.send_bytes(encoder.encode(spdy.Data(3, b"hello\n")))
            ended = False
            while not ended:
                for frame in decoder.feed(await socket.receive_bytes()):
                    if isinstance(frame, spdy.Data):
                        said += frame.data
                        ended = ended or (frame.stream_id == 3 and frame.fin)
    assert said == b"HELLO\n"


async def test_port_forward_by_channels(lab: Cluster) -> None:
    await start(lab, await lab.pod("web"))
    listener = await asyncio.start_server(shout, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        url = lab.url(f"{PODS}/web/portforward", [("ports", str(port))])
        async with lab.session.ws_connect(url, protocols=("v4.channel.k8s.io",)) as socket:
            await socket.send_bytes(b"\x00hello\n")
            messages = [message.data async for message in socket]
    number = port.to_bytes(2, "little")
    assert messages == [b"\x00" + number, b"\x01" + number, b"\x00HELLO\n"]


# --- a node's proxy


async def test_node_proxy(lab: Cluster) -> None:
    await start(lab, await lab.pod("web"))
    base = "/api/v1/nodes/node-1/proxy"
    async with lab.session.get(lab.url(f"{base}/healthz")) as response:
        assert (response.status, await response.text()) == (200, "ok")
    async with lab.session.get(lab.url(f"{base}/runningpods/")) as response:
        assert [pod["metadata"]["name"] for pod in (await response.json())["items"]] == ["web"]
    async with lab.session.get(lab.url(f"{base}/stats/summary")) as response:
        summary = await response.json()
    assert summary["node"]["nodeName"] == "node-1"
    assert summary["node"]["memory"]["workingSetBytes"] > 0
    (pod,) = summary["pods"]
    assert (pod["podRef"]["name"], pod["containers"][0]["name"]) == ("web", "main")
    async with lab.session.get(lab.url(f"{base}/metrics/resource")) as response:
        text = await response.text()
    assert 'container_memory_working_set_bytes{container="main",namespace="default",pod="web"} 4194304 ' in text
    assert "node_cpu_usage_seconds_total " in text
    assert "resource_scrape_error 0" in text
    async with lab.session.get(lab.url(f"{base}/metrics")) as response:
        text = await response.text()
    assert "kubelet_running_pods 1" in text
    assert 'kubelet_running_containers{container_state="running"} 1' in text
    async with lab.session.get(lab.url(f"{base}/containerLogs/default/web/main", [("tailLines", "1")])) as response:
        assert await response.text() == "attempt 0\n"
    async with lab.session.get(lab.url(f"{base}/nonsense")) as response:
        assert response.status == 404
    assert (await refused(lab, "/api/v1/nodes/none/proxy/healthz"))[0] == 404


async def test_what_the_user_showed_stays_here(lab: Cluster) -> None:
    seen: dict[str, str] = {}
    before = lab.kubelet.server._authentication.authenticate

    async def spy(certificate: Any, authorization: str) -> Any:
        seen["authorization"] = authorization
        return await before(certificate, authorization)

    lab.kubelet.server._authentication.authenticate = spy  # type: ignore[method-assign]
    headers = {"Authorization": "Bearer user-token", "Cookie": "a=b"}
    async with lab.session.get(lab.url("/api/v1/nodes/node-1/proxy/pods"), headers=headers) as response:
        assert response.status == 200
    assert seen == {"authorization": ""}
