"""Taking a node out of service and back (Kubernetes task: "Safely Drain a Node").

Cordoned first, so that nothing new arrives; then each of its pods is evicted, which lets its controller replace it
elsewhere; at last they are waited for. Pods that nobody would replace are a reason to stop before the first eviction,
unless `force` says that losing them is fine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.errors import KtoolError
from kube.models import core_v1, policy_v1
from kube.models.meta_v1 import ObjectMeta
from kube.status import ApiError

POLL_SECONDS = 0.5
FINISHED = frozenset({"Succeeded", "Failed"})
MIRROR = "kubernetes.io/config.mirror"


class PodsWouldBeLost(KtoolError):
    """There are pods on the node that nobody would replace; the node is as it was."""


class DrainTimedOut(KtoolError):
    """Pods are still there; the node stays cordoned."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """What draining a node means for its pods: those to evict, those that stay (with the reason), and those that
    nobody would replace."""

    evict: tuple[core_v1.Pod, ...]
    stay: tuple[tuple[core_v1.Pod, str], ...]
    lost: tuple[core_v1.Pod, ...]


def plan(pods: Iterable[core_v1.Pod]) -> Eviction:
    """Sort a node's pods, as `kubectl drain` does."""
    evict, stay, lost = [], [], []
    for pod in pods:
        owner = next((o for o in pod.metadata.ownerReferences or () if o.controller), None)
        if MIRROR in (pod.metadata.annotations or {}):
            stay.append((pod, "static"))
        elif owner is not None and owner.kind == "DaemonSet":
            stay.append((pod, "of a DaemonSet"))
        elif (pod.status.phase if pod.status else "") in FINISHED or owner is not None:
            evict.append(pod)
        else:
            lost.append(pod)
    return Eviction(tuple(evict), tuple(stay), tuple(lost))


def full_name(pod: core_v1.Pod) -> str:
    """`namespace/name`."""
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


async def cordon(client: Client, node: str, *, unschedulable: bool = True) -> bool:
    """Have the node take no new pods (or take them again); True if it was otherwise before. ApiError if there is no
    such node."""
    before = await client.get(core_v1.Node, node)
    if bool(before.spec and before.spec.unschedulable) == unschedulable:
        return False
    await client.patch(core_v1.Node, node, {"spec": {"unschedulable": unschedulable or None}})
    return True


async def drain(
    client: Client,
    node: str,
    *,
    timeout: float,
    force: bool = False,
    report: Callable[[str], None] = lambda line: None,
    clock: Clock | None = None,
) -> list[str]:
    """Cordon a node and evict its pods; gives their names once they are gone.

    PodsWouldBeLost (without `force`; the node is left as it was), DrainTimedOut if pods are still there after `timeout`
    seconds (the node stays cordoned).
    """
    now = clock or SystemClock()
    # Before looking: what is bound to the node after the look would be neither evicted nor waited for.
    cordoned = await cordon(client, node)
    todo = plan(await _pods(client, node))
    if todo.lost and not force:
        if cordoned:
            await cordon(client, node, unschedulable=False)
        raise PodsWouldBeLost(
            f"pods on {node} have no controller: nobody would replace them",
            found=", ".join(map(full_name, todo.lost)),
            wanted="pods of Deployments, ReplicaSets and the like",
            mend="delete them, or go on with --force and lose them",
        )
    deadline = now.monotonic() + timeout
    waiting = {pod.metadata.uid: pod for pod in (*todo.evict, *todo.lost)}
    asked: set[str | None] = set()
    while waiting:
        for uid, pod in waiting.items():
            if uid not in asked and await _evict(client, pod, report):
                asked.add(uid)
        there = {pod.metadata.uid for pod in await _pods(client, node)}
        gone = [uid for uid in waiting if uid not in there]
        for uid in gone:
            report(f"{full_name(waiting.pop(uid))} is gone")
        if waiting and now.monotonic() > deadline:
            raise DrainTimedOut(
                f"pods on {node} do not go",
                found=", ".join(map(full_name, waiting.values())),
                wanted=f"gone within {timeout:g} s",
                mend="see kubectl describe; the node takes no new pods until ktool [--lab INVENTORY] node uncordon",
            )
        if waiting:
            await now.sleep(POLL_SECONDS)
    return [full_name(pod) for pod in (*todo.evict, *todo.lost)]


async def _pods(client: Client, node: str) -> Sequence[core_v1.Pod]:
    return (await client.list(core_v1.Pod, field_selector=f"spec.nodeName={node}")).items


async def _evict(client: Client, pod: core_v1.Pod, report: Callable[[str], None]) -> bool:
    """Ask for an eviction; False if a disruption budget does not allow it yet."""
    name, namespace = pod.metadata.name or "", pod.metadata.namespace or ""
    eviction = policy_v1.Eviction(
        apiVersion="policy/v1", kind="Eviction", metadata=ObjectMeta(name=name, namespace=namespace)
    )
    try:
        await client.create_subresource(
            core_v1.Pod, name, "eviction", msgspec.to_builtins(eviction), namespace=namespace
        )
    except ApiError as error:
        if error.code == 404:
            return True
        if error.code == 429:
            report(f"{full_name(pod)}: {error.message}")
            return False
        raise
    report(f"{full_name(pod)} is asked to go")
    return True
