"""Getting a container's image onto the node (Kubernetes: "Images", imagePullPolicy)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from agent.kubelet import back_off
from agent.kubelet.pull_secrets import credentials_for
from agent.kubelet.start_error import StartError
from agent.runtime.runtime import Image, ImageNotFound, ImagePullError, Runtime, RuntimeUnavailable
from kube.clock import Clock
from kube.models import core_v1

ALWAYS = "Always"
NEVER = "Never"
IF_NOT_PRESENT = "IfNotPresent"

# While a pull is put off, the image may be loaded by hand: how often to look.
LOOK_SECONDS = 10.0


class SecretSource(Protocol):
    """Where pull secrets come from (`References`)."""

    async def secrets(self, namespace: str, names: list[str]) -> dict[str, core_v1.Secret]: ...


class _PutOff(Struct, frozen=True):
    """A pull that failed: the message, and until when it is not tried again."""

    message: str
    seconds: float
    until: float


Note = Callable[[str, str, str], None]


class ImagePuller:
    """Makes images present; failed pulls are put off longer each time, for each pod by itself."""

    def __init__(self, runtime: Runtime, secrets: SecretSource, clock: Clock) -> None:
        self._runtime = runtime
        self._secrets = secrets
        self._clock = clock
        self._put_off: dict[tuple[str, str], _PutOff] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def ensure(self, pod: core_v1.Pod, container: core_v1.Container, note: Note) -> Image:
        """The container's image, pulled if its policy says so.

        `note(type, reason, message)` records events. Raises StartError with the reasons that kubectl shows
        (ErrImagePull, ImagePullBackOff, ErrImageNeverPull, InvalidImageName) and when to try again.
        """
        reference = container.image or ""
        if not reference or reference != reference.strip():
            raise StartError("InvalidImageName", f'Failed to apply default image tag "{reference}": invalid name')
        policy = container.imagePullPolicy or default_policy(reference)
        # Pods that want the same image wait for one pull.
        async with self._locks.setdefault(reference, asyncio.Lock()):
            present = await self._runtime.image_status(reference)
            if present is not None and policy != ALWAYS:
                self._put_off.pop((pod.metadata.uid or "", reference), None)
                note("Normal", "Pulled", f'Container image "{reference}" already present on machine')
                return present
            if policy == NEVER:
                message = f'Container image "{reference}" is not present with pull policy of Never'
                note("Warning", "ErrImageNeverPull", message)
                raise StartError("ErrImageNeverPull", message, retry_seconds=LOOK_SECONDS)
            return await self._pull(pod, reference, note)

    def forget(self, uid: str) -> None:
        """Drop what is remembered about a pod that is gone."""
        for key in [key for key in self._put_off if key[0] == uid]:
            del self._put_off[key]

    async def _pull(self, pod: core_v1.Pod, reference: str, note: Note) -> Image:
        key = (pod.metadata.uid or "", reference)
        before = self._put_off.get(key)
        now = self._clock.monotonic()
        if before is not None and now < before.until:
            note("Normal", "BackOff", f'Back-off pulling image "{reference}"')
            raise self._backing_off(reference, before.message, before.until - now)
        note("Normal", "Pulling", f'Pulling image "{reference}"')
        try:
            assert pod.spec is not None
            names = [secret.name for secret in pod.spec.imagePullSecrets if secret.name]
            secrets = await self._secrets.secrets(pod.metadata.namespace or "", names) if names else {}
            await self._runtime.pull_image(reference, credentials_for(reference, secrets.values()))
            image = await self._runtime.image_status(reference)
            if image is None:
                raise ImagePullError(f"{reference} was pulled and is not there")
        except (ImageNotFound, ImagePullError, RuntimeUnavailable) as error:
            seconds = back_off.doubled(before.seconds if before is not None else 0.0)
            failed = _PutOff(str(error), seconds, self._clock.monotonic() + seconds)
            self._put_off[key] = failed
            note("Warning", "Failed", f'Failed to pull image "{reference}": {error}')
            note("Warning", "Failed", "Error: ErrImagePull")
            raise StartError(
                "ErrImagePull",
                str(error),
                retry_seconds=min(seconds, LOOK_SECONDS),
                waiting=self._backing_off(reference, failed.message, seconds),
            ) from error
        self._put_off.pop(key, None)
        took = self._clock.monotonic() - now
        note(
            "Normal",
            "Pulled",
            f'Successfully pulled image "{reference}" in {took:.3g}s. Image size: {image.size_bytes} bytes.',
        )
        return image

    def _backing_off(self, reference: str, cause: str, left: float) -> StartError:
        message = f'Back-off pulling image "{reference}": ErrImagePull: {cause}'
        return StartError("ImagePullBackOff", message, retry_seconds=min(left, LOOK_SECONDS))


def default_policy(reference: str) -> str:
    """Always for the tag `latest` (or none), else IfNotPresent. The API server sets it; this is for safety."""
    if "@" in reference:
        return IF_NOT_PRESENT
    tag = reference.rpartition("/")[2].partition(":")[2]
    return ALWAYS if tag in ("", "latest") else IF_NOT_PRESENT
