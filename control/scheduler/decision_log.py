"""The latest decisions, for whoever asks why a pod is where it is, or nowhere."""

from __future__ import annotations

from collections import deque
from typing import Any

from msgspec import Struct

from control.scheduler.decision import Decision
from kube import times

KEPT = 500


class DecisionRecord(Struct, frozen=True):
    """A decision and when it was made: `at` in seconds since 1970, `seconds` how long it took."""

    at: float
    key: str
    uid: str
    attempt: int
    decision: Decision
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        decision = self.decision
        return {
            "time": times.rfc3339(self.at),
            "pod": self.key,
            "uid": self.uid,
            "attempt": self.attempt,
            "microseconds": round(self.seconds * 1e6),
            "node": decision.node,
            "message": decision.message,
            "nodes": decision.nodes,
            "possible": decision.possible,
            "refused": [{"filter": r.filter, "nodes": r.nodes, "examples": [*r.examples]} for r in decision.refused],
            "scores": dict(decision.scores),
        }


class DecisionLog:
    """Remembers the last decisions, the oldest forgotten first."""

    def __init__(self, kept: int = KEPT) -> None:
        self._records: deque[DecisionRecord] = deque(maxlen=kept)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: DecisionRecord) -> None:
        self._records.append(record)

    def recent(self, limit: int = KEPT) -> list[DecisionRecord]:
        """The latest first."""
        return [*reversed(self._records)][:limit]

    def of(self, key: str) -> list[DecisionRecord]:
        """Those about one pod (`namespace/name`), the latest first."""
        return [record for record in reversed(self._records) if record.key == key]
