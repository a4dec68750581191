"""Which other pods a pod wants near or far, read once (Kubernetes: inter-pod affinity and anti-affinity terms).

Frozen and comparable, so that the pods of one Deployment share what is counted for their terms.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from msgspec import Struct

from kube import objects, selector
from kube.models import core_v1, meta_v1

log = logging.getLogger(__name__)

# What a required affinity of a placed pod is worth to the pods that it wants near (hardPodAffinityWeight).
REQUIRED_AFFINITY_WEIGHT = 1

NamespaceLabels = Mapping[str, Mapping[str, str]]


class PodSelector(Struct, frozen=True):
    """Pods with certain labels in certain namespaces.

    namespaces         named ones
    namespace_labels   or those whose labels match; None: only the named ones
    """

    labels: selector.Selector
    namespaces: frozenset[str]
    namespace_labels: selector.Selector | None = None

    @property
    def scope(self) -> frozenset[str] | None:
        """Namespaces that can be meant; None: any."""
        return self.namespaces if self.namespace_labels is None else None

    def matches(self, namespace: str, labels: Mapping[str, str], known: NamespaceLabels) -> bool:
        """Whether a pod with these labels in this namespace is meant; `known`: each namespace's labels."""
        if namespace not in self.namespaces and (
            self.namespace_labels is None or not self.namespace_labels.matches(known.get(namespace))
        ):
            return False
        return self.labels.matches(labels)


class AffinityTerm(Struct, frozen=True):
    """Pods, and within which domain they are near: nodes with the same value of the label `topology_key`."""

    topology_key: str
    pods: PodSelector

    @property
    def scope(self) -> frozenset[str] | None:
        return self.pods.scope


class WeightedTerm(Struct, frozen=True):
    """A preference; negative weights keep away."""

    term: AffinityTerm
    weight: int

    @property
    def scope(self) -> frozenset[str] | None:
        return self.term.scope


class PodTerms(Struct, frozen=True):
    """All of a pod's terms. `preferred` has those of affinity and, with negative weights, of anti-affinity."""

    affinity: tuple[AffinityTerm, ...] = ()
    anti_affinity: tuple[AffinityTerm, ...] = ()
    preferred: tuple[WeightedTerm, ...] = ()

    def to_others(self) -> Iterable[WeightedTerm]:
        """What the pod, once placed, means to the scores of pods that come later."""
        yield from self.preferred
        for term in self.affinity:
            yield WeightedTerm(term, REQUIRED_AFFINITY_WEIGHT)


def pod_terms(pod: core_v1.Pod) -> PodTerms | None:
    """The terms of a pod; None for the many that have none."""
    affinity = pod.spec.affinity if pod.spec else None
    if affinity is None or (affinity.podAffinity is None and affinity.podAntiAffinity is None):
        return None
    near = affinity.podAffinity or core_v1.PodAffinity()
    far = affinity.podAntiAffinity or core_v1.PodAntiAffinity()
    preferred = [(p, 1) for p in near.preferredDuringSchedulingIgnoredDuringExecution]
    preferred += [(p, -1) for p in far.preferredDuringSchedulingIgnoredDuringExecution]
    return PodTerms(
        tuple(_term(t, pod) for t in near.requiredDuringSchedulingIgnoredDuringExecution),
        tuple(_term(t, pod) for t in far.requiredDuringSchedulingIgnoredDuringExecution),
        tuple(
            WeightedTerm(_term(p.podAffinityTerm or core_v1.PodAffinityTerm(), pod), sign * (p.weight or 0))
            for p, sign in preferred
        ),
    )


def _term(term: core_v1.PodAffinityTerm, pod: core_v1.Pod) -> AffinityTerm:
    own = () if term.namespaces or term.namespaceSelector else (objects.namespace(pod),)
    return AffinityTerm(
        term.topologyKey or "",
        PodSelector(
            label_selector(term.labelSelector, pod, same=term.matchLabelKeys, different=term.mismatchLabelKeys),
            frozenset(term.namespaces or own),
            _lenient(term.namespaceSelector, pod) if term.namespaceSelector is not None else None,
        ),
    )


def label_selector(
    given: meta_v1.LabelSelector | None, pod: core_v1.Pod, *, same: Iterable[str] = (), different: Iterable[str] = ()
) -> selector.Selector:
    """A term's label selector, narrowed to pods whose labels have the same (or other) values as this pod's own.

    `same` and `different` are matchLabelKeys and mismatchLabelKeys; a key that this pod does not have counts for
    nothing. A malformed selector selects no pods.
    """
    found = _lenient(given, pod)
    if found.nothing:
        return found
    labels = pod.metadata.labels
    extra = [
        selector.Requirement(key, operator, frozenset({labels[key]}))
        for keys, operator in ((same, selector.Operator.IN), (different, selector.Operator.NOT_IN))
        for key in keys
        if key in labels
    ]
    return selector.Selector((*found.requirements, *extra)) if extra else found


def _lenient(given: meta_v1.LabelSelector | None, pod: core_v1.Pod) -> selector.Selector:
    try:
        return selector.from_label_selector(given)
    except selector.SelectorError as error:
        log.debug("%s: a selector in its affinity selects nothing: %s", objects.key(pod), error)
        return selector.NOTHING
