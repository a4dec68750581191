"""Roles and bindings that every cluster starts with (Kubernetes: RBAC default roles and role bindings).

Written when the master starts if they are missing; rules that a user added to them stay.
"""

from __future__ import annotations

from typing import Any

from control.api.attributes import AUTHENTICATED_GROUP, UNAUTHENTICATED_GROUP, Object

GROUP = "rbac.authorization.k8s.io"
API_VERSION = f"{GROUP}/v1"
LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
ANNOTATIONS = {"rbac.authorization.kubernetes.io/autoupdate": "true"}

READ = ["get", "list", "watch"]
WRITE = ["create", "delete", "deletecollection", "patch", "update"]
ALL = [*WRITE, *READ]


def rule(groups: str, resources: str, verbs: list[str], *, names: list[str] | None = None) -> Object:
    """A policy rule; groups and resources are separated by blanks, `core` stands for the core group."""
    found: dict[str, Any] = {
        "apiGroups": ["" if g == "core" else g for g in groups.split()],
        "resources": resources.split(),
        "verbs": verbs,
    }
    if names:
        found["resourceNames"] = names
    return found


def paths(*urls: str) -> Object:
    """A rule that allows reading of paths that are no resources."""
    return {"nonResourceURLs": list(urls), "verbs": ["get"]}


VIEWED = (
    rule(
        "core",
        "configmaps endpoints persistentvolumeclaims pods pods/log pods/status replicationcontrollers serviceaccounts "
        "services services/status events limitranges resourcequotas namespaces namespaces/status",
        READ,
    ),
    rule("apps", "*", READ),
    rule("batch autoscaling policy networking.k8s.io discovery.k8s.io events.k8s.io", "*", READ),
)
EDITED = (
    rule(
        "core",
        "configmaps endpoints events persistentvolumeclaims pods replicationcontrollers secrets serviceaccounts "
        "services",
        WRITE,
    ),
    rule("core", "secrets", READ),
    rule("core", "pods/attach pods/exec pods/portforward pods/proxy services/proxy", ["get", "create"]),
    rule("core", "pods/eviction serviceaccounts/token", ["create"]),
    rule("apps", "deployments deployments/scale replicasets replicasets/scale statefulsets daemonsets", WRITE),
    rule("apps", "deployments/rollback", ["create"]),
    rule("batch autoscaling policy networking.k8s.io", "*", WRITE),
    rule("coordination.k8s.io", "leases", ALL),
)
ADMINISTERED = (
    rule(GROUP, "roles rolebindings", ALL),
    rule("authorization.k8s.io", "localsubjectaccessreviews", ["create"]),
)

EVENTS = rule("core events.k8s.io", "events", ["create", "patch", "update"])
REVIEWS = rule("authentication.k8s.io authorization.k8s.io", "tokenreviews subjectaccessreviews", ["create"])

CLUSTER_ROLES: dict[str, tuple[Object, ...]] = {
    "cluster-admin": (rule("*", "*", ["*"]), {"nonResourceURLs": ["*"], "verbs": ["*"]}),
    "admin": (*VIEWED, *EDITED, *ADMINISTERED),
    "edit": (*VIEWED, *EDITED),
    "view": VIEWED,
    "system:discovery": (
        paths(
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/livez",
            "/openapi",
            "/openapi/*",
            "/readyz",
            "/version",
            "/version/",
        ),
    ),
    "system:public-info-viewer": (paths("/healthz", "/livez", "/readyz", "/version", "/version/"),),
    "system:basic-user": (
        rule("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", ["create"]),
        rule("authentication.k8s.io", "selfsubjectreviews", ["create"]),
    ),
    "system:monitoring": (paths("/metrics", "/healthz", "/healthz/*", "/livez", "/livez/*", "/readyz", "/readyz/*"),),
    "system:node-bootstrapper": (
        rule("certificates.k8s.io", "certificatesigningrequests", ["create", "get", "list", "watch"]),
    ),
    "system:kube-scheduler": (
        EVENTS,
        REVIEWS,
        rule("core", "nodes namespaces services replicationcontrollers persistentvolumes persistentvolumeclaims", READ),
        rule("core", "pods", [*READ, "delete"]),
        rule("core", "pods/binding bindings", ["create"]),
        rule("core", "pods/status", ["patch", "update"]),
        rule("apps", "replicasets statefulsets", READ),
        rule("policy", "poddisruptionbudgets", READ),
        rule("scheduling.k8s.io", "priorityclasses", READ),
        rule("coordination.k8s.io", "leases", ["create", "get", "list", "update", "watch"]),
    ),
    # Controllers act for everybody: the garbage and namespace collectors delete objects of every kind.
    "system:kube-controller-manager": (
        EVENTS,
        REVIEWS,
        rule("*", "*", [*READ, "delete", "deletecollection", "patch", "update"]),
        rule("core", "configmaps endpoints namespaces pods secrets serviceaccounts services", ["create"]),
        rule("core", "serviceaccounts/token pods/eviction", ["create"]),
        rule("apps", "replicasets controllerrevisions", ["create"]),
        rule("batch", "jobs", ["create"]),
        rule("discovery.k8s.io", "endpointslices", ["create"]),
        rule("coordination.k8s.io", "leases", ["create"]),
        rule(
            "certificates.k8s.io",
            "signers",
            ["approve", "sign"],
            names=["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"],
        ),
        # approved by people only
        rule("certificates.k8s.io", "signers", ["sign"], names=["kubernetes.io/kube-apiserver-client"]),
        {"nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*"], "verbs": ["get"]},
    ),
}

# Roles that gather others besides their own rules: manifests of extensions bring roles with these labels, so that
# those who may view, edit or administer may do so with their kinds as well.
AGGREGATE_TO = "rbac.authorization.k8s.io/aggregate-to-"
AGGREGATED: dict[str, tuple[str, ...]] = {
    "admin": ("admin", "edit", "view"),
    "edit": ("edit", "view"),
    "view": ("view",),
}

CLUSTER_ROLE_BINDINGS: dict[str, tuple[str, tuple[Object, ...]]] = {
    "cluster-admin": ("cluster-admin", ({"kind": "Group", "name": "system:masters"},)),
    "system:discovery": ("system:discovery", ({"kind": "Group", "name": AUTHENTICATED_GROUP},)),
    "system:basic-user": ("system:basic-user", ({"kind": "Group", "name": AUTHENTICATED_GROUP},)),
    "system:public-info-viewer": (
        "system:public-info-viewer",
        ({"kind": "Group", "name": AUTHENTICATED_GROUP}, {"kind": "Group", "name": UNAUTHENTICATED_GROUP}),
    ),
    "system:monitoring": ("system:monitoring", ({"kind": "Group", "name": "system:monitoring"},)),
    "system:kube-scheduler": ("system:kube-scheduler", ({"kind": "User", "name": "system:kube-scheduler"},)),
    "system:kube-controller-manager": (
        "system:kube-controller-manager",
        ({"kind": "User", "name": "system:kube-controller-manager"},),
    ),
    "ktool:node-bootstrapper": ("system:node-bootstrapper", ({"kind": "Group", "name": "system:bootstrappers"},)),
}

# New machines learn the cluster's CA before they can know it: everybody may read this one ConfigMap, and the pin in
# the join file tells whether it is the right one (kubeadm: bootstrap-signer's cluster-info).
CLUSTER_INFO_NAMESPACE = "kube-public"
CLUSTER_INFO_ROLE = "ktool:cluster-info"


def objects() -> list[Object]:
    """All objects, in an order in which they can be created; the role of kube-public needs that namespace."""
    found = [_object("ClusterRole", name, rules=list(rules), **_gathers(name)) for name, rules in CLUSTER_ROLES.items()]
    found += [
        _object("ClusterRoleBinding", name, **_binding("ClusterRole", role, subjects))
        for name, (role, subjects) in CLUSTER_ROLE_BINDINGS.items()
    ]
    info = rule("core", "configmaps", ["get"], names=["cluster-info"])
    found.append(_object("Role", CLUSTER_INFO_ROLE, namespace=CLUSTER_INFO_NAMESPACE, rules=[info]))
    anybody = (
        {"kind": "Group", "name": AUTHENTICATED_GROUP},
        {"kind": "Group", "name": UNAUTHENTICATED_GROUP},
    )
    found.append(
        _object(
            "RoleBinding",
            CLUSTER_INFO_ROLE,
            namespace=CLUSTER_INFO_NAMESPACE,
            **_binding("Role", CLUSTER_INFO_ROLE, anybody),
        )
    )
    return found


def _gathers(name: str) -> Object:
    if name not in AGGREGATED:
        return {}
    selectors = [{"matchLabels": {AGGREGATE_TO + role: "true"}} for role in AGGREGATED[name]]
    return {"aggregationRule": {"clusterRoleSelectors": selectors}}


def _binding(kind: str, role: str, subjects: tuple[Object, ...]) -> Object:
    return {
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
        "subjects": [{"apiGroup": GROUP, **subject} for subject in subjects],
    }


def _object(kind: str, name: str, *, namespace: str = "", **fields: Any) -> Object:
    metadata: Object = {"name": name, "labels": LABELS, "annotations": ANNOTATIONS}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, **fields}
