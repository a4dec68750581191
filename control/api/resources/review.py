"""Reviews: questions about users and their rights, answered and never stored (Kubernetes: TokenReview and others)."""

from __future__ import annotations

from control.api.resource import Resource
from kube import kinds, schema

HANDLERS = {
    ("authentication.k8s.io", "tokenreviews"): "token_review",
    ("authentication.k8s.io", "selfsubjectreviews"): "self_subject_review",
    ("authorization.k8s.io", "subjectaccessreviews"): "access_review",
    ("authorization.k8s.io", "localsubjectaccessreviews"): "access_review",
    ("authorization.k8s.io", "selfsubjectaccessreviews"): "access_review",
    ("authorization.k8s.io", "selfsubjectrulesreviews"): "rules_review",
}

RESOURCES = tuple(
    Resource(
        kind=kind,
        type=schema.load().kind(kind.group, kind.version, kind.kind),
        verbs=("create",),
        handler=handler,
        validate_name=lambda _: [],
    )
    for (group, plural), handler in HANDLERS.items()
    for kind in (kinds.known(group, "v1", plural),)
)
