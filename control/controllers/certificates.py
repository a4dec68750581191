"""Approves, signs and clears away CertificateSigningRequests (Kubernetes: csrapproving, csrsigning, csrcleaner).

Watches CertificateSigningRequests and Nodes (a kubelet's serving certificate is approved for addresses that its Node
reports, so such a request may have to wait for them). One key is one request, and takes one step at a time: approve,
then sign, then, an hour later, delete. Decisions are in `certificate_request`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Collection
from typing import ClassVar

from control.controllers import certificate_request as requests
from control.controllers.certificate_request import Verdict
from control.controllers.controller import Context, Controller
from kube import objects, pki, times
from kube.informer import DELETED, Delta
from kube.models import certificates_v1, core_v1
from kube.pki import KeyPair, PKIError
from kube.status import ApiError, is_not_found

LONGEST_SECONDS = pki.CERT_LIFETIME

log = logging.getLogger(__name__)


class CertificatesController(Controller):
    """All of a request's life. Without a CA key it approves and clears away, and signs nothing."""

    name: ClassVar[str] = "certificate-controller"
    workers: ClassVar[int] = 2

    def __init__(
        self,
        context: Context,
        *,
        ca: KeyPair | None,
        longest_seconds: float = LONGEST_SECONDS,
        reserved: Collection[str] = frozenset(),
    ) -> None:
        """`reserved` are names and addresses that no kubelet gets a certificate of: the control plane's."""
        super().__init__(context)
        self._ca = ca
        self._reserved = frozenset(reserved)
        self._longest = longest_seconds
        self._csrs = self.watch(certificates_v1.CertificateSigningRequest, self._on_csr)
        self._nodes = self.watch(core_v1.Node, self._on_node)

    def _on_csr(self, delta: Delta[certificates_v1.CertificateSigningRequest]) -> None:
        if delta.type != DELETED:
            self.queue.add(objects.key(delta.object))

    def _on_node(self, delta: Delta[core_v1.Node]) -> None:
        """A node's addresses became known: its request may be waiting for them."""
        if delta.type == DELETED or (delta.old is not None and _addresses(delta.old) == _addresses(delta.object)):
            return
        for csr in self._csrs.list():
            if requests.is_pending(csr) and requests.node_of(csr) == objects.name(delta.object):
                self.queue.add(objects.key(csr))

    async def reconcile(self, key: str) -> float | None:
        csr = self._csrs.get(key)
        if csr is None:
            return None
        left = requests.ends_in(csr, now=self.clock.time())
        if left <= 0:
            await self._delete(csr)
            return None
        if requests.is_pending(csr):
            await self._approve(csr)
        elif requests.is_to_sign(csr) and self._ca is not None:
            await self._sign(csr, self._ca)
        return left

    async def _approve(self, csr: certificates_v1.CertificateSigningRequest) -> None:
        try:
            node = requests.node_of(csr)
            reserved = self._reserved | requests.names_of_others(node, self._nodes.list())
            decision = requests.decide(csr, self._nodes.get(node), reserved=reserved)
        except PKIError as error:
            await self._fail(csr, str(error))
            return
        if decision.verdict is not Verdict.APPROVE:
            log.info("certificate signing request %s: %s", objects.name(csr), decision.message)
            return
        updated = self._with_condition(csr, requests.APPROVED, "AutoApproved", decision.message)
        await self.client.update(updated, subresource="approval")

    async def _sign(self, csr: certificates_v1.CertificateSigningRequest, ca: KeyPair) -> None:
        try:
            wrong = requests.signing_errors(csr)
            if wrong:
                await self._fail(csr, wrong)
                return
            certificate = await asyncio.to_thread(
                pki.sign_csr,
                ca,
                requests.request_pem(csr),
                clock=self.clock,
                usages=csr.spec.usages if csr.spec else (),
                lifetime=requests.lifetime(csr, self._longest),
            )
        except PKIError as error:
            await self._fail(csr, str(error))
            return
        signed = objects.copy(csr)
        assert signed.status is not None
        signed.status.certificate = base64.b64encode(certificate).decode()
        await self.client.update(signed, subresource="status")
        log.info("certificate signing request %s of %s is signed", objects.name(csr), csr.spec and csr.spec.username)

    async def _fail(self, csr: certificates_v1.CertificateSigningRequest, message: str) -> None:
        log.warning("certificate signing request %s is refused: %s", objects.name(csr), message)
        updated = self._with_condition(csr, requests.FAILED, "SignerValidationFailure", message)
        await self.client.update(updated, subresource="status")

    def _with_condition(
        self, csr: certificates_v1.CertificateSigningRequest, type_: str, reason: str, message: str
    ) -> certificates_v1.CertificateSigningRequest:
        now = times.now_rfc3339(self.clock)
        updated = objects.copy(csr)
        updated.status = updated.status or certificates_v1.CertificateSigningRequestStatus()
        updated.status.conditions.append(
            certificates_v1.CertificateSigningRequestCondition(
                type=type_,
                status="True",
                reason=reason,
                message=message,
                lastUpdateTime=now,
                lastTransitionTime=now,
            )
        )
        return updated

    async def _delete(self, csr: certificates_v1.CertificateSigningRequest) -> None:
        try:
            await self.client.delete(certificates_v1.CertificateSigningRequest, objects.name(csr), uid=objects.uid(csr))
        except ApiError as error:
            if not is_not_found(error):
                raise


def _addresses(node: core_v1.Node) -> list[core_v1.NodeAddress]:
    return node.status.addresses if node.status else []
