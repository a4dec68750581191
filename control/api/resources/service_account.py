"""ServiceAccount (Kubernetes concept: Service Accounts)."""

from __future__ import annotations

from control.api.resource import Column, Resource, Subresource
from control.api.rules import columns
from kube import kinds, schema

KIND = kinds.known("", "v1", "serviceaccounts")

RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind("", "v1", "ServiceAccount"),
        subresources=(Subresource("token", "token", "authentication.k8s.io", "v1", "TokenRequest", ("create",)),),
        columns=(
            columns.NAME,
            Column("Secrets", lambda o, _: len(o.get("secrets") or ()), type="integer"),
            columns.AGE,
        ),
    ),
)
