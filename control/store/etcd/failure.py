"""What an error of gRPC or etcd means for the call that it ended.

The question behind every failure: can the change have happened? A read may be repeated in any case. A write may be
repeated only if it certainly never reached a member that could carry it out; if its outcome is unknown, whoever repeats
it must know what a second one means: a compare-and-swap reports a conflict with itself (see `backend`).
"""

from __future__ import annotations

from enum import Enum, auto

import grpc
import grpc.aio
from msgspec import Struct


class Meaning(Enum):
    """What became of a call."""

    COMPACTED = auto()  # the revision asked for is forgotten
    FUTURE = auto()  # the revision asked for has not happened yet
    NO_LEASE = auto()  # the lease does not exist
    TOO_LARGE = auto()  # refused for its size
    DENIED = auto()  # etcd does not let us: a matter of certificates and roles
    FULL = auto()  # etcd takes nothing more until somebody has made room
    NOT_SENT = auto()  # it reached no member, or was refused before anything was done: repeat whatever it was
    UNKNOWN = auto()  # it may have happened: repeat a read


_BY_TEXT = (
    ("revision has been compacted", Meaning.COMPACTED),
    ("revision is a future revision", Meaning.FUTURE),
    ("lease not found", Meaning.NO_LEASE),
    ("request is too large", Meaning.TOO_LARGE),
    ("message larger than max", Meaning.TOO_LARGE),  # gRPC's limit, of either side
    ("database space exceeded", Meaning.FULL),
    # gRPC's own words for a call that it never sent
    ("failed to connect to all addresses", Meaning.NOT_SENT),
    # etcd refuses these before it proposes anything
    ("too many requests", Meaning.NOT_SENT),
    ("rpc not supported for learner", Meaning.NOT_SENT),
    ("etcdserver: no leader", Meaning.NOT_SENT),  # because we require one (calls.REQUIRE_LEADER)
)
_DENIED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


def meaning(code: grpc.StatusCode, details: str) -> Meaning:
    """What a status means."""
    for text, found in _BY_TEXT:
        if text in details:
            return found
    return Meaning.DENIED if code in _DENIED else Meaning.UNKNOWN


def text(error: BaseException) -> str:
    """What to tell of an error, in one line."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.details() or error.code().name
    return str(error) or type(error).__name__


class Retry(Struct, frozen=True):
    """How often and how soon a call is repeated: seconds after the first attempt, and pauses that double.

    The other members are tried at once: a pause comes only when each has had its turn.
    """

    seconds: float = 5.0
    first_pause: float = 0.05
    longest_pause: float = 1.0

    def pause(self, attempt: int, members: int, *, elapsed: float) -> float | None:
        """Seconds to wait after `attempt` (from 1) has failed, `elapsed` seconds after the beginning; None: give up."""
        rounds, within = divmod(attempt, members)
        wait = 0.0 if within else min(self.first_pause * 2.0 ** min(rounds - 1, 16), self.longest_pause)
        return wait if elapsed + wait < self.seconds else None
