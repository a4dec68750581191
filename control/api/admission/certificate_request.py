"""Who asks for a certificate is written into the request by the server, never by the client.

(Kubernetes does so in the CertificateSigningRequest's strategy: `spec.username`, `groups`, `uid` and `extra`.)
"""

from __future__ import annotations

from control.api.attributes import Attributes, Object, Operation

GROUP = "certificates.k8s.io"


class CertificateRequest:
    """Stamps the requestor on each new CertificateSigningRequest: approvers decide by it."""

    name = "CertificateRequest"

    async def admit(self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes) -> None:
        if obj is None or operation is not Operation.CREATE or attributes.group != GROUP or attributes.subresource:
            return
        user = attributes.user
        spec = obj.setdefault("spec", {})
        spec["username"] = user.name
        spec["groups"] = [*user.groups]
        for field in ("uid", "extra"):
            spec.pop(field, None)
        if user.uid:
            spec["uid"] = user.uid
        if user.extra:
            spec["extra"] = {key: [*values] for key, values in user.extra.items()}
