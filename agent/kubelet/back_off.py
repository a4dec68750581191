"""How long to wait before trying again (Kubernetes: CrashLoopBackOff, ImagePullBackOff). Pure."""

from __future__ import annotations

from msgspec import Struct

from agent.kubelet.observation import back_off_of
from agent.runtime.runtime import ContainerStatus

BASE_SECONDS = 10.0
CAP_SECONDS = 300.0
# A container that ran for this long is no crash loop: it starts from the beginning.
RESET_SECONDS = 600.0


# Who ended later than this from now did so before the machine's clock was set back.
CLOCK_SECONDS = 5.0


def restart_at(ended: ContainerStatus, *, now: float) -> float:
    """When the next attempt of an ended container may start (seconds since 1970; in the past: now)."""
    if ended.finished_at is None:
        return 0.0
    end = ended.finished_at.timestamp()
    if end > now + CLOCK_SECONDS:
        return now  # to wait for that moment to come again may take years
    return end + (0.0 if _was_stable(ended) else back_off_of(ended))


def next_seconds(ended: ContainerStatus | None) -> float:
    """The back-off that the next attempt gets, to be waited when that one ends: 10 s, doubled each time, to 300 s.

    `ended` is the attempt before, None for the first one. The first restart is at once, the second after 10 s.
    """
    if ended is None:
        return 0.0
    return doubled(0.0 if _was_stable(ended) else back_off_of(ended))


def doubled(seconds: float) -> float:
    """The next longer back-off."""
    return min(CAP_SECONDS, max(BASE_SECONDS, 2 * seconds))


def _was_stable(ended: ContainerStatus) -> bool:
    if ended.started_at is None or ended.finished_at is None:
        return False
    return (ended.finished_at - ended.started_at).total_seconds() >= RESET_SECONDS


class Failure(Struct, frozen=True):
    """Something that did not work, and when to try again.

    `reason` and `message` are shown while it waits (a container's waiting state); after `SHOW_SECONDS`,
    `waiting_reason` and `waiting_message` take their place where they are set (ErrImagePull becomes
    ImagePullBackOff). `seconds` is the back-off behind `retry_at`, from which the next one is doubled.
    """

    reason: str
    message: str
    at: float
    retry_at: float
    seconds: float = 0.0
    waiting_reason: str = ""
    waiting_message: str = ""

    def due(self, now: float) -> bool:
        """Whether it may be tried again; at once if the clock was set back meanwhile."""
        return now >= self.retry_at or now < self.at - CLOCK_SECONDS

    def shown(self, now: float) -> tuple[str, str]:
        """(reason, message) to show now."""
        if self.waiting_reason and now - self.at >= SHOW_SECONDS:
            return self.waiting_reason, self.waiting_message
        return self.reason, self.message


SHOW_SECONDS = 2.0
