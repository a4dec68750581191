"""Nobody gives away rights that they do not have (Kubernetes: RBAC, "Privilege escalation prevention").

Who may write Roles or RoleBindings could otherwise make themselves anything. So the rules of a role, and those of the
role that a binding gives, must be covered by the writer's own rules. Two verbs lift that: `escalate` on a role, `bind`
on the role that a binding refers to. Members of `system:masters` may give away everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from msgspec import Struct
from msgspec.structs import replace

from control.api.attributes import Attributes, Authorizer, Object, ObjectReader, Operation, UserInfo
from control.api.authorization.chain import MASTERS
from control.api.authorization.rbac import CLUSTER_ROLES, GROUP, ROLES, RBACAuthorizer, Rule, parse_rules, role_rules
from kube import status
from kube.kinds import Kind

ROLE_KINDS = {"roles": ROLES, "clusterroles": CLUSTER_ROLES}
BINDINGS = frozenset({"rolebindings", "clusterrolebindings"})
# Rules are compared piece by piece where no single rule covers them; nobody writes rules of more pieces than this.
MAX_PIECES = 20_000

EVERYTHING = (
    Rule("", frozenset("*"), frozenset("*"), frozenset("*"), frozenset(), ()),
    Rule("", frozenset("*"), frozenset(), frozenset(), frozenset(), ("*",)),
)


class RBACEscalation:
    """Refuses roles and bindings that give more than their writer has."""

    name = "RBACEscalation"

    def __init__(self, reader: ObjectReader, authorizer: Authorizer) -> None:
        self._reader = reader
        self._authorizer = authorizer
        self._rbac = RBACAuthorizer(reader)

    async def admit(self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes) -> None:
        if obj is None or attributes.group != GROUP or operation not in (Operation.CREATE, Operation.UPDATE):
            return
        if MASTERS in attributes.user.groups or (old is not None and _only_garbage_fields(obj, old)):
            return
        if attributes.resource in ROLE_KINDS:
            await self._admit_role(obj, attributes)
        elif attributes.resource in BINDINGS:
            await self._admit_binding(obj, attributes)

    async def _admit_role(self, role: Object, attributes: Attributes) -> None:
        if await self._may(attributes, "escalate", ROLE_KINDS[attributes.resource], attributes.name):
            return
        if role.get("aggregationRule") and any(self._missing(EVERYTHING, attributes)):
            # it gathers whatever there will be
            raise _refused(attributes, "must have cluster-admin privileges to use the aggregationRule")
        self._check(parse_rules(role, attributes.namespace), attributes)

    async def _admit_binding(self, binding: Object, attributes: Attributes) -> None:
        reference = binding.get("roleRef") or {}
        kind = ROLES if reference.get("kind") == "Role" else CLUSTER_ROLES
        name = reference.get("name", "")
        if not name or await self._may(attributes, "bind", kind, name):
            return  # without a name, validation says what is missing
        if self._reader.get(kind, attributes.namespace if kind is ROLES else "", name) is None:
            raise status.not_found(kind.plural, name, group=GROUP)
        self._check(role_rules(self._reader, reference, attributes.namespace), attributes)

    async def _may(self, attributes: Attributes, verb: str, kind: Kind, name: str) -> bool:
        asked = replace(attributes, verb=verb, resource=kind.plural, name=name)
        return (await self._authorizer.authorize(asked)).allowed

    def _check(self, wanted: Iterable[Rule], attributes: Attributes) -> None:
        missing = [*self._missing([*wanted], attributes)]
        if missing:
            groups = " ".join(f'"{group}"' for group in attributes.user.groups)
            lines = "\n".join(sorted(dict.fromkeys(map(rule_text, missing))))
            message = (
                f'user "{attributes.user.name}" (groups=[{groups}]) is attempting to grant RBAC permissions not '
                f"currently held:\n{lines}"
            )
            raise _refused(attributes, message)

    def _missing(self, wanted: Sequence[Rule], attributes: Attributes) -> Iterator[Rule]:
        return uncovered(wanted, self._held(attributes.user, attributes.namespace))

    def _held(self, user: UserInfo, namespace: str) -> list[Rule]:
        """The user's rules that count wherever the new ones will."""
        return [rule for rule in self._rbac.rules(user) if rule.namespace in ("", namespace)]


class _Piece(Struct, frozen=True):
    """One right: a verb on a resource of a group (with a name, or with all), or on a path."""

    verb: str
    group: str = ""
    resource: str = ""
    name: str = ""
    url: str = ""


def uncovered(wanted: Iterable[Rule], held: Sequence[Rule]) -> Iterator[Rule]:
    """Those of the wanted rules that the rules held do not cover together, whatever namespace they say."""
    for rule in wanted:
        if any(_covers(own, rule) for own in held):
            continue
        count = len(rule.verbs) * (len(rule.groups) * len(rule.resources) * max(1, len(rule.names)) + len(rule.urls))
        if count > MAX_PIECES or not all(any(_covers_piece(own, p) for own in held) for p in _pieces(rule)):
            yield rule


def _covers(own: Rule, rule: Rule) -> bool:
    """Whether one rule gives all of another one."""
    if not (rule.verbs <= own.verbs or "*" in own.verbs):
        return False
    if not all(any(_url_covers(pattern, url) for pattern in own.urls) for url in rule.urls):
        return False
    if not rule.resources:
        return True
    groups = "*" in own.groups or rule.groups <= own.groups
    names = not own.names or (bool(rule.names) and rule.names <= own.names)
    return groups and names and all(_resource_covers(own.resources, resource) for resource in rule.resources)


def _pieces(rule: Rule) -> Iterator[_Piece]:
    for verb, group, resource, name in product(rule.verbs, rule.groups, rule.resources, rule.names or ("",)):
        yield _Piece(verb, group, resource, name)
    for verb, url in product(rule.verbs, rule.urls):
        yield _Piece(verb, url=url)


def _covers_piece(own: Rule, piece: _Piece) -> bool:
    if "*" not in own.verbs and piece.verb not in own.verbs:
        return False
    if piece.url:
        return any(_url_covers(pattern, piece.url) for pattern in own.urls)
    groups = "*" in own.groups or piece.group in own.groups
    names = not own.names or piece.name in own.names
    return groups and names and _resource_covers(own.resources, piece.resource)


def _resource_covers(own: frozenset[str], resource: str) -> bool:
    if "*" in own or resource in own:
        return True
    _, slash, subresource = resource.partition("/")
    return bool(slash) and f"*/{subresource}" in own


def _url_covers(pattern: str, url: str) -> bool:
    if pattern in ("*", url):
        return True
    return pattern.endswith("*") and url.rstrip("*").startswith(pattern[:-1])


def rule_text(rule: Rule) -> str:
    """A rule as Kubernetes names it in errors."""
    parts = (
        ("NonResourceURLs", sorted(rule.urls)),
        ("APIGroups", sorted(rule.groups)),
        ("Resources", sorted(rule.resources)),
        ("ResourceNames", sorted(rule.names)),
        ("Verbs", sorted(rule.verbs)),
    )
    shown = (f"{title}:[{' '.join(_quoted(values))}]" for title, values in parts if values)
    return "{" + ", ".join(shown) + "}"


def _quoted(values: Iterable[str]) -> Iterator[str]:
    return (f'"{value}"' for value in values)


def _only_garbage_fields(new: Object, old: Object) -> bool:
    """Whether an update changes nothing but what the garbage collector needs to let an object go."""

    def rest(obj: Object) -> Object:
        kept = ("ownerReferences", "finalizers", "resourceVersion", "managedFields")
        metadata = {k: v for k, v in obj["metadata"].items() if k not in kept}
        return {**obj, "metadata": metadata}

    return rest(new) == rest(old)


def _refused(attributes: Attributes, reason: str) -> status.ApiError:
    return status.forbidden(attributes.resource, attributes.name, reason, group=GROUP)
