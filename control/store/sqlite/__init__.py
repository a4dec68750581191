"""The embedded default engine: one SQLite file, one process (see `backend`)."""

from __future__ import annotations

from control.store.sqlite.backend import SqliteStore

__all__ = ["SqliteStore"]
