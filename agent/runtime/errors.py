"""What a container runtime may answer instead of the result; CRI speaks of these as gRPC status codes."""

from __future__ import annotations

from kube.errors import KtoolError


class ContainerRuntimeError(KtoolError):
    """Anything that a runtime raises on purpose. `what`, `found`, `wanted`, `mend` are for the user."""


class RuntimeUnavailable(ContainerRuntimeError):
    """The runtime does not answer (CRI: Unavailable). The call may or may not have had its effect: list, then retry."""


class NotFound(ContainerRuntimeError):
    """No such sandbox or container (CRI: NotFound)."""


class ContainerError(ContainerRuntimeError):
    """The runtime refused or failed to make or start a sandbox or a container, or to run a command in one."""


class ExecTimeout(ContainerRuntimeError):
    """A command did not end in time (CRI: DeadlineExceeded); it has been killed where the runtime can do so."""


class NetworkError(ContainerRuntimeError):
    """The pods' network does not exist and cannot be made as wanted."""


class ImageNotFound(ContainerRuntimeError):
    """The image is not on the node, or the registry does not have it."""


class ImagePullError(ContainerRuntimeError):
    """The image could not be pulled: no registry answers, no permission, a broken transfer."""


class ImageLoadError(ContainerRuntimeError):
    """The stream or file is not an image archive that the runtime can read."""


class ImageInUse(ContainerRuntimeError):
    """The image cannot be removed: a container uses it."""
