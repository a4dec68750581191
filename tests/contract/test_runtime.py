"""What every runtime must do: one suite over Docker Engine (a private one) and hollow.

What only a runtime with processes can show of Docker Engine is in tests/agent/runtime/test_docker.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.runtime.docker import DockerRuntime
from agent.runtime.hollow import HollowRuntime
from agent.runtime.runtime import (
    LABEL_CONTAINER_NAME,
    LABEL_POD_NAME,
    LABEL_POD_UID,
    ContainerConfig,
    ContainerError,
    ContainerEvent,
    ContainerState,
    EventType,
    ImageInUse,
    ImageNotFound,
    NetworkError,
    NotFound,
    Resources,
    Runtime,
    SandboxState,
    StreamName,
)
from kube import image_archive
from tests.runtime_bench import (
    IMAGE,
    Bench,
    busybox_image,
    docker_bench,
    ended,
    first_line,
    hollow_bench,
    pod,
    run,
    shell,
)


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "hollow"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    context = docker_bench(request.getfixturevalue("private_engine")) if request.param == "docker" else hollow_bench()
    async with context as bench:
        yield bench


# --- the runtime itself


async def test_version_and_status(bench: Bench) -> None:
    version = await bench.runtime.version()
    assert version.name
    assert version.version
    status = await bench.runtime.status()
    assert status.ready
    assert {condition.type for condition in status.conditions} == {"RuntimeReady", "NetworkReady"}
    assert status.cgroup_driver in ("cgroupfs", "systemd")
    assert status.cgroup_version in (1, 2)


# --- sandboxes


async def test_sandbox_lives_and_ends(bench: Bench) -> None:
    config = pod(bench)
    before = datetime.now(UTC) - timedelta(seconds=1)
    sandbox_id = await bench.runtime.run_sandbox(config)
    status = await bench.runtime.sandbox_status(sandbox_id)
    assert (status.name, status.namespace, status.uid, status.attempt) == (config.name, "default", config.uid, 0)
    assert status.state is SandboxState.READY
    assert status.ip.startswith("10.244.7.")
    assert not status.host_network
    assert before <= status.created_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert status.labels.items() >= {"app": "web", LABEL_POD_NAME: config.name, LABEL_POD_UID: config.uid}.items()
    assert status.annotations == {"note": "a b=c"}

    await bench.runtime.stop_sandbox(sandbox_id)
    assert (await bench.runtime.sandbox_status(sandbox_id)).state is SandboxState.NOT_READY
    await bench.runtime.stop_sandbox(sandbox_id)
    await bench.runtime.remove_sandbox(sandbox_id)
    await bench.runtime.remove_sandbox(sandbox_id)
    await bench.runtime.stop_sandbox(sandbox_id)
    with pytest.raises(NotFound):
        await bench.runtime.sandbox_status(sandbox_id)


async def test_sandboxes_have_addresses_of_their_own(bench: Bench) -> None:
    ids = [await bench.runtime.run_sandbox(pod(bench)) for _ in range(3)]
    assert len({(await bench.runtime.sandbox_status(sandbox_id)).ip for sandbox_id in ids}) == 3


async def test_listed_by_labels_with_what_adoption_needs(bench: Bench) -> None:
    first, second = pod(bench), replace(pod(bench), labels={"app": "db"}, attempt=2)
    config = replace(shell("sleep 60"), attempt=3, labels={"tier": "x"}, annotations={"hash": "1"})
    first_id, container_id = await run(bench, config, first)
    second_id, _ = await run(bench, config, second)
    assert [sandbox.id for sandbox in await bench.runtime.list_sandboxes()] == [second_id, first_id]
    (found,) = await bench.runtime.list_sandboxes({"app": "db", LABEL_POD_UID: second.uid})
    assert (found.id, found.name, found.uid, found.attempt) == (second_id, second.name, second.uid, 2)
    assert found.annotations == second.annotations
    assert await bench.runtime.list_sandboxes({"app": "nothing"}) == []

    (container,) = await bench.runtime.list_containers({LABEL_POD_UID: first.uid})
    assert (container.id, container.sandbox_id, container.name) == (container_id, first_id, "main")
    assert (container.attempt, container.state, container.image) == (3, ContainerState.RUNNING, IMAGE)
    assert container.labels.items() >= {"tier": "x", LABEL_CONTAINER_NAME: "main"}.items()
    assert container.annotations == {"hash": "1"}
    assert container.image_id == (await bench.runtime.container_status(container_id)).image_id


async def test_removing_a_sandbox_removes_its_running_containers(bench: Bench) -> None:
    sandbox_id, container_id = await run(bench, shell("sleep 60"))
    await bench.runtime.remove_sandbox(sandbox_id)
    assert await bench.runtime.list_containers() == []
    with pytest.raises(NotFound):
        await bench.runtime.container_status(container_id)


async def test_no_network_before_the_pod_cidr(bench: Bench, request: pytest.FixtureRequest) -> None:
    runtime: Runtime = HollowRuntime()
    if isinstance(bench.runtime, DockerRuntime):
        runtime = DockerRuntime("other", socket=request.getfixturevalue("private_engine").socket)
    async with runtime:
        status = await runtime.status()
        assert not status.ready
        with pytest.raises(NetworkError):
            await runtime.run_sandbox(pod(bench))


# --- containers


async def test_container_states(bench: Bench) -> None:
    sandbox = pod(bench)
    sandbox_id = await bench.runtime.run_sandbox(sandbox)
    container_id = await bench.runtime.create_container(
        sandbox_id, shell("trap 'exit 0' TERM; echo ready; sleep 60 & wait"), sandbox
    )
    created = await bench.runtime.container_status(container_id)
    assert (created.state, created.exit_code, created.started_at) == (ContainerState.CREATED, None, None)

    await bench.runtime.start_container(container_id)
    running = await bench.runtime.container_status(container_id)
    assert (running.state, running.exit_code, running.finished_at) == (ContainerState.RUNNING, None, None)
    assert running.started_at is not None
    assert running.image == IMAGE
    assert running.image_id.startswith("sha256:")

    await first_line(bench, container_id)  # the shell has set its trap
    await bench.runtime.stop_container(container_id, 10)
    exited = await bench.runtime.container_status(container_id)
    assert (exited.state, exited.exit_code, exited.reason) == (ContainerState.EXITED, 0, "Completed")
    assert exited.started_at is not None
    assert exited.finished_at is not None
    assert exited.finished_at >= exited.started_at
    await bench.runtime.stop_container(container_id, 0)
    await bench.runtime.remove_container(container_id)
    await bench.runtime.remove_container(container_id)
    await bench.runtime.stop_container(container_id, 0)
    with pytest.raises(NotFound):
        await bench.runtime.container_status(container_id)


async def test_an_image_that_is_not_there(bench: Bench) -> None:
    sandbox = pod(bench)
    sandbox_id = await bench.runtime.run_sandbox(sandbox)
    assert await bench.runtime.image_status("ktool.test/none:1") is None
    with pytest.raises(ImageNotFound):
        await bench.runtime.create_container(sandbox_id, ContainerConfig("main", "ktool.test/none:1"), sandbox)


async def test_statistics_of_running_containers_only(bench: Bench) -> None:
    config = replace(shell("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; sleep 60"))
    config = replace(config, resources=Resources(memory_limit_bytes=64 << 20))
    sandbox_id, container_id = await run(bench, config)
    await asyncio.sleep(0.3)
    stats = await bench.runtime.container_stats(container_id)
    assert stats.name == "main"
    assert stats.cpu_usage_ns > 0
    assert 0 < stats.memory_working_set_bytes <= stats.memory_usage_bytes < 64 << 20
    assert stats.memory_limit_bytes == 64 << 20
    assert [found.id for found in await bench.runtime.list_stats()] == [container_id]
    assert await bench.runtime.list_stats({LABEL_POD_UID: "none"}) == []
    later = await bench.runtime.container_stats(container_id)
    assert later.cpu_usage_ns >= stats.cpu_usage_ns
    assert later.timestamp > stats.timestamp
    await bench.runtime.stop_sandbox(sandbox_id)
    assert await bench.runtime.list_stats() == []
    with pytest.raises(NotFound):
        await bench.runtime.container_stats(container_id)


async def test_commands_only_in_running_containers(bench: Bench) -> None:
    _, container_id = await run(bench, shell("sleep 60"))
    assert (await bench.runtime.exec_sync(container_id, ["true"], timeout=10)).exit_code == 0
    await bench.runtime.stop_container(container_id, 0)
    assert (await ended(bench, container_id)).exit_code == 137
    with pytest.raises(ContainerError):
        await bench.runtime.exec_sync(container_id, ["true"], timeout=10)
    with pytest.raises(ContainerError):
        await bench.runtime.attach(container_id)
    with pytest.raises(NotFound):
        await bench.runtime.exec_sync("0" * 64, ["true"], timeout=10)


async def test_events_begin_with_relist_and_tell_a_containers_life(bench: Bench) -> None:
    async with asyncio.timeout(30), aclosing(bench.runtime.events()) as events:
        assert (await anext(events)).type is EventType.RELIST
        sandbox_id, container_id = await run(bench, shell("exit 0"))
        await bench.runtime.stop_container(container_id, 1)
        await bench.runtime.remove_sandbox(sandbox_id)
        seen: list[ContainerEvent] = []
        async for event in events:
            seen.append(event)
            if event.type is EventType.DELETED and event.container_id == sandbox_id:
                break
    kinds = [event.type for event in seen if event.container_id == container_id]
    assert kinds == [EventType.CREATED, EventType.STARTED, EventType.STOPPED, EventType.DELETED]
    stopped = next(event for event in seen if event.type is EventType.STOPPED)
    assert (stopped.exit_code, stopped.sandbox_id) == (0, sandbox_id)
    assert stopped.labels[LABEL_CONTAINER_NAME] == "main"
    assert {event.sandbox_id for event in seen} == {sandbox_id}


async def test_following_a_log_ends_with_the_container(bench: Bench) -> None:
    _, container_id = await run(bench, shell("echo begun; sleep 60"))
    async with asyncio.timeout(20), aclosing(bench.runtime.logs(container_id, follow=True)) as lines:
        assert (await anext(lines)).stream is StreamName.STDOUT
        await bench.runtime.stop_container(container_id, 0)
        assert [line async for line in lines] == []


async def test_images_are_listed_and_removed(bench: Bench, tmp_path: Path) -> None:
    archive = tmp_path / "other.tar"
    source = dataclasses.replace(busybox_image("other:latest"), env=(("OTHER", "1"),))
    image_archive.write(source, archive)
    assert await bench.runtime.load_image(archive) == ["other:latest"]
    image = await bench.runtime.image_status("other:latest")
    assert image is not None
    assert image.references == ("other:latest",)
    assert image.size_bytes > 0
    assert await bench.runtime.image_status(image.id) == image
    assert "other:latest" in {name for found in await bench.runtime.list_images() for name in found.references}
    await bench.runtime.remove_image(image.id)
    await bench.runtime.remove_image("other:latest")
    assert await bench.runtime.image_status("other:latest") is None


async def test_an_image_in_use_stays(bench: Bench) -> None:
    await run(bench, shell("sleep 60"))
    with pytest.raises(ImageInUse):
        await bench.runtime.remove_image(IMAGE)
    assert await bench.runtime.image_status(IMAGE) is not None


async def test_image_file_system(bench: Bench) -> None:
    usage = await bench.runtime.image_fs_info()
    assert 0 < usage.used_bytes <= usage.capacity_bytes
    assert usage.available_bytes > 0
