"""The kinds of the Kubernetes API that ktool knows by name, and how they map to resources (REST mapping).

One table for both sides of the wire: the client turns a type into a path with it, the API server declares its
resources on it. Kinds that are only defined at run time (custom resources) never appear here.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct


class Kind(Struct, frozen=True):
    """Identity of a kind (GroupVersionKind) and of its resource (GroupVersionResource).

    `group` is empty for the core group. `module` names the module of `kube.models` that holds its type.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    module: str = ""

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def list_kind(self) -> str:
        return self.kind + "List"

    @property
    def api_version(self) -> str:
        """`v1`, `apps/v1`: what stands in an object's apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """`pods`, `deployments.apps`: how messages name the resource."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Path under the API server's root; an empty namespace on a namespaced kind means all namespaces."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


def _group(group: str, module: str, *rows: tuple[str, str, bool, str]) -> list[Kind]:
    version = module.rsplit("_", 1)[1]
    return [
        Kind(group, version, kind, plural, namespaced, tuple(short.split()), module)
        for kind, plural, namespaced, short in rows
    ]


KINDS: tuple[Kind, ...] = (
    *_group(
        "",
        "core_v1",
        ("Namespace", "namespaces", False, "ns"),
        ("Node", "nodes", False, "no"),
        ("Pod", "pods", True, "po"),
        ("Service", "services", True, "svc"),
        ("Endpoints", "endpoints", True, "ep"),
        ("ConfigMap", "configmaps", True, "cm"),
        ("Secret", "secrets", True, ""),
        ("ServiceAccount", "serviceaccounts", True, "sa"),
        ("Event", "events", True, "ev"),
        ("PersistentVolume", "persistentvolumes", False, "pv"),
        ("PersistentVolumeClaim", "persistentvolumeclaims", True, "pvc"),
        ("ResourceQuota", "resourcequotas", True, "quota"),
        ("LimitRange", "limitranges", True, "limits"),
        ("PodTemplate", "podtemplates", True, ""),
        ("ReplicationController", "replicationcontrollers", True, "rc"),
    ),
    *_group(
        "apps",
        "apps_v1",
        ("Deployment", "deployments", True, "deploy"),
        ("ReplicaSet", "replicasets", True, "rs"),
        ("StatefulSet", "statefulsets", True, "sts"),
        ("DaemonSet", "daemonsets", True, "ds"),
        ("ControllerRevision", "controllerrevisions", True, ""),
    ),
    *_group("batch", "batch_v1", ("Job", "jobs", True, ""), ("CronJob", "cronjobs", True, "cj")),
    *_group("coordination.k8s.io", "coordination_v1", ("Lease", "leases", True, "")),
    *_group("discovery.k8s.io", "discovery_v1", ("EndpointSlice", "endpointslices", True, "")),
    *_group("events.k8s.io", "events_v1", ("Event", "events", True, "ev")),
    *_group(
        "certificates.k8s.io",
        "certificates_v1",
        ("CertificateSigningRequest", "certificatesigningrequests", False, "csr"),
    ),
    *_group(
        "rbac.authorization.k8s.io",
        "rbac_v1",
        ("Role", "roles", True, ""),
        ("RoleBinding", "rolebindings", True, ""),
        ("ClusterRole", "clusterroles", False, ""),
        ("ClusterRoleBinding", "clusterrolebindings", False, ""),
    ),
    *_group(
        "authentication.k8s.io",
        "authentication_v1",
        ("TokenReview", "tokenreviews", False, ""),
        ("SelfSubjectReview", "selfsubjectreviews", False, ""),
    ),
    *_group(
        "authorization.k8s.io",
        "authorization_v1",
        ("SubjectAccessReview", "subjectaccessreviews", False, ""),
        ("LocalSubjectAccessReview", "localsubjectaccessreviews", True, ""),
        ("SelfSubjectAccessReview", "selfsubjectaccessreviews", False, ""),
        ("SelfSubjectRulesReview", "selfsubjectrulesreviews", False, ""),
    ),
    *_group("scheduling.k8s.io", "scheduling_v1", ("PriorityClass", "priorityclasses", False, "pc")),
    *_group("policy", "policy_v1", ("PodDisruptionBudget", "poddisruptionbudgets", True, "pdb")),
)

_BY_GVK = {(k.group, k.version, k.kind): k for k in KINDS}
_BY_RESOURCE = {(k.group, k.version, k.plural): k for k in KINDS}


def by_gvk(api_version: str, kind: str) -> Kind | None:
    """Kind for an object's apiVersion (`v1`, `apps/v1`) and kind, or None."""
    group, _, version = api_version.rpartition("/")
    return _BY_GVK.get((group, version, kind))


def by_resource(group: str, version: str, plural: str) -> Kind | None:
    """Kind for a resource as it stands in a path, or None."""
    return _BY_RESOURCE.get((group, version, plural))


def known(group: str, version: str, plural: str) -> Kind:
    """Kind for a resource that the table must have; LookupError if it has not."""
    return _BY_RESOURCE[group, version, plural]


@cache
def model(kind: Kind) -> type[Any]:
    """Typed object (msgspec Struct) of a kind; its module is imported on first use."""
    found: type[Any] = getattr(importlib.import_module(f"kube.models.{kind.module}"), kind.kind)
    return found


_BY_TYPE: dict[type[Any], Kind] = {}


def kind_of_type(type_: type[Any]) -> Kind:
    """Kind of a typed object's class; LookupError for a Struct that is no kind of its own (a PodSpec)."""
    known = _BY_TYPE.get(type_)
    if known is not None:
        return known
    empty = type_() if issubclass(type_, msgspec.Struct) else None
    found = by_gvk(getattr(empty, "apiVersion", ""), getattr(empty, "kind", ""))
    if found is None:
        raise LookupError(f"{type_.__name__} is not a kind of the API")
    _BY_TYPE[type_] = found
    return found


def register(type_: type[Any], kind: Kind) -> None:
    """Let a type stand for a kind that is not in the table, or hold only a part of one (its metadata)."""
    _BY_TYPE[type_] = kind


def kind_of(obj: Any) -> Kind:
    """Kind of a typed object."""
    return kind_of_type(type(obj))
