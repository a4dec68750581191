from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agent.runtime import hollow
from agent.runtime.hollow import HollowRuntime
from agent.runtime.runtime import ContainerConfig, NetworkError, SandboxConfig


def sandbox(number: int) -> SandboxConfig:
    return SandboxConfig(f"pod-{number}", "default", f"uid-{number}")


async def test_addresses_are_used_up_given_back_and_not_reused_at_once() -> None:
    runtime = HollowRuntime()
    await runtime.update_runtime_config("10.244.0.0/29")
    ids = [await runtime.run_sandbox(sandbox(number)) for number in range(5)]
    addresses = [(await runtime.sandbox_status(sandbox_id)).ip for sandbox_id in ids]
    assert addresses == [f"10.244.0.{number}" for number in range(2, 7)]
    with pytest.raises(NetworkError, match="no address is left"):
        await runtime.run_sandbox(sandbox(5))
    await runtime.stop_sandbox(ids[3])
    await runtime.remove_sandbox(ids[1])
    again = [await runtime.run_sandbox(sandbox(number)) for number in (6, 7)]
    assert {(await runtime.sandbox_status(sandbox_id)).ip for sandbox_id in again} == {"10.244.0.3", "10.244.0.5"}


async def test_statistics_grow_with_the_clock() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    runtime = HollowRuntime(images=["web:1"], now=lambda: now)
    await runtime.update_runtime_config("10.244.0.0/24")
    sandbox_id = await runtime.run_sandbox(sandbox(1))
    container_id = await runtime.create_container(sandbox_id, ContainerConfig("main", "web:1"), sandbox(1))
    await runtime.start_container(container_id)
    now += timedelta(seconds=10)
    stats = await runtime.container_stats(container_id)
    assert stats.cpu_usage_ns == 10 * hollow.CPU_NS_PER_SECOND
    assert stats.timestamp == now


async def test_a_pull_always_succeeds() -> None:
    runtime = HollowRuntime()
    assert await runtime.pull_image("web:1") == await runtime.pull_image("web:1")
    assert [image.references for image in await runtime.list_images()] == [("web:1",)]
