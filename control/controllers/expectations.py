"""Expectations: what a controller did and its cache does not show yet (client-go: `UIDTrackingControllerExpectations`).

The problem: a controller creates three pods and is called again before the watch has brought them back. Its cache
still says "no pods", so it creates three more.

The answer: before creating or deleting, note how many creations and which deletions are on their way; each event that
the watch brings takes one off; until none is left the controller counts pods but starts nothing new. A note that is
never answered (the event was lost, the object vanished before we saw it) expires, so that a controller cannot hang
for ever: after that time the cache is surely fresh.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, field

from kube.clock import Clock

TIMEOUT_SECONDS = 300.0


class _Expected(Struct):
    creations: int
    deletions: set[str]
    since: float


class Expectations(Struct):
    """Outstanding creations (a count) and deletions (uids) for each controller key."""

    clock: Clock
    timeout_seconds: float = TIMEOUT_SECONDS
    _expected: dict[str, _Expected] = field(default_factory=dict)

    def expect(self, key: str, *, creations: int = 0, deletions: Iterable[str] = ()) -> None:
        """Note what is about to be done for `key`; a note that was not yet fulfilled is replaced."""
        self._expected[key] = _Expected(creations, set(deletions), self.clock.monotonic())

    def observe_creation(self, key: str) -> None:
        """One expected creation was seen, or will never be (it failed)."""
        expected = self._expected.get(key)
        if expected is not None and expected.creations > 0:
            expected.creations -= 1

    def observe_deletion(self, key: str, uid: str) -> None:
        """The deletion of `uid` was seen, or will never be (it failed)."""
        expected = self._expected.get(key)
        if expected is not None:
            expected.deletions.discard(uid)

    def satisfied(self, key: str) -> bool:
        """Whether the cache shows all that was done for `key`, or has had more than enough time to."""
        expected = self._expected.get(key)
        if expected is None or (expected.creations <= 0 and not expected.deletions):
            return True
        return self.clock.monotonic() - expected.since > self.timeout_seconds

    def forget(self, key: str) -> None:
        """Drop the notes of an object that is gone."""
        self._expected.pop(key, None)
