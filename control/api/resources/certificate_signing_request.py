"""CertificateSigningRequest (Kubernetes concept: Certificates and Certificate Signing Requests)."""

from __future__ import annotations

import base64

from control.api.resource import Column, Object, Resource, Subresource
from control.api.rules import columns, fields
from kube import kinds, schema
from kube.errors import FieldError

KIND = kinds.known("certificates.k8s.io", "v1", "certificatesigningrequests")
MINIMUM_SECONDS = 600


def validate(obj: Object) -> list[FieldError]:
    spec = obj.get("spec") or {}
    errors = fields.required(spec, "spec", "request", "signerName", "usages")
    errors += fields.at_least(spec, "spec", "expirationSeconds", MINIMUM_SECONDS)
    signer = spec.get("signerName") or ""
    if signer and "/" not in signer:
        message = "must be a domain, a slash and a path, such as example.com/signer"
        errors.append(FieldError.invalid("spec.signerName", signer, message))
    if spec.get("request") and b"BEGIN CERTIFICATE REQUEST" not in base64.b64decode(spec["request"]):
        message = "must be a PEM block of type CERTIFICATE REQUEST, in base64"
        errors.append(FieldError.invalid("spec.request", "", message))
    return errors


def condition_text(obj: Object) -> str:
    """`Approved,Issued`, `Denied`, `Failed` or `Pending`."""
    status = obj.get("status") or {}
    found = [c.get("type", "") for c in status.get("conditions") or ()]
    words = [word for word in ("Approved", "Denied", "Failed") if word in found] or ["Pending"]
    return ",".join([*words, "Issued"] if status.get("certificate") else words)


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind(KIND.group, KIND.version, KIND.kind),
        subresources=(
            Subresource("status", "status", KIND.group, "v1", KIND.kind, ("get", "patch", "update")),
            Subresource("approval", "approval", KIND.group, "v1", KIND.kind, ("get", "patch", "update")),
        ),
        columns=(
            columns.NAME,
            columns.AGE,
            Column("SignerName", lambda o, _: (o.get("spec") or {}).get("signerName") or ""),
            Column("Requestor", lambda o, _: (o.get("spec") or {}).get("username") or ""),
            Column(
                "RequestedDuration",
                lambda o, _: str((o.get("spec") or {}).get("expirationSeconds") or "<none>"),
            ),
            Column("Condition", lambda o, _: condition_text(o)),
        ),
        has_status=True,
        validate=validate,
        validate_update=lambda new, old: fields.immutable(new, old, "", "spec"),
        fields=lambda o: {
            "metadata.name": columns.metadata_cell(o, "name"),
            "spec.signerName": (o.get("spec") or {}).get("signerName") or "",
        },
        selectable_fields=frozenset({"metadata.name", "spec.signerName"}),
    ),
)
