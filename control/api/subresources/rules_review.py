"""SelfSubjectRulesReview: everything that the caller may do in a namespace (`kubectl auth can-i --list`)."""

from __future__ import annotations

from control.api.attributes import Object
from control.api.authorization.chain import MASTERS
from control.api.authorization.rbac import RBACAuthorizer, Rule
from control.api.subresource import SubresourceContext
from kube import codec
from kube.transport import Request, Response

EVERYTHING = Rule("", frozenset("*"), frozenset("*"), frozenset("*"), frozenset(), ("*",))


async def handle(context: SubresourceContext, request: Request) -> Response:
    """POST: resource rules and path rules by RBAC; the node authorizer cannot list its rules, hence `incomplete`."""
    spec: Object = (context.body or {}).get("spec") or {}
    user = context.attributes.user
    rules = RBACAuthorizer(context.reader).rules(user)
    if MASTERS in user.groups:
        rules = (EVERYTHING, *rules)
    namespace = spec.get("namespace", "")
    counting = [r for r in rules if r.namespace in ("", namespace)]
    answer = {
        "kind": "SelfSubjectRulesReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": spec,
        "status": {
            "resourceRules": [_resource_rule(r) for r in counting if r.resources],
            "nonResourceRules": [{"verbs": sorted(r.verbs), "nonResourceURLs": [*r.urls]} for r in counting if r.urls],
            "incomplete": user.name.startswith("system:node:"),
        },
    }
    return Response(201, {"content-type": "application/json"}, codec.encode(answer))


def _resource_rule(rule: Rule) -> Object:
    found = {"verbs": sorted(rule.verbs), "apiGroups": sorted(rule.groups), "resources": sorted(rule.resources)}
    return found | ({"resourceNames": sorted(rule.names)} if rule.names else {})
