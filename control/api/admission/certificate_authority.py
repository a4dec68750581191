"""Who decides about a certificate needs the right to do so for its signer (Kubernetes: CertificateApproval,
CertificateSigning).

The right to write the `approval` or `status` of signing requests alone would give any certificate there is: the
verbs `approve` and `sign` on the resource `signers` say which ones.
"""

from __future__ import annotations

from msgspec.structs import replace

from control.api.admission.certificate_request import GROUP
from control.api.attributes import Attributes, Authorizer, Object, Operation
from kube import status

FAILED = "Failed"


class CertificateAuthority:
    """Refuses approvals, certificates and failures by those who may not act for the signer."""

    name = "CertificateAuthority"

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def admit(self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes) -> None:
        if attributes.group != GROUP or operation is not Operation.UPDATE or obj is None or old is None:
            return
        if attributes.subresource == "approval":
            verb = "approve"
        elif attributes.subresource == "status" and _outcome(obj) != _outcome(old):
            verb = "sign"
        else:
            return
        signer: str = (old.get("spec") or {}).get("signerName", "")
        if not await self._may(verb, signer, attributes):
            message = f'user not permitted to {verb} requests with signerName "{signer}"'
            raise status.forbidden(attributes.resource, attributes.name, message, group=GROUP)

    async def _may(self, verb: str, signer: str, attributes: Attributes) -> bool:
        """By the signer's name, or by all of its domain."""
        asked = replace(attributes, verb=verb, resource="signers", subresource="", namespace="")
        for name in (signer, f"{signer.partition('/')[0]}/*"):
            if (await self._authorizer.authorize(replace(asked, name=name))).allowed:
                return True
        return False


def _outcome(obj: Object) -> tuple[object, bool]:
    """What a signer decides: the certificate, and whether there will be none."""
    found = obj.get("status") or {}
    return found.get("certificate"), any(c.get("type") == FAILED for c in found.get("conditions") or ())
