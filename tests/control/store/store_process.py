"""A process of its own with a store open: what the crash tests start, observe and kill.

store_process.py write PATH    eight writers; a line "key value revision" for each acknowledged write
store_process.py hold PATH     says "open" and keeps the store open
store_process.py fill PATH     writes into a disk that fills up and is cleared again (by a file size limit)
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import sys
from pathlib import Path

from control.store.errors import StoreUnavailableError
from control.store.sqlite import SqliteStore


async def write(path: Path) -> None:
    store = await SqliteStore.open(path)

    async def writer(number: int) -> None:
        for i in itertools.count():
            key = f"/{os.getpid()}/{number}/{i % 10}"
            revision = await store.put(key, b"%d" % i * 100)
            os.write(1, f"{key} {i} {revision}\n".encode())  # one write: a line is there as a whole or not at all

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(writer(number))


async def hold(path: Path) -> None:
    await SqliteStore.open(path)
    os.write(1, b"open\n")
    await asyncio.Event().wait()


async def fill(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.put("/before", b"x")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, unlimited[1]))
    acknowledged = {}
    refused = 0
    async with store.watch("/fill/", from_revision=2) as watch:
        for i in range(100):
            results = await asyncio.gather(
                *(store.put(f"/fill/{i}/{n}", bytes(20_000)) for n in range(4)), return_exceptions=True
            )
            for n, result in enumerate(results):
                if isinstance(result, int):
                    acknowledged[f"/fill/{i}/{n}"] = result
                else:
                    assert isinstance(result, StoreUnavailableError), result
                    refused += 1
        assert acknowledged, "nothing fitted"
        assert refused, "the limit had no effect"
        assert await store.revision() == max(acknowledged.values())

        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        acknowledged["/fill/after"] = await store.put("/fill/after", b"x")
        assert acknowledged["/fill/after"] == len(acknowledged) + 2, "a refused write took a revision"
        seen: dict[str, int] = {}
        while len(seen) < len(acknowledged):
            seen.update({event.kv.key: event.kv.mod_revision for event in await anext(watch)})
    await store.close()

    store = await SqliteStore.open(path)
    found = {kv.key: kv.mod_revision for kv in (await store.range("/fill/")).items}
    assert found == seen == acknowledged
    await store.close()
    os.write(1, b"consistent\n")


if __name__ == "__main__":
    asyncio.run({"write": write, "hold": hold, "fill": fill}[sys.argv[1]](Path(sys.argv[2])))
