"""Nobody gives away rights that they do not have."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.admission.certificate_authority import CertificateAuthority
from control.api.admission.rbac_escalation import RBACEscalation, uncovered
from control.api.attributes import Attributes, Operation, UserInfo
from control.api.authorization.chain import AuthorizerChain
from control.api.authorization.rbac import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    GROUP,
    ROLE_BINDINGS,
    RBACAuthorizer,
    Rule,
    parse_rules,
)
from kube.status import ApiError
from tests.control.api.objects_in_memory import ObjectsInMemory

JANE = UserInfo("jane", groups=("dev",))
MASTER = UserInfo("root", groups=("system:masters",))
CREATE, UPDATE = Operation.CREATE, Operation.UPDATE
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
ALL = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
WRITES_ROLES = {"apiGroups": [GROUP], "resources": ["roles", "rolebindings"], "verbs": ["create", "update"]}


def rules(*found: dict[str, Any]) -> list[Rule]:
    return [*parse_rules({"rules": found}, "")]


def rule(verbs: str, resources: str, groups: str = "core", names: str = "") -> dict[str, Any]:
    return {
        "verbs": verbs.split(),
        "resources": resources.split(),
        "apiGroups": ["" if g == "core" else g for g in groups.split()],
        "resourceNames": names.split(),
    }


def paths(verbs: str, urls: str) -> dict[str, Any]:
    return {"verbs": verbs.split(), "nonResourceURLs": urls.split()}


@pytest.mark.parametrize(
    ("held", "wanted", "covered"),
    [
        ([rule("get list", "pods")], rule("get", "pods"), True),
        ([rule("get", "pods")], rule("get list", "pods"), False),
        ([rule("get", "pods"), rule("list", "pods")], rule("get list", "pods"), True),
        ([rule("get", "pods"), rule("get", "secrets")], rule("get", "pods secrets"), True),
        ([rule("*", "pods")], rule("get", "pods"), True),
        ([rule("get", "pods")], rule("*", "pods"), False),
        ([rule("get", "*", "*")], rule("get", "pods/log", "apps"), True),
        ([rule("get", "pods", "*")], rule("get", "pods", "apps core"), True),
        ([rule("get", "pods", "core")], rule("get", "pods", "*"), False),
        ([rule("get", "*/scale", "apps")], rule("get", "deployments/scale", "apps"), True),
        ([rule("get", "*/scale", "apps")], rule("get", "deployments", "apps"), False),
        ([rule("get", "secrets", names="a b")], rule("get", "secrets", names="a"), True),
        ([rule("get", "secrets", names="a")], rule("get", "secrets"), False),
        ([rule("get", "secrets")], rule("get", "secrets", names="a"), True),
        ([paths("get", "/healthz/*")], paths("get", "/healthz/ping"), True),
        ([paths("get", "/healthz/*")], paths("get", "/healthz/a/*"), True),
        ([paths("get", "/healthz/ping")], paths("get", "/healthz/*"), False),
        ([paths("*", "*")], paths("get", "/metrics"), True),
        ([rule("*", "*", "*")], paths("get", "/metrics"), False),
        ([], rule("get", "pods"), False),
    ],
)
def test_which_rules_cover_which(held: list[dict[str, Any]], wanted: dict[str, Any], covered: bool) -> None:
    assert ([*uncovered(rules(wanted), rules(*held))] == []) is covered


def test_rules_of_endless_pieces_are_not_taken_apart() -> None:
    many = {"verbs": [f"v{i}" for i in range(300)], "resources": [f"r{i}" for i in range(300)], "apiGroups": [""]}
    assert [*uncovered(rules(many), rules(rule("v1", "r1")))] == rules(many)


class Cluster:
    """Jane, with rights in the namespace `a`, and whatever else is bound to her."""

    def __init__(self) -> None:
        self.objects = ObjectsInMemory()
        self.authorizer = AuthorizerChain((RBACAuthorizer(self.objects),))
        self.plugin = RBACEscalation(self.objects, self.authorizer)
        self.role("team", PODS, WRITES_ROLES)
        self.role("reader", PODS)
        self.role("everything", ALL)
        self.give("team", "a")

    def role(self, name: str, *given: dict[str, Any], **more: Any) -> None:
        self.objects.put(CLUSTER_ROLES, {"metadata": {"name": name}, "rules": [*given], **more})

    def give(self, role: str, namespace: str = "") -> None:
        metadata = {"name": role, **({"namespace": namespace} if namespace else {})}
        kind = ROLE_BINDINGS if namespace else CLUSTER_ROLE_BINDINGS
        subjects = [{"kind": "User", "name": "jane"}]
        reference = {"kind": "ClusterRole", "name": role}
        self.objects.put(kind, {"metadata": metadata, "roleRef": reference, "subjects": subjects})

    async def write(
        self,
        resource: str,
        obj: dict[str, Any],
        *,
        user: UserInfo = JANE,
        namespace: str = "a",
        old: dict[str, Any] | None = None,
    ) -> None:
        asked = Attributes(user, "create", GROUP, "v1", resource, namespace=namespace, name="new")
        obj = {"metadata": {"name": "new"}, **obj}
        await self.plugin.admit(obj, old, UPDATE if old else CREATE, asked)


def binding(role: str, kind: str = "ClusterRole") -> dict[str, Any]:
    return {"roleRef": {"kind": kind, "name": role}, "subjects": []}


async def test_a_role_of_ones_own_rights_and_no_more() -> None:
    cluster = Cluster()
    await cluster.write("roles", {"rules": [PODS]})
    with pytest.raises(ApiError, match=r'attempting to grant RBAC permissions not currently held:\n.*"secrets"') as no:
        await cluster.write("roles", {"rules": [PODS, SECRETS]})
    assert (no.value.code, no.value.reason) == (403, "Forbidden")
    with pytest.raises(ApiError):  # what counts in one namespace does not count in all
        await cluster.write("clusterroles", {"rules": [PODS]}, namespace="")
    with pytest.raises(ApiError):
        await cluster.write("roles", {"rules": [PODS]}, namespace="b")
    await cluster.write("roles", {"rules": [ALL]}, user=MASTER)


async def test_a_binding_to_a_role_of_ones_own_rights_and_no_more() -> None:
    cluster = Cluster()
    await cluster.write("rolebindings", binding("reader"))
    with pytest.raises(ApiError, match="not currently held"):
        await cluster.write("rolebindings", binding("everything"))
    with pytest.raises(ApiError) as no:
        await cluster.write("rolebindings", binding("nothing"))
    assert no.value.code == 404
    with pytest.raises(ApiError, match="not currently held"):
        await cluster.write("clusterrolebindings", binding("reader"), namespace="")


async def test_escalate_and_bind_lift_it() -> None:
    cluster = Cluster()
    cluster.role("escalator", {"apiGroups": [GROUP], "resources": ["roles"], "verbs": ["escalate"]})
    cluster.role(
        "binder",
        {"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["everything"]},
    )
    cluster.give("escalator", "a")
    cluster.give("binder", "a")
    await cluster.write("roles", {"rules": [SECRETS]})
    await cluster.write("rolebindings", binding("everything"))
    cluster.role("other", ALL)
    with pytest.raises(ApiError, match="not currently held"):
        await cluster.write("rolebindings", binding("other"))


async def test_aggregation_gathers_whatever_there_will_be() -> None:
    cluster = Cluster()
    cluster.role("roles", {"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["*"]}, PODS)
    cluster.give("roles")
    gathers = {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}}
    # the verb escalate is among all verbs
    await cluster.write("clusterroles", gathers, namespace="")
    cluster.role("roles", {"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["create"]}, PODS)
    with pytest.raises(ApiError, match="must have cluster-admin privileges"):
        await cluster.write("clusterroles", gathers, namespace="")
    # rules that a bound role gathers count as given
    cluster.role("gatherer", **gathers)
    cluster.objects.put(CLUSTER_ROLES, {"metadata": {"name": "part", "labels": {"x": "y"}}, "rules": [SECRETS]})
    with pytest.raises(ApiError, match="secrets"):
        await cluster.write("rolebindings", binding("gatherer"))


async def test_an_update_is_checked_unless_it_only_lets_go() -> None:
    cluster = Cluster()
    old = {"metadata": {"name": "new", "finalizers": ["a/b"]}, "rules": [ALL]}
    await cluster.write("roles", {"metadata": {"name": "new"}, "rules": [ALL]}, old=old)
    with pytest.raises(ApiError):
        await cluster.write("roles", {"metadata": {"name": "new", "labels": {"a": "b"}}, "rules": [ALL]}, old=old)


async def test_certificates_are_decided_about_by_those_who_may_for_the_signer() -> None:
    cluster = Cluster()
    plugin = CertificateAuthority(cluster.authorizer)

    async def decide(subresource: str, new: dict[str, Any], signer: str = "example.com/a") -> None:
        asked = Attributes(
            JANE, "update", "certificates.k8s.io", "v1", "certificatesigningrequests", subresource, name="x"
        )
        spec = {"signerName": signer}
        await plugin.admit({"spec": spec, "status": new}, {"spec": spec}, UPDATE, asked)

    approved = {"conditions": [{"type": "Approved"}]}
    with pytest.raises(ApiError, match=r'not permitted to approve requests with signerName "example.com/a"'):
        await decide("approval", approved)
    with pytest.raises(ApiError, match="not permitted to sign"):
        await decide("status", {"certificate": "eA=="})
    with pytest.raises(ApiError, match="not permitted to sign"):
        await decide("status", {"conditions": [{"type": "Failed"}]})
    await decide("status", {"conditions": [{"type": "Other"}]})
    signers = {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"]}
    cluster.role("approver", {**signers, "verbs": ["approve"]})
    cluster.give("approver")
    await decide("approval", approved)
    with pytest.raises(ApiError):
        await decide("approval", approved, "kubernetes.io/kube-apiserver-client")
    with pytest.raises(ApiError, match="not permitted to sign"):
        await decide("status", {"certificate": "eA=="})
