"""Bringing pods' statuses to the API server, and removing pods that have ended (Kubernetes: the status manager).

Workers say what the status is (`set`), as often as they like; one task writes what differs from what the API has, the
newest only, and goes on trying while the master is away. A status has other writers too (conditions of readiness
gates, the node controller marking pods of a silent node), so a write names the version that it was made from
whenever conditions of others are in it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from agent.kubelet.pod_status import OWN_CONDITIONS
from kube import objects
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.models import core_v1
from kube.status import ApiError, is_conflict, is_not_found

RETRY_BASE_SECONDS = 0.5
RETRY_CAP_SECONDS = 10.0

log = logging.getLogger(__name__)


class StatusWriter:
    """Writes statuses of pods, by UID. `tell` hears at once of each status, and None of a pod that is gone."""

    def __init__(
        self,
        client: Client,
        *,
        clock: Clock | None = None,
        tell: Callable[[core_v1.Pod, core_v1.PodStatus | None], None] = lambda pod, status: None,
    ) -> None:
        self._client = client
        self._tell = tell
        self._clock = clock or SystemClock()
        self._known: dict[str, core_v1.Pod] = {}
        self._wanted: OrderedDict[str, core_v1.PodStatus] = OrderedDict()
        self._wake = asyncio.Event()

    def observe(self, pod: core_v1.Pod) -> None:
        """Take note of a pod as the API has it (from a watch)."""
        known = self._known.get(objects.uid(pod))
        if known is None or _revision(pod) >= _revision(known):
            self._known[objects.uid(pod)] = pod

    def forget(self, uid: str) -> None:
        """The pod is gone: nothing is left to write."""
        known = self._known.pop(uid, None)
        if known is not None:
            self._tell(known, None)
        self._wanted.pop(uid, None)

    def written(self, uid: str) -> core_v1.PodStatus | None:
        """The status that the API has, as far as we know."""
        known = self._known.get(uid)
        return known.status if known is not None else None

    def set(self, uid: str, status: core_v1.PodStatus) -> None:
        """Say what the status of an observed pod is; written soon if it differs."""
        known = self._known.get(uid)
        if known is None:
            return
        self._tell(known, status)
        if difference(known.status, status):
            self._wanted[uid] = status
            self._wake.set()
        else:
            self._wanted.pop(uid, None)

    async def run(self) -> None:
        """Write until cancelled."""
        failures = 0
        while True:
            if not self._wanted:
                self._wake.clear()
                await self._wake.wait()
            uid, status = self._wanted.popitem(last=False)
            try:
                await self.write(uid, status)
                failures = 0
            except (ApiError, ConnectionError, TimeoutError) as error:
                failures += 1
                level = logging.INFO if failures < 3 else logging.DEBUG
                log.log(level, "status of pod %s is not written yet: %s", uid, error)
                # Whatever was set meanwhile is newer.
                self._wanted.setdefault(uid, status)
                await self._clock.sleep(_delay(failures))

    async def write(self, uid: str, status: core_v1.PodStatus) -> None:
        """Write one status now. A pod that is gone is no error; ApiError and ConnectionError otherwise."""
        known = self._known.get(uid)
        if known is None:
            return
        name, namespace = objects.name(known), objects.namespace(known)
        metadata: dict[str, Any] = {"uid": uid}
        try:
            if _shared(known, status):
                known = await self._client.get(core_v1.Pod, name, namespace=namespace)
                if objects.uid(known) != uid:
                    self.forget(uid)
                    return
                status = _with_foreign(status, known.status)
                metadata["resourceVersion"] = objects.resource_version(known)
            patch = difference(known.status, status)
            if not patch:
                return
            body = {"metadata": metadata, "status": patch}
            done = await self._client.patch(core_v1.Pod, name, body, namespace=namespace, subresource="status")
        except ApiError as error:
            if is_not_found(error) or (is_conflict(error) and "resourceVersion" not in metadata):
                log.debug("pod %s/%s (%s) is gone: %s", namespace, name, uid, error)
                self.forget(uid)
                return
            raise
        if uid in self._known:
            self.observe(done)

    async def finish(self, uid: str, status: core_v1.PodStatus | None) -> None:
        """Write the last status and remove the pod's object; tries until the master has said that it is gone."""
        self._wanted.pop(uid, None)
        failures = 0
        if (ended := self._known.get(uid)) is not None:
            self._tell(ended, None)
        while True:
            known = self._known.get(uid)
            if known is None:
                return
            try:
                if status is not None:
                    await self.write(uid, status)
                await self._client.delete(
                    core_v1.Pod,
                    objects.name(known),
                    namespace=objects.namespace(known),
                    grace_period_seconds=0,
                    uid=uid,
                )
                return
            except ApiError as error:
                if is_not_found(error) or is_conflict(error):
                    return
                log.info("pod %s/%s is not removed yet: %s", objects.namespace(known), objects.name(known), error)
            except (ConnectionError, TimeoutError) as error:
                log.info("pod %s/%s is not removed yet: %s", objects.namespace(known), objects.name(known), error)
            failures += 1
            await self._clock.sleep(_delay(failures))


def difference(old: core_v1.PodStatus | None, new: core_v1.PodStatus) -> dict[str, Any]:
    """The merge patch that makes `old` into `new`; empty if they are the same."""
    before = objects.to_dict(old) if old is not None else {}
    after = objects.to_dict(new)
    return {name: after.get(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _shared(pod: core_v1.Pod, status: core_v1.PodStatus) -> bool:
    """Whether others write conditions of this pod, so that two writers may meet."""
    gated = pod.spec is not None and bool(pod.spec.readinessGates)
    return gated or any(c.type not in OWN_CONDITIONS for c in status.conditions)


def _with_foreign(status: core_v1.PodStatus, fresh: core_v1.PodStatus | None) -> core_v1.PodStatus:
    """The status with others' conditions as they are now."""
    found = objects.copy(status)
    own = [c for c in found.conditions if c.type in OWN_CONDITIONS]
    found.conditions = [*own, *(c for c in (fresh.conditions if fresh else []) if c.type not in OWN_CONDITIONS)]
    return found


def _revision(pod: core_v1.Pod) -> int:
    text = objects.resource_version(pod)
    return int(text) if text.isdigit() else 0


def _delay(failures: int) -> float:
    return random.uniform(0.5, 1.0) * min(RETRY_BASE_SECONDS * 2.0**failures, RETRY_CAP_SECONDS)  # noqa: S311
