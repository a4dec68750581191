"""Keeping the C library from holding on to memory that nobody uses.

A burst of large answers leaves free pieces all over the heap. glibc gives them back only from its end, unless it is
asked; without asking, a master that has been busy once stays at twice the memory it needs.
"""

from __future__ import annotations

import ctypes
from functools import cache

from kube.clock import Clock

TRIM_SECONDS = 60.0

_M_ARENA_MAX = -8


@cache
def _libc() -> ctypes.CDLL | None:
    found = ctypes.CDLL(None)
    return found if hasattr(found, "malloc_trim") else None  # glibc only


def limit_arenas() -> None:
    """Keep each thread from getting a heap of its own (MALLOC_ARENA_MAX, set from inside)."""
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, 2)


async def trim_periodically(clock: Clock) -> None:
    """Give free memory back to the system once a minute, until cancelled."""
    while True:
        await clock.sleep(TRIM_SECONDS)
        libc = _libc()
        if libc is not None:
            libc.malloc_trim(0)
