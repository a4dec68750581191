"""Why a volume cannot be made."""

from __future__ import annotations

from kube.errors import KtoolError


class VolumeError(KtoolError):
    """A volume of a pod cannot be made as its spec says; `volume` is its name (Kubernetes: event FailedMount)."""

    def __init__(self, volume: str, problem: str) -> None:
        super().__init__(f'MountVolume.SetUp failed for volume "{volume}" : {problem}')
        self.volume = volume
        self.problem = problem
