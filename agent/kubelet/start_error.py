"""Why a container could not be started, in the words of its waiting state (Kubernetes: ContainerStateWaiting)."""

from __future__ import annotations

# What is missing is made by somebody who is probably just about to: no growing back-off.
CONFIG_RETRY_SECONDS = 10.0


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


class ConfigError(StartError):
    """A container cannot be made as its spec says because of something else in the cluster: a ConfigMap, a key."""

    def __init__(self, message: str) -> None:
        super().__init__("CreateContainerConfigError", message, retry_seconds=CONFIG_RETRY_SECONDS)
