"""What happens to containers, as it happens (CRI: GetContainerEvents)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field


class EventType(StrEnum):
    """CRI: ContainerEventType, and two more.

    OOM: the kernel killed a process of the container. RELIST: events may have been lost (the stream has just begun,
    or broke and was taken up again): list sandboxes and containers to know what is.
    """

    CREATED = "CREATED"
    STARTED = "STARTED"
    STOPPED = "STOPPED"
    DELETED = "DELETED"
    OOM = "OOM"
    RELIST = "RELIST"


class ContainerEvent(Struct, frozen=True):
    """One change of one container, or of a sandbox: then `container_id` and `sandbox_id` are the same.

    `exit_code` is known for STOPPED. RELIST has no ids.
    """

    type: EventType
    timestamp: datetime
    container_id: str = ""
    sandbox_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    exit_code: int | None = None
