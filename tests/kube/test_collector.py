"""The collector: put off while a program is loaded, as ever afterwards."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from kube import collector
from kube.clock import VirtualClock


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_put_off_and_settled() -> None:
    usual = gc.get_threshold()
    collector.put_off()
    assert gc.get_threshold()[0] == collector.LOADING_THRESHOLD
    assert gc.isenabled()
    collector.settle()
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() > 0


async def test_settles_when_the_start_is_over() -> None:
    clock = VirtualClock()
    collector.put_off()
    settling = asyncio.create_task(collector.settle_later(clock))
    await clock.advance(collector.LOADED_SECONDS - 1)
    assert gc.get_threshold()[0] == collector.LOADING_THRESHOLD
    await clock.advance(1)
    await settling
    assert gc.get_threshold()[0] < collector.LOADING_THRESHOLD
