"""RBAC: what the (cluster) roles bound to a user allow (Kubernetes concept: Using RBAC Authorization).

Finding a user's rules means walking all bindings, so they are kept per user until any of the four kinds changes; one
decision is then a walk over a short list of rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from control.api.attributes import Attributes, Decision, Object, ObjectReader, UserInfo
from control.api.authentication.service_account import PREFIX
from kube import kinds

GROUP = "rbac.authorization.k8s.io"
ROLES = kinds.known(GROUP, "v1", "roles")
CLUSTER_ROLES = kinds.known(GROUP, "v1", "clusterroles")
ROLE_BINDINGS = kinds.known(GROUP, "v1", "rolebindings")
CLUSTER_ROLE_BINDINGS = kinds.known(GROUP, "v1", "clusterrolebindings")
REMEMBERED = 512


class Rule(Struct, frozen=True):
    """A policy rule; `namespace` is where it counts (empty: everywhere)."""

    namespace: str
    verbs: frozenset[str]
    groups: frozenset[str]
    resources: frozenset[str]
    names: frozenset[str]
    urls: tuple[str, ...]

    def allows(self, attributes: Attributes) -> bool:
        """Whether the rule covers a request."""
        if "*" not in self.verbs and attributes.verb not in self.verbs:
            return False
        if not attributes.is_resource_request:
            return any(_matches_url(pattern, attributes.path) for pattern in self.urls)
        if self.namespace and self.namespace != attributes.namespace:
            return False
        if "*" not in self.groups and attributes.group not in self.groups:
            return False
        if self.names and attributes.name not in self.names:
            return False
        if "*" in self.resources:
            return True
        if not attributes.subresource:
            return attributes.resource in self.resources
        wanted = {f"{attributes.resource}/{attributes.subresource}", f"*/{attributes.subresource}"}
        return not wanted.isdisjoint(self.resources)


class RBACAuthorizer:
    """Decides by Role, ClusterRole, RoleBinding and ClusterRoleBinding objects."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._rules: dict[tuple[str, tuple[str, ...]], tuple[Rule, ...]] = {}
        self._revision: tuple[int, ...] = ()

    async def authorize(self, attributes: Attributes) -> Decision:
        allowed = any(rule.allows(attributes) for rule in self.rules(attributes.user))
        return Decision(allowed)

    def rules(self, user: UserInfo) -> tuple[Rule, ...]:
        """All rules that are bound to a user or to one of its groups."""
        kinds_read = (ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS)
        revision = tuple(self._reader.revision(kind) for kind in kinds_read)
        if revision != self._revision or len(self._rules) > REMEMBERED:
            self._rules.clear()
            self._revision = revision
        key = (user.name, user.groups)
        if key not in self._rules:
            self._rules[key] = tuple(self._find(user))
        return self._rules[key]

    def _find(self, user: UserInfo) -> Iterator[Rule]:
        for binding in self._reader.list(CLUSTER_ROLE_BINDINGS):
            if _is_bound(binding, user, ""):
                yield from role_rules(self._reader, binding.get("roleRef") or {}, "")
        for binding in self._reader.list(ROLE_BINDINGS):
            namespace = binding["metadata"]["namespace"]
            if _is_bound(binding, user, namespace):
                yield from role_rules(self._reader, binding.get("roleRef") or {}, namespace)


def role_rules(reader: ObjectReader, reference: Object, namespace: str) -> Iterator[Rule]:
    """Rules that a binding's `roleRef` gives in a namespace (empty: everywhere); none if there is no such role."""
    name = reference.get("name", "")
    is_role = reference.get("kind") == "Role"
    role = reader.get(ROLES, namespace, name) if is_role else reader.get(CLUSTER_ROLES, "", name)
    if role is None:
        return
    yield from parse_rules(role, namespace)
    if selectors := (role.get("aggregationRule") or {}).get("clusterRoleSelectors"):
        yield from _aggregated(reader, selectors, namespace)


def _aggregated(reader: ObjectReader, selectors: Iterable[Object], namespace: str) -> Iterator[Rule]:
    wanted = [s.get("matchLabels") or {} for s in selectors]
    for role in reader.list(CLUSTER_ROLES):
        labels = (role["metadata"].get("labels") or {}).items()
        if any(w and w.items() <= labels for w in wanted):
            yield from parse_rules(role, namespace)


def parse_rules(role: Object, namespace: str) -> Iterator[Rule]:
    """Rules of a role as they count in a namespace (empty: everywhere)."""
    for rule in role.get("rules") or ():
        yield Rule(
            namespace=namespace,
            verbs=frozenset(rule.get("verbs") or ()),
            groups=frozenset(rule.get("apiGroups") or ()),
            resources=frozenset(rule.get("resources") or ()),
            names=frozenset(rule.get("resourceNames") or ()),
            urls=() if namespace else tuple(rule.get("nonResourceURLs") or ()),
        )


def _is_bound(binding: Object, user: UserInfo, namespace: str) -> bool:
    for subject in binding.get("subjects") or ():
        kind, name = subject.get("kind"), subject.get("name", "")
        if kind == "User" and name == user.name:
            return True
        if kind == "Group" and name in user.groups:
            return True
        if kind == "ServiceAccount":
            account = f"{PREFIX}{subject.get('namespace') or namespace}:{name}"
            if account == user.name:
                return True
    return False


def _matches_url(pattern: str, path: str) -> bool:
    if pattern == "*" or pattern == path:
        return True
    return pattern.endswith("*") and path.startswith(pattern[:-1])
