"""Compaction: the store forgets history that nobody should need any more (Kubernetes: `--etcd-compaction-interval`).

Several masters agree through one key of the store: it holds what was the revision when it was written last. After
`interval` each tries to swap it for the revision of now; one succeeds, and compacts to what the key held before. The
others take note of the key's new revision, and try again an interval later (kube-apiserver's compactor does the same).
"""

from __future__ import annotations

import logging

from control.store.errors import ConflictError, StoreError, StoreUnavailableError
from control.store.store import Store
from kube.clock import Clock

INTERVAL_SECONDS = 300.0
TURN_KEY = "/compact_rev_key"

log = logging.getLogger(__name__)


async def compact_periodically(store: Store, clock: Clock, *, interval: float = INTERVAL_SECONDS) -> None:
    """Every `interval` seconds forget what is older than `interval`, until cancelled.

    So the last 5 to 10 minutes can always be watched from and paged through.
    """
    before = await store.revision()
    while True:
        await clock.sleep(interval)
        try:
            await store.compact(before)
            before = await store.revision()
        except StoreUnavailableError as error:
            log.warning("the store cannot be compacted for now: %s", error)


async def compact_in_turn(store: Store, clock: Clock, *, interval: float = INTERVAL_SECONDS) -> None:
    """As `compact_periodically`, when others do the same with this store: one of all compacts each time."""
    turn, before = 0, 0  # the key's revision and what it held, as far as known
    while True:
        try:
            now = await store.revision()
            turn = await store.put(TURN_KEY, b"%d" % now, expected_revision=turn)
            if before:
                await store.compact(before)
                log.info("compacted the store to revision %d", before)
            before = now
        except ConflictError as error:
            # somebody else had the turn
            turn, before = (error.actual.mod_revision, _number(error.actual.value)) if error.actual else (0, 0)
        except StoreError as error:
            # also where a restored etcd has not come as far as this process remembers
            log.warning("the store cannot be compacted for now: %s", error)
        await clock.sleep(interval)


def _number(value: bytes) -> int:
    """A revision; 0 for what is none, which whoever has the next turn writes over."""
    return int(value) if value.isdigit() else 0
