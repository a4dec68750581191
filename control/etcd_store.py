"""The store of a master that is one of several: opened lazily, and asked now and then whether it answers.

gRPC is imported here and nowhere before, so a master with the embedded store does not pay for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from control.store.errors import StoreError
from control.store.etcd.config import EtcdConfig
from control.store.store import Store
from kube.clock import Clock
from kube.errors import KtoolError

PROBE_SECONDS = 2.0

log = logging.getLogger(__name__)


async def open_etcd(config: EtcdConfig, clock: Clock) -> Store:
    """The store in etcd, which need not answer yet. KtoolError if gRPC or the certificates' files are missing."""
    try:
        from control.store.etcd.backend import EtcdStore
    except ModuleNotFoundError as error:
        raise KtoolError(
            "the etcd engine cannot be loaded",
            found=f"no module {error.name}",
            wanted="gRPC and protobuf",
            mend="pip install 'ktool[etcd]'",
        ) from error
    return await EtcdStore.open(config, clock=clock)


async def watch_health(store: Store, clock: Clock, told: Callable[[str | None], None]) -> None:
    """Tell every few seconds what is wrong with the store (None: nothing), until cancelled."""
    before: str | None = ""
    while True:
        try:
            await store.revision()
            wrong = None
        except StoreError as error:
            wrong = str(error)
        if (wrong is None) != (before is None):
            if wrong is None:
                log.info("etcd answers")
            else:
                log.error("etcd does not answer, trying again: %s", wrong)
        told(wrong)
        before = wrong
        await clock.sleep(PROBE_SECONDS)
