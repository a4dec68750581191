"""Revisions of a Deployment: one ReplicaSet per pod template, found by its template, named by the template's hash.

Data that `kubectl rollout history`, `undo` and `status` read live in annotations of ReplicaSets: the revision number,
earlier numbers of the same template (a rollback brings an old ReplicaSet forward), and the size the Deployment had when
the ReplicaSet was last scaled (which is how a scaling by the user is told from a step of the rollout).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import orjson

from kube import objects, times
from kube.models import apps_v1, core_v1, meta_v1

POD_TEMPLATE_HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
DEPRECATED_ROLLBACK_TO = "deprecated.deployment.rollback.to"

# Annotations of the Deployment that say something about the Deployment only.
_NOT_COPIED = frozenset(
    {LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, DEPRECATED_ROLLBACK_TO}
)
_HISTORY_LIMIT = 2000

# Letters and digits that neither make words nor are mistaken for each other (Kubernetes' `rand.SafeEncodeString`).
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: core_v1.PodTemplateSpec, collision_count: int | None = None) -> str:
    """Stable short hash of a pod template; another collision count gives another hash of the same template."""
    digest = hashlib.blake2b(_canonical(template), digest_size=6)
    if collision_count:
        digest.update(str(collision_count).encode())
    number = int.from_bytes(digest.digest(), "big")
    letters = []
    for _ in range(10):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(letters)


def same_template(one: core_v1.PodTemplateSpec | None, other: core_v1.PodTemplateSpec | None) -> bool:
    """Whether two templates describe the same pods, whatever their pod-template-hash."""
    if one is None or other is None:
        return one is other
    return _canonical(one) == _canonical(other)


def _canonical(template: core_v1.PodTemplateSpec) -> bytes:
    data = objects.to_dict(template)
    metadata = data.get("metadata") or {}
    labels = {k: v for k, v in metadata.get("labels", {}).items() if k != POD_TEMPLATE_HASH}
    metadata = {k: v for k, v in {**metadata, "labels": labels}.items() if v and k != "creationTimestamp"}
    return orjson.dumps({"metadata": metadata, "spec": data.get("spec") or {}}, option=orjson.OPT_SORT_KEYS)


def find_new(deployment: apps_v1.Deployment, replica_sets: Iterable[apps_v1.ReplicaSet]) -> apps_v1.ReplicaSet | None:
    """The ReplicaSet that has the Deployment's present template; the oldest, should there be several."""
    assert deployment.spec is not None
    for replica_set in by_age(replica_sets):
        if replica_set.spec and same_template(replica_set.spec.template, deployment.spec.template):
            return replica_set
    return None


def by_age(replica_sets: Iterable[apps_v1.ReplicaSet]) -> list[apps_v1.ReplicaSet]:
    """Oldest first; by name where creation fell into the same second."""
    return sorted(replica_sets, key=lambda rs: (_created(rs), objects.name(rs)))


def _created(replica_set: apps_v1.ReplicaSet) -> float:
    stamp = objects.meta(replica_set).creationTimestamp
    return times.parse(stamp) if stamp else float("inf")


def revision(obj: apps_v1.Deployment | apps_v1.ReplicaSet) -> int:
    """The revision number in the annotations; 0 if absent or malformed."""
    text = objects.meta(obj).annotations.get(REVISION, "0")
    return int(text) if text.isdecimal() else 0


def next_revision(old: Iterable[apps_v1.ReplicaSet]) -> int:
    """One more than the largest revision of the old ReplicaSets."""
    return max((revision(rs) for rs in old), default=0) + 1


def annotations_of_new(
    deployment: apps_v1.Deployment, existing: Mapping[str, str] | None, number: int
) -> dict[str, str]:
    """Annotations of the new ReplicaSet: the Deployment's, the revision, and revisions it had before.

    `existing` are its present annotations, None when it is about to be created. The number only ever grows.
    """
    found = dict(existing or {})
    found.update({k: v for k, v in objects.meta(deployment).annotations.items() if k not in _NOT_COPIED})
    before = found.get(REVISION, "")
    if not before.isdecimal() or int(before) < number:
        found[REVISION] = str(number)
        if before and existing is not None:
            found[REVISION_HISTORY] = _longer_history(found.get(REVISION_HISTORY, ""), before)
    return found


def _longer_history(history: str, before: str) -> str:
    """The history with one more revision at its end; the oldest fall off when it grows too long."""
    entries = [entry for entry in history.split(",") if entry]
    if before not in entries:
        entries.append(before)
    while len(",".join(entries)) > _HISTORY_LIMIT:
        entries.pop(0)
    return ",".join(entries)


def size_annotations(desired: int, surge: int) -> dict[str, str]:
    """Annotations that note the size of the Deployment at the time of a scaling."""
    return {DESIRED_REPLICAS: str(desired), MAX_REPLICAS: str(desired + surge)}


def desired_annotation(replica_set: apps_v1.ReplicaSet) -> int | None:
    return _number(replica_set, DESIRED_REPLICAS)


def max_annotation(replica_set: apps_v1.ReplicaSet) -> int | None:
    return _number(replica_set, MAX_REPLICAS)


def _number(replica_set: apps_v1.ReplicaSet, name: str) -> int | None:
    text = objects.meta(replica_set).annotations.get(name, "")
    return int(text) if text.isdecimal() else None


def new_replica_set(
    deployment: apps_v1.Deployment, *, replicas: int, annotations: dict[str, str]
) -> apps_v1.ReplicaSet:
    """The ReplicaSet to create for the Deployment's present template: `<deployment>-<hash>`."""
    assert deployment.spec is not None
    assert deployment.spec.template is not None
    spec = deployment.spec
    collisions = deployment.status.collisionCount if deployment.status else None
    hashed = template_hash(deployment.spec.template, collisions)
    template = objects.copy(deployment.spec.template)
    template.metadata = template.metadata or meta_v1.ObjectMeta()
    template.metadata.labels = {**template.metadata.labels, POD_TEMPLATE_HASH: hashed}
    selector = objects.copy(spec.selector) if spec.selector else meta_v1.LabelSelector()
    selector.matchLabels = {**selector.matchLabels, POD_TEMPLATE_HASH: hashed}
    return apps_v1.ReplicaSet(
        metadata=meta_v1.ObjectMeta(
            name=f"{objects.name(deployment)}-{hashed}",
            namespace=objects.namespace(deployment),
            labels=dict(template.metadata.labels),
            annotations=annotations,
            ownerReferences=[objects.owner_reference(deployment)],
        ),
        spec=apps_v1.ReplicaSetSpec(
            replicas=replicas, minReadySeconds=spec.minReadySeconds, selector=selector, template=template
        ),
    )


def to_clean_up(old: Sequence[apps_v1.ReplicaSet], limit: int | None) -> list[apps_v1.ReplicaSet]:
    """Old ReplicaSets beyond `limit` (revisionHistoryLimit) that hold nothing any more, lowest revisions first."""
    if limit is None:
        return []
    alive = sorted((rs for rs in old if not objects.is_deleting(rs)), key=lambda rs: (revision(rs), _created(rs)))
    return [rs for rs in alive[: max(0, len(alive) - limit)] if _is_empty(rs)]


def _is_empty(replica_set: apps_v1.ReplicaSet) -> bool:
    status = replica_set.status or apps_v1.ReplicaSetStatus()
    wanted = replica_set.spec.replicas if replica_set.spec else None
    settled = (objects.meta(replica_set).generation or 0) <= (status.observedGeneration or 0)
    return not status.replicas and wanted == 0 and settled
