"""The Docker runtime over a private Docker Engine: what takes real processes, networks and an engine that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.runtime import docker_labels
from agent.runtime.docker import DockerRuntime, Removed
from agent.runtime.docker_engine import DockerEngine
from agent.runtime.pause_image import PAUSE_REFERENCE
from agent.runtime.runtime import (
    LABEL_POD_UID,
    ContainerConfig,
    ContainerError,
    ContainerState,
    DNSConfig,
    EventType,
    ExecTimeout,
    ImageLoadError,
    ImagePullError,
    Mount,
    NetworkError,
    PortMapping,
    Resources,
    RuntimeUnavailable,
    Security,
    StreamName,
)
from tests import engine as engines
from tests.engine import Engine
from tests.runtime_bench import (
    BRIDGE,
    CIDR,
    CLUSTER,
    IMAGE,
    NETWORK,
    SERVER,
    Bench,
    docker_bench,
    ended,
    first_line,
    log_of,
    pod,
    run,
    shell,
)

pytestmark = pytest.mark.docker


@pytest.fixture
async def bench(private_engine: Engine) -> AsyncIterator[Bench]:
    async with docker_bench(private_engine) as bench:
        yield bench


async def test_stop_kills_after_the_grace_period(bench: Bench) -> None:
    _, container_id = await run(bench, shell("trap '' TERM; echo ready; while :; do sleep 1; done"))
    await first_line(bench, container_id)
    started = asyncio.get_running_loop().time()
    await bench.runtime.stop_container(container_id, 1)
    assert 0.9 <= asyncio.get_running_loop().time() - started < 8
    status = await bench.runtime.container_status(container_id)
    assert (status.exit_code, status.reason) == (137, "Error")


async def test_exit_code_and_memory_limit(bench: Bench) -> None:
    _, container_id = await run(bench, shell("exit 7"))
    status = await ended(bench, container_id)
    assert (status.exit_code, status.reason) == (7, "Error")

    hungry = replace(shell("exec tail /dev/zero"), resources=Resources(memory_limit_bytes=8 << 20))
    _, container_id = await run(bench, hungry)
    status = await ended(bench, container_id)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_a_command_that_does_not_exist(bench: Bench) -> None:
    sandbox = pod(bench)
    sandbox_id = await bench.runtime.run_sandbox(sandbox)
    config = ContainerConfig("main", IMAGE, command=("/no/such",))
    container_id = await bench.runtime.create_container(sandbox_id, config, sandbox)
    with pytest.raises(ContainerError, match="no such file"):
        await bench.runtime.start_container(container_id)
    status = await bench.runtime.container_status(container_id)
    assert (status.state, status.reason) == (ContainerState.EXITED, "ContainerCannotRun")
    assert status.exit_code == 127
    assert "no such file" in status.message

    _, container_id = await run(bench, shell("sleep 60"))
    result = await bench.runtime.exec_sync(container_id, ["/no/such"], timeout=10)
    assert result.exit_code in (126, 127)


async def test_containers_share_network_and_host_name(bench: Bench) -> None:
    sandbox = replace(
        pod(bench),
        dns=DNSConfig(("10.96.0.10",), ("default.svc.cluster.local", "cluster.local"), ("ndots:5",)),
    )
    sandbox_id, first = await run(bench, shell(SERVER), sandbox)
    second = await bench.runtime.create_container(sandbox_id, shell("sleep 60", "other"), sandbox)
    await bench.runtime.start_container(second)
    ip = (await bench.runtime.sandbox_status(sandbox_id)).ip
    script = "sleep 0.3; wget -qO- http://127.0.0.1:8080/; hostname; cat /etc/resolv.conf; ip -o -4 address show eth0"
    result = await bench.runtime.exec_sync(second, ["sh", "-c", script], timeout=10)
    lines = result.stdout.decode().splitlines()
    assert lines[:2] == ["hello", "web"]
    assert lines[2:5] == [
        "nameserver 10.96.0.10",
        "search default.svc.cluster.local cluster.local",
        "options ndots:5",
    ]
    assert f" {ip}/24 " in lines[5]

    # Another pod reaches it over the bridge.
    _, neighbour = await run(bench, shell("sleep 60"))
    result = await bench.runtime.exec_sync(neighbour, ["wget", "-qO-", f"http://{ip}:8080/"], timeout=10)
    assert result.stdout == b"hello\n"
    assert first != second


async def test_a_pod_in_the_hosts_network(bench: Bench) -> None:
    sandbox = replace(pod(bench), host_network=True, hostname="")
    sandbox_id, container_id = await run(bench, shell("sleep 60"), sandbox)
    status = await bench.runtime.sandbox_status(sandbox_id)
    assert status.host_network
    assert status.ip == ""
    result = await bench.runtime.exec_sync(container_id, ["ip", "-o", "link"], timeout=10)
    assert BRIDGE in result.stdout.decode()


async def test_host_port(bench: Bench, private_engine: Engine) -> None:
    sandbox = replace(pod(bench), port_mappings=(PortMapping(8080, 18080),))
    await run(bench, shell(SERVER), sandbox)
    async with asyncio.timeout(20):
        output = b""
        while output != b"hello\n":  # until the server listens
            process = await asyncio.create_subprocess_exec(
                *private_engine.command("busybox", "wget", "-qO-", "http://127.0.0.1:18080/"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            output, _ = await process.communicate()
            await asyncio.sleep(0.1)

    taken = replace(pod(bench), port_mappings=(PortMapping(8080, 18080),))
    with pytest.raises(ContainerError, match="allocated"):
        await bench.runtime.run_sandbox(taken)
    assert await bench.runtime.list_sandboxes({LABEL_POD_UID: taken.uid}) == []


async def test_what_the_process_gets(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("from the host\n")
    config = ContainerConfig(
        name="main",
        image=IMAGE,
        command=("sh", "-c"),
        args=(
            "echo $GREETING; pwd; id -u; id -g; id -G; cat /config; touch /config /new; grep NoNewPrivs /proc/1/status",
        ),
        working_dir="/var",
        env=(("GREETING", "a=b c"),),
        mounts=(Mount(str(tmp_path / "config"), "/config", read_only=True),),
        security=Security(
            run_as_user=1000,
            run_as_group=2000,
            supplemental_groups=(3000,),
            read_only_root=True,
            no_new_privileges=True,
        ),
        resources=Resources(cpu_shares=102, cpu_quota=50000, cpu_period=100000, oom_score_adj=-500),
    )
    _, container_id = await run(bench, config)
    await ended(bench, container_id)
    log = await log_of(bench, container_id)
    said = [line.data.decode().split() for line in log if line.stream is StreamName.STDOUT]
    assert said == [
        ["a=b", "c"],
        ["/var"],
        ["1000"],
        ["2000"],
        ["2000", "3000"],
        ["from", "the", "host"],
        ["NoNewPrivs:", "1"],
    ]
    errors = b"".join(line.data for line in log if line.stream is StreamName.STDERR)
    assert errors.count(b"Read-only file system") == 2


async def test_a_mount_whose_source_is_missing(bench: Bench, tmp_path: Path) -> None:
    config = replace(shell("true"), mounts=(Mount(str(tmp_path / "none"), "/data"),))
    with pytest.raises(ContainerError, match="does not exist"):
        await run(bench, config)
    assert not (tmp_path / "none").exists()


async def test_command_output_and_exit_code(bench: Bench) -> None:
    _, container_id = await run(bench, shell("sleep 60"))
    result = await bench.runtime.exec_sync(container_id, ["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=10)
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3)
    big = await bench.runtime.exec_sync(container_id, ["head", "-c", "1000000", "/dev/zero"], timeout=10)
    assert len(big.stdout) == 1_000_000


async def test_a_command_that_takes_too_long_is_killed(bench: Bench) -> None:
    _, container_id = await run(bench, shell("sleep 60"))
    with pytest.raises(ExecTimeout):
        await bench.runtime.exec_sync(container_id, ["sleep", "4321"], timeout=0.5)
    async with asyncio.timeout(5):
        while True:
            processes = await bench.runtime.exec_sync(container_id, ["ps"], timeout=10)
            if b"4321" not in processes.stdout:
                break
            await asyncio.sleep(0.05)


async def test_streams_both_ways(bench: Bench) -> None:
    _, container_id = await run(bench, shell("sleep 60"))
    script = 'while read line; do echo "got $line"; done; echo done >&2; exit 5'
    async with (
        asyncio.timeout(20),
        await bench.runtime.exec(container_id, ["sh", "-c", script], stdin=True) as stream,
    ):
        await stream.write(b"one\n")
        assert await stream.read() == (StreamName.STDOUT, b"got one\n")
        await stream.write(b"two\n")
        assert await stream.read() == (StreamName.STDOUT, b"got two\n")
        await stream.close_stdin()
        assert [piece async for piece in stream] == [(StreamName.STDERR, b"done\n")]
        assert await stream.wait() == 5


async def test_a_terminal(bench: Bench) -> None:
    _, container_id = await run(bench, shell("sleep 60"))
    async with (
        asyncio.timeout(20),
        await bench.runtime.exec(container_id, ["sh"], stdin=True, tty=True) as stream,
    ):
        await stream.resize(width=100, height=40)
        await stream.write(b"stty size; exit 4\n")
        output = b"".join([data async for _, data in stream])
        assert b"40 100" in output
        assert await stream.wait() == 4


async def test_attach(bench: Bench) -> None:
    config = replace(shell("read line; echo got $line; exit 6"), stdin=True)
    _, container_id = await run(bench, config)
    async with asyncio.timeout(20), await bench.runtime.attach(container_id, stdin=True) as stream:
        waiting = asyncio.create_task(stream.wait())
        await stream.write(b"hello\n")
        assert [piece async for piece in stream] == [(StreamName.STDOUT, b"got hello\n")]
        assert await waiting == 6


async def test_logs(bench: Bench) -> None:
    _, container_id = await run(bench, shell("echo one; echo two >&2; sleep 0.3; echo three; printf end"))
    await ended(bench, container_id)
    lines = await log_of(bench, container_id)
    assert sorted((line.stream.value, line.data) for line in lines) == [
        ("stderr", b"two\n"),
        ("stdout", b"end"),
        ("stdout", b"one\n"),
        ("stdout", b"three\n"),
    ]
    times = [datetime.fromisoformat(line.timestamp[:26] + "+00:00") for line in lines]
    assert times == sorted(times)
    assert all(line.timestamp.endswith("Z") and len(line.timestamp) == 30 for line in lines)
    assert [line.data for line in await log_of(bench, container_id, tail_lines=2)] == [b"three\n", b"end"]
    assert await log_of(bench, container_id, tail_lines=0) == []
    since = times[-2] - (times[-2] - times[-3]) / 2
    assert [line.data for line in await log_of(bench, container_id, since=since)] == [b"three\n", b"end"]


async def test_log_of_a_terminal_and_long_lines(bench: Bench) -> None:
    _, container_id = await run(bench, replace(shell("echo one; echo two >&2"), tty=True))
    await ended(bench, container_id)
    lines = await log_of(bench, container_id)
    assert [(line.stream, line.data) for line in lines] == [
        (StreamName.STDOUT, b"one\r\n"),
        (StreamName.STDOUT, b"two\r\n"),
    ]
    _, container_id = await run(bench, shell("head -c 100000 /dev/zero | tr '\\0' x; echo; echo next"))
    await ended(bench, container_id)
    text = b"".join(line.data for line in await log_of(bench, container_id))
    assert text == b"x" * 100000 + b"\nnext\n"


async def test_log_is_linked_where_collectors_look(bench: Bench, tmp_path: Path) -> None:
    sandbox = replace(pod(bench), log_directory=str(tmp_path / "pods"))
    _, container_id = await run(bench, replace(shell("echo hello; sleep 60"), log_path="main/0.log"), sandbox)
    link = tmp_path / "pods/main/0.log"
    async with asyncio.timeout(10):
        while True:
            if "hello" in link.read_text():
                break
            await asyncio.sleep(0.02)
    assert (await bench.runtime.container_status(container_id)).log_path == str(link)
    await bench.runtime.remove_container(container_id)
    assert not link.is_symlink()


async def test_unreadable_archive_and_unreachable_registry(bench: Bench, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"no archive at all")
    with pytest.raises(ImageLoadError):
        await bench.runtime.load_image(bad)
    with pytest.raises(ImageLoadError):
        await bench.runtime.load_image(tmp_path / "none.tar")
    with pytest.raises(ImagePullError, match="connection refused"):
        await bench.runtime.pull_image("127.0.0.1:9/none:1")


# --- whose is what, and what is left


async def test_another_agent_adopts_what_runs(bench: Bench, private_engine: Engine) -> None:
    sandbox_id, container_id = await run(bench, shell("sleep 60"))
    before = await bench.runtime.container_status(container_id)
    async with docker_bench(private_engine) as other:
        assert [sandbox.id for sandbox in await other.runtime.list_sandboxes()] == [sandbox_id]
        assert [container.id for container in await other.runtime.list_containers()] == [container_id]
        assert await other.runtime.container_status(container_id) == before
        assert (await other.runtime.container_stats(container_id)).memory_usage_bytes > 0


async def test_clusters_on_one_engine_do_not_touch_each_other(bench: Bench, private_engine: Engine) -> None:
    _, container_id = await run(bench, shell("sleep 60"))
    async with DockerRuntime("other", socket=private_engine.socket, network=NETWORK, bridge=BRIDGE) as other:
        with pytest.raises(NetworkError, match="did not make"):
            await other.update_runtime_config(CIDR)
    async with DockerRuntime("other", socket=private_engine.socket, network="ktool-2", bridge="ktool2") as other:
        with pytest.raises(NetworkError, match="overlaps"):
            await other.update_runtime_config(CIDR)
        await other.update_runtime_config("10.244.8.0/24")
        theirs = await other.run_sandbox(pod(bench))
        assert [sandbox.id for sandbox in await other.list_sandboxes()] == [theirs]
        assert theirs not in [sandbox.id for sandbox in await bench.runtime.list_sandboxes()]
        assert await other.remove_everything() == Removed(sandboxes=1, containers=0, networks=1, images=0)
        assert await other.remove_everything() == Removed(0, 0, 0, 0)
    assert (await bench.runtime.container_status(container_id)).state is ContainerState.RUNNING


async def test_nothing_is_left_and_everything_is_made_again(bench: Bench, private_engine: Engine) -> None:
    runtime = bench.runtime
    assert isinstance(runtime, DockerRuntime)
    await run(bench, shell("sleep 60"))
    assert await runtime.remove_everything() == Removed(sandboxes=1, containers=1, networks=1, images=1)
    links = await asyncio.create_subprocess_exec(
        *private_engine.command("ip", "-o", "link"), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(links.communicate(), 10)
    assert BRIDGE not in output.decode()
    assert await runtime.image_status(PAUSE_REFERENCE) is None
    # The same runtime goes on where somebody removed its network and image behind its back.
    sandbox_id = await runtime.run_sandbox(pod(bench))
    assert (await runtime.sandbox_status(sandbox_id)).ip


async def test_image_and_network_removed_behind_its_back(bench: Bench, private_engine: Engine) -> None:
    runtime = bench.runtime
    await runtime.remove_sandbox(await runtime.run_sandbox(pod(bench)))
    async with DockerRuntime(CLUSTER, socket=private_engine.socket, network=NETWORK, bridge=BRIDGE) as other:
        await other.remove_everything()
    sandbox_id = await runtime.run_sandbox(pod(bench))
    assert (await runtime.sandbox_status(sandbox_id)).ip


async def test_a_changed_pod_cidr(bench: Bench) -> None:
    await run(bench, shell("sleep 60"))
    with pytest.raises(NetworkError, match="in use"):
        await bench.runtime.update_runtime_config("10.244.9.0/24")
    for sandbox in await bench.runtime.list_sandboxes():
        await bench.runtime.remove_sandbox(sandbox.id)
    await bench.runtime.update_runtime_config("10.244.9.0/24")
    sandbox_id = await bench.runtime.run_sandbox(pod(bench))
    assert (await bench.runtime.sandbox_status(sandbox_id)).ip.startswith("10.244.9.")


async def test_a_half_made_container_is_replaced_a_running_one_is_not(bench: Bench) -> None:
    sandbox = pod(bench)
    sandbox_id = await bench.runtime.run_sandbox(sandbox)
    half_made = await bench.runtime.create_container(sandbox_id, shell("sleep 60"), sandbox)
    container_id = await bench.runtime.create_container(sandbox_id, shell("sleep 60"), sandbox)
    assert container_id != half_made
    assert [container.id for container in await bench.runtime.list_containers()] == [container_id]
    await bench.runtime.start_container(container_id)
    with pytest.raises(ContainerError, match="its name is taken"):
        await bench.runtime.create_container(sandbox_id, shell("sleep 60"), sandbox)


async def test_everything_is_labelled(bench: Bench, private_engine: Engine) -> None:
    await run(bench, shell("sleep 60"))
    engine = DockerEngine(private_engine.socket)
    try:
        containers = await engine.call("list", lambda api: api.containers(all=True))
        networks = await engine.call("list", lambda api: api.networks(names=[NETWORK]))
    finally:
        await engine.close()
    assert {found["Labels"][docker_labels.TYPE] for found in containers} == {"sandbox", "container"}
    assert {found["Labels"][docker_labels.CLUSTER] for found in (*containers, *networks)} == {CLUSTER}


# --- an engine that goes away


async def test_an_engine_that_stops_and_comes_back() -> None:
    """The private engine of this test alone: events go on, a stopped engine is a condition, not an exit."""
    with engines.private_engine() as engine:
        async with docker_bench(engine) as bench, aclosing(bench.runtime.events()) as events, asyncio.timeout(60):
            sandbox = pod(bench)
            sandbox_id, _ = await run(bench, shell("trap 'exit 0' TERM; sleep 60 & wait"), sandbox)
            assert (await anext(events)).type is EventType.RELIST
            await asyncio.to_thread(engine.stop)
            status = await bench.runtime.status()
            assert [condition.type for condition in status.conditions if not condition.status] == ["RuntimeReady"]
            with pytest.raises(RuntimeUnavailable, match="does not answer"):
                await bench.runtime.list_containers()
            with pytest.raises(RuntimeUnavailable):
                await bench.runtime.exec_sync(sandbox_id, ["true"], timeout=5)
            await asyncio.to_thread(engine.start)
            async for event in events:
                if event.type is EventType.RELIST:
                    break
            assert (await bench.runtime.status()).ready
            # The engine took its containers down with it: the kubelet sees that in the list and makes new ones.
            (container,) = await bench.runtime.list_containers({LABEL_POD_UID: sandbox.uid})
            assert container.state is ContainerState.EXITED
            second = replace(sandbox, attempt=1)
            second_id = await bench.runtime.run_sandbox(second)
            async for event in events:
                if event.type is EventType.STARTED:
                    break
            assert event.sandbox_id == second_id


async def test_no_engine_at_all(tmp_path: Path) -> None:
    async with DockerRuntime("none", socket=tmp_path / "none.sock") as runtime:
        assert not (await runtime.status()).ready
        with pytest.raises(RuntimeUnavailable) as caught:
            await runtime.version()
        assert "systemctl start docker" in caught.value.mend
        with pytest.raises(RuntimeUnavailable):
            await runtime.update_runtime_config(CIDR)
