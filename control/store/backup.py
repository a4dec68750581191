"""Everything that the API server keeps in a store, as lines of JSON: out of one store and into another, of any engine.

A copy of an engine's own files would tie a backup to the engine, and etcd's to its version, its members and a tool for
it. What counts are the objects: each is one line, so `zcat | jq` finds a single one as well. Revisions are not kept (no
object's bytes contain one), nor what lives on a lease and ends by itself: events, the masters' addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from control.store.errors import ConflictError
from control.store.store import Store
from kube.errors import KtoolError

# Where the API server keeps objects; beside it masters coordinate themselves, which is about the old store.
ROOT = "/registry/"
PAGE = 500
# Writes under way at a time: they share the engine's commits.
WRITES = 64


class Line(msgspec.Struct, frozen=True):
    """One object: its key in the store, and the object itself."""

    key: str
    value: msgspec.Raw


class Dumped(msgspec.Struct, frozen=True):
    """How many objects were written, and the store's revision that they are all of."""

    objects: int
    revision: int


async def dump(store: Store, write: Callable[[bytes], object]) -> Dumped:
    """Write all objects as of one revision, line by line, while others go on changing them."""
    count, start_after, revision = 0, "", 0
    while True:
        page = await store.range(ROOT, start_after=start_after, limit=PAGE, revision=revision)
        revision = page.revision
        for kv in page.items:
            if not kv.lease:
                write(msgspec.json.encode(Line(kv.key, msgspec.Raw(kv.value))) + b"\n")
                count += 1
        if not page.more:
            return Dumped(count, revision)
        start_after = page.items[-1].key


async def load(store: Store, lines: Iterable[bytes]) -> int:
    """Write the objects of `dump` into a store that has none; how many there were. KtoolError if a line is no object
    or the store has objects already."""
    count, batch = 0, list[Line]()
    decoder = msgspec.json.Decoder(Line)

    async def write() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for one in batch:
                    group.create_task(_put(store, one))
        except* KtoolError as several:
            raise several.exceptions[0] from None
        batch.clear()

    for line in lines:
        try:
            one = decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise KtoolError(
                "the backup is damaged", found=f"line {count + 1}: {error}", wanted="one object in each line"
            ) from error
        if not one.key.startswith(ROOT):
            raise KtoolError("the backup is damaged", found=f"the key {one.key}", wanted=f"keys below {ROOT}")
        batch.append(one)
        count += 1
        if len(batch) == WRITES:
            await write()
    await write()
    return count


async def _put(store: Store, line: Line) -> None:
    try:
        await store.put(line.key, bytes(line.value), expected_revision=0)
    except ConflictError as error:
        raise KtoolError(
            "the store is not empty", found=f"{line.key} is there already", wanted="a store without objects"
        ) from error
