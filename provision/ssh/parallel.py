"""The same work on many machines at once, with a limit; one that fails keeps no other from its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcomes(Generic[T]):
    """What came of it, by name, in the order of the items: each name is in one of the two."""

    results: dict[str, T]
    failures: dict[str, Exception]


def each(items: Mapping[str, Item], work: Callable[[str, Item], T], *, limit: int) -> Outcomes[T]:
    """Call `work(name, item)` for each item in worker threads, `limit` at a time, and wait for all.

    What `work` raises is the item's failure. On an interrupt no further item is begun.
    """
    results: dict[str, T] = {}
    failures: dict[str, Exception] = {}
    if not items:
        return Outcomes(results, failures)
    pool = ThreadPoolExecutor(max_workers=max(1, min(limit, len(items))), thread_name_prefix="machines")
    try:
        futures = {name: pool.submit(work, name, item) for name, item in items.items()}
        for name, future in futures.items():
            error = future.exception()
            if error is None:
                results[name] = future.result()
            elif isinstance(error, Exception):
                failures[name] = error
            else:
                raise error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return Outcomes(results, failures)


async def each_in_threads(items: Mapping[str, Item], work: Callable[[str, Item], T], *, limit: int) -> Outcomes[T]:
    """`each`, awaited: the event loop goes on meanwhile."""
    return await asyncio.to_thread(each, items, work, limit=limit)
