"""Who may do what: RBAC by its objects, nodes by their pods."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.attributes import Attributes, UserInfo
from control.api.authorization import bootstrap_policy
from control.api.authorization.chain import AuthorizerChain
from control.api.authorization.node import NodeAuthorizer
from control.api.authorization.rbac import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, RBACAuthorizer
from kube import kinds
from tests.control.api.objects_in_memory import ObjectsInMemory

PODS = kinds.known("", "v1", "pods")
KINDS = {
    "Role": ROLES,
    "ClusterRole": CLUSTER_ROLES,
    "RoleBinding": ROLE_BINDINGS,
    "ClusterRoleBinding": CLUSTER_ROLE_BINDINGS,
}
JANE = UserInfo("jane", groups=("dev", "system:authenticated"))
NODE = UserInfo("system:node:n1", groups=("system:nodes", "system:authenticated"))


def policy() -> ObjectsInMemory:
    objects = ObjectsInMemory()
    for obj in bootstrap_policy.objects():
        objects.put(KINDS[obj["kind"]], obj)
    return objects


def asks(user: UserInfo, verb: str, resource: str, **more: Any) -> Attributes:
    group, _, plain = (
        resource.rpartition("/") if resource.count("/") and "." in resource.split("/")[0] else ("", "", resource)
    )
    name, _, subresource = plain.partition("/")
    return Attributes(
        user=user, verb=verb, group=more.pop("group", group), resource=name, subresource=subresource, **more
    )


async def test_rbac_by_binding_and_namespace() -> None:
    objects = ObjectsInMemory()
    rules = [{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]
    objects.put(ROLES, {"metadata": {"name": "reader", "namespace": "a"}, "rules": rules})
    objects.put(
        ROLE_BINDINGS,
        {
            "metadata": {"name": "dev", "namespace": "a"},
            "roleRef": {"kind": "Role", "name": "reader"},
            "subjects": [{"kind": "Group", "name": "dev"}, {"kind": "ServiceAccount", "name": "robot"}],
        },
    )
    rbac = RBACAuthorizer(objects)
    robot = UserInfo("system:serviceaccount:a:robot")
    for user, verb, resource, namespace, allowed in [
        (JANE, "get", "pods", "a", True),
        (JANE, "get", "pods/log", "a", True),
        (JANE, "get", "pods/exec", "a", False),
        (JANE, "delete", "pods", "a", False),
        (JANE, "get", "pods", "b", False),
        (JANE, "get", "pods", "", False),
        (JANE, "get", "secrets", "a", False),
        (robot, "list", "pods", "a", True),
        (UserInfo("joe"), "get", "pods", "a", False),
    ]:
        decision = await rbac.authorize(asks(user, verb, resource, namespace=namespace))
        assert decision.allowed is allowed, (user.name, verb, resource, namespace)


async def test_a_change_of_roles_counts_at_once() -> None:
    objects = policy()
    rbac = RBACAuthorizer(objects)
    question = asks(JANE, "get", "nodes", name="n")
    assert not (await rbac.authorize(question)).allowed
    binding = {"metadata": {"name": "x"}, "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}}
    objects.put(CLUSTER_ROLE_BINDINGS, binding | {"subjects": [{"kind": "User", "name": "jane"}]})
    assert (await rbac.authorize(question)).allowed
    objects.remove(CLUSTER_ROLE_BINDINGS, "", "x")
    assert not (await rbac.authorize(question)).allowed


async def test_resource_names_and_paths() -> None:
    objects = policy()
    rbac = RBACAuthorizer(objects)
    anybody = UserInfo("system:anonymous", groups=("system:unauthenticated",))
    info = asks(anybody, "get", "configmaps", namespace="kube-public", name="cluster-info")
    assert (await rbac.authorize(info)).allowed
    assert not (await rbac.authorize(asks(anybody, "get", "configmaps", namespace="kube-public", name="other"))).allowed
    for path, allowed in [("/readyz", True), ("/version", True), ("/metrics", False), ("/api", False)]:
        question = Attributes(user=anybody, verb="get", path=path, is_resource_request=False)
        assert (await rbac.authorize(question)).allowed is allowed, path


async def test_masters_cannot_be_locked_out() -> None:
    chain = AuthorizerChain([RBACAuthorizer(ObjectsInMemory())])
    admin = UserInfo("admin", groups=("system:masters",))
    assert (await chain.authorize(asks(admin, "delete", "nodes", name="n"))).allowed
    assert not (await chain.authorize(asks(JANE, "delete", "nodes", name="n"))).allowed


def pod(name: str, node: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "a"},
        "spec": {"nodeName": node, "serviceAccountName": "robot", **spec},
    }


@pytest.fixture
def node_authorizer() -> NodeAuthorizer:
    objects = ObjectsInMemory()
    volume = {"name": "v", "secret": {"secretName": "mine"}}
    env = {"name": "c", "envFrom": [{"configMapRef": {"name": "settings"}}]}
    objects.put(PODS, pod("own", "n1", volumes=[volume], containers=[env]))
    authorizer = NodeAuthorizer(objects)
    objects.put(PODS, pod("other", "n2", volumes=[{"name": "v", "secret": {"secretName": "theirs"}}]))
    return authorizer


@pytest.mark.parametrize(
    ("verb", "resource", "more", "allowed"),
    [
        ("get", "secrets", {"namespace": "a", "name": "mine"}, True),
        ("watch", "secrets", {"namespace": "a", "field_selector": "metadata.name=mine"}, True),
        ("get", "secrets", {"namespace": "a", "name": "theirs"}, False),
        ("get", "secrets", {"namespace": "b", "name": "mine"}, False),
        ("list", "secrets", {"namespace": "a"}, False),
        ("get", "configmaps", {"namespace": "a", "name": "settings"}, True),
        ("update", "secrets", {"namespace": "a", "name": "mine"}, False),
        ("list", "pods", {"field_selector": "spec.nodeName=n1"}, True),
        ("list", "pods", {"field_selector": "spec.nodeName=n2"}, False),
        ("list", "pods", {}, False),
        ("patch", "pods/status", {"namespace": "a", "name": "own"}, True),
        ("patch", "pods/status", {"namespace": "a", "name": "other"}, False),
        ("delete", "pods", {"namespace": "a", "name": "other"}, False),
        ("get", "nodes", {"name": "n1"}, True),
        ("get", "nodes", {"name": "n2"}, True),
        ("list", "nodes", {}, True),
        ("watch", "nodes", {}, True),
        ("patch", "nodes", {"name": "n1"}, True),
        ("patch", "nodes", {"name": "n2"}, False),
        ("patch", "nodes/status", {"name": "n2"}, False),
        ("delete", "nodes", {"name": "n1"}, False),
        ("create", "leases", {"group": "coordination.k8s.io", "namespace": "kube-node-lease"}, True),
        ("create", "leases", {"group": "coordination.k8s.io", "namespace": "kube-system"}, False),
        ("update", "leases", {"group": "coordination.k8s.io", "namespace": "kube-node-lease", "name": "n1"}, True),
        ("update", "leases", {"group": "coordination.k8s.io", "namespace": "kube-node-lease", "name": "n2"}, False),
        ("list", "services", {}, True),
        ("create", "services", {"namespace": "a"}, False),
        ("create", "serviceaccounts/token", {"namespace": "a", "name": "robot"}, True),
        ("create", "serviceaccounts/token", {"namespace": "a", "name": "admin"}, False),
    ],
)
async def test_a_node_may_use_what_its_pods_need(
    node_authorizer: NodeAuthorizer, verb: str, resource: str, more: dict[str, str], allowed: bool
) -> None:
    decision = await node_authorizer.authorize(asks(NODE, verb, resource, **more))
    assert decision.allowed is allowed
    assert bool(decision.reason) is not allowed


async def test_a_field_selector_that_makes_no_sense_is_no_fault_of_the_servers(
    node_authorizer: NodeAuthorizer,
) -> None:
    assert not (await node_authorizer.authorize(asks(NODE, "list", "pods", field_selector="spec.nodeName"))).allowed


async def test_the_node_authorizer_has_no_opinion_on_others(node_authorizer: NodeAuthorizer) -> None:
    pretender = UserInfo("system:node:n1", groups=("system:authenticated",))
    assert not (await node_authorizer.authorize(asks(pretender, "get", "secrets", namespace="a", name="mine"))).allowed


async def test_roles_of_extensions_join_the_general_ones() -> None:
    objects = policy()
    for user in ("admin", "edit", "view"):
        subjects = [{"kind": "User", "name": user}]
        reference = {"kind": "ClusterRole", "name": user}
        objects.put(
            ROLE_BINDINGS,
            {"metadata": {"name": user, "namespace": "a"}, "roleRef": reference, "subjects": subjects},
        )
    for role, verb in (("edit", "update"), ("view", "get")):
        rules = [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": [verb]}]
        labels = {f"rbac.authorization.k8s.io/aggregate-to-{role}": "true"}
        objects.put(CLUSTER_ROLES, {"metadata": {"name": f"widgets-{role}", "labels": labels}, "rules": rules})
    rbac = RBACAuthorizer(objects)

    async def verbs(user: str) -> set[str]:
        found = set()
        for verb in ("get", "update"):
            asked = asks(UserInfo(user), verb, "widgets", group="example.com", namespace="a")
            if (await rbac.authorize(asked)).allowed:
                found.add(verb)
        return found

    assert await verbs("view") == {"get"}
    assert await verbs("edit") == await verbs("admin") == {"get", "update"}
