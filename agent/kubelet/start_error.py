"""Why a container could not be started, in the words of its waiting state (Kubernetes: ContainerStateWaiting)."""

from __future__ import annotations


class StartError(Exception):
    """`reason` is one word (ErrImagePull, CreateContainerConfigError...), `message` explains it.

    `retry_seconds` says when to try again; None leaves it to the usual back-off. `waiting` is what to show instead
    once the failure itself is old news.
    """

    def __init__(
        self, reason: str, message: str, *, retry_seconds: float | None = None, waiting: StartError | None = None
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retry_seconds = retry_seconds
        self.waiting = waiting
