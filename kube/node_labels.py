"""Labels of Nodes: which of them a node may give itself, and how those that somebody gave it follow what he wants now.

Labels under `kubernetes.io` and `k8s.io` are the cluster's to give, but for some well-known ones: by them pods with
secrets keep away from nodes of lesser trust (Kubernetes: NodeRestriction).

Who labels a node keeps the keys in an annotation of the Node. So a label that is no longer wanted can be told from one
that a person has added, and only the first is taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Which labels came from the agent's command line, and which from the master's administrator on `ktool up`.
AGENT_ANNOTATION = "ktool.io/labels-of-agent"
ADMIN_ANNOTATION = "ktool.io/labels-of-administrator"

CONTROL_PLANE = "node-role.kubernetes.io/control-plane"

# Labels under kubernetes.io and k8s.io that a node may give itself.
OWN_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
OWN_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")


def is_restricted(label: str) -> bool:
    """Whether a node may not choose this label (a key) for itself."""
    prefix = label.rpartition("/")[0]
    if not any(prefix == domain or prefix.endswith("." + domain) for domain in ("kubernetes.io", "k8s.io")):
        return False
    return label not in OWN_LABELS and not any(prefix == own or prefix.endswith("." + own) for own in OWN_PREFIXES)


def reconciled(
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    wanted: Mapping[str, str],
    *,
    annotation: str,
    keep: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """The merge patch that makes a Node's labels follow `wanted`; None if they do.

    `annotation` remembers the keys for the next time; labels in `keep` are wanted as well, and never taken away.
    """
    fixed = dict(keep or {})
    before = {key for key in annotations.get(annotation, "").split(",") if key}
    target = {**wanted, **fixed}
    changes: dict[str, str | None] = {key: value for key, value in target.items() if labels.get(key) != value}
    changes |= {key: None for key in before - target.keys() if key in labels}
    memory = ",".join(sorted(wanted))
    metadata: dict[str, Any] = {"labels": changes} if changes else {}
    if memory != annotations.get(annotation, ""):
        metadata["annotations"] = {annotation: memory or None}
    return {"metadata": metadata} if metadata else None
