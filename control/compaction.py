"""Compaction: the store forgets history that nobody should need any more (Kubernetes: `--etcd-compaction-interval`)."""

from __future__ import annotations

import logging

from control.store.errors import StoreUnavailableError
from control.store.store import Store
from kube.clock import Clock

INTERVAL_SECONDS = 300.0

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
