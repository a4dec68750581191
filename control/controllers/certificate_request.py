"""May this certificate be had? Decisions about the contents of CertificateSigningRequests. Pure.

Two kinds of request are approved without a person (Kubernetes: kubelet TLS bootstrapping). A kubelet's client
certificate: asked for by a bootstrap token's user, or by the node itself when it renews. A kubelet's serving
certificate: asked for by the node itself, for names and addresses that the cluster knows it by. Everything else waits
for `kubectl certificate approve`.

What would go wrong otherwise: a stolen bootstrap token could get a certificate of system:masters, or a node one that
lets it pose as another. A node reports its addresses itself, so names that are known to be another's are never given
to it: those of the API server, of which every pod trusts the same CA, and those of other nodes.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Collection, Iterable
from enum import Enum

from msgspec import Struct

from kube import objects, times
from kube.models import certificates_v1, core_v1
from kube.pki import (
    CLIENT_AUTH,
    DIGITAL_SIGNATURE,
    KEY_ENCIPHERMENT,
    SERVER_AUTH,
    PKIError,
    SigningRequest,
    parse_csr,
)

KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
API_CLIENT = "kubernetes.io/kube-apiserver-client"
SIGNERS = frozenset({KUBELET_CLIENT, KUBELET_SERVING, API_CLIENT})

NODE_PREFIX = "system:node:"
NODES_GROUP = "system:nodes"
BOOTSTRAPPERS_GROUP = "system:bootstrappers"
MASTERS_GROUP = "system:masters"

APPROVED = "Approved"
DENIED = "Denied"
FAILED = "Failed"

_CLIENT_USAGES = frozenset({CLIENT_AUTH, DIGITAL_SIGNATURE})
_SERVING_USAGES = frozenset({SERVER_AUTH, DIGITAL_SIGNATURE})

HOUR = 3600.0
DECIDED_SECONDS = HOUR
PENDING_SECONDS = 24 * HOUR
MINIMUM_SECONDS = 600


class Verdict(Enum):
    """What to do about a request."""

    APPROVE = "approve"
    LEAVE = "leave"  # to a person
    WAIT = "wait"  # for the node's status, which must tell the addresses first


class Decision(Struct, frozen=True):
    """A verdict and its reason in words."""

    verdict: Verdict
    message: str


def read(csr: certificates_v1.CertificateSigningRequest) -> SigningRequest:
    """The signing request inside of a CertificateSigningRequest. PKIError if it is malformed."""
    return parse_csr(request_pem(csr))


def request_pem(csr: certificates_v1.CertificateSigningRequest) -> bytes:
    """The signing request in PEM. PKIError if `spec.request` is not base64."""
    try:
        return base64.b64decode((csr.spec.request if csr.spec else None) or "", validate=True)
    except binascii.Error as error:
        raise PKIError("spec.request cannot be read", found=str(error), wanted="base64 of PEM") from error


def node_of(csr: certificates_v1.CertificateSigningRequest) -> str:
    """Name of the node that asks for itself; empty if the requestor is no node."""
    if csr.spec is None or NODES_GROUP not in csr.spec.groups:
        return ""
    user = csr.spec.username or ""
    return user.removeprefix(NODE_PREFIX) if user.startswith(NODE_PREFIX) else ""


def control_plane_names(address: str, domain: str = "cluster.local") -> frozenset[str]:
    """Names of the API server inside the cluster; `address` is its Service's."""
    service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{domain}")
    return frozenset({*service, _canonical(address)})


def names_of_others(name: str, nodes: Iterable[core_v1.Node]) -> frozenset[str]:
    """Names of all nodes but one, and the addresses of those that are alive (an address goes on to a new machine)."""
    found: set[str] = set()
    for node in nodes:
        if objects.name(node) == name:
            continue
        found.add(objects.name(node))
        ready = objects.condition(node.status.conditions, "Ready") if node.status else None
        if node.status is not None and ready is not None and ready.status == "True":
            found.update(_canonical(a.address) for a in node.status.addresses if a.address)
    return frozenset(found)


def decide(
    csr: certificates_v1.CertificateSigningRequest,
    node: core_v1.Node | None,
    *,
    reserved: Collection[str] = frozenset(),
) -> Decision:
    """Whether to approve; `node` is the Node of the requestor (`node_of`), if it exists. PKIError as of `read`.

    `reserved` are names and addresses of others, which no serving certificate may have.
    """
    signer = csr.spec.signerName if csr.spec else None
    if signer == KUBELET_CLIENT:
        return _decide_client(csr, read(csr))
    if signer == KUBELET_SERVING:
        return _decide_serving(csr, read(csr), node, reserved)
    return Decision(Verdict.LEAVE, f"the signer {signer} approves nothing by itself")


def _decide_client(csr: certificates_v1.CertificateSigningRequest, asked: SigningRequest) -> Decision:
    wrong = client_kubelet_errors(csr, asked)
    if wrong:
        return Decision(Verdict.LEAVE, wrong)
    assert csr.spec is not None
    if node_of(csr):
        if csr.spec.username == asked.common_name:
            return Decision(Verdict.APPROVE, "Auto approving self kubelet client certificate.")
        return Decision(Verdict.LEAVE, f"{csr.spec.username} asks for a certificate of {asked.common_name}")
    if BOOTSTRAPPERS_GROUP in csr.spec.groups:
        return Decision(Verdict.APPROVE, "Auto approving kubelet client certificate of a bootstrapping node.")
    return Decision(Verdict.LEAVE, f"{csr.spec.username} is neither a bootstrapper nor a node")


def _decide_serving(
    csr: certificates_v1.CertificateSigningRequest,
    asked: SigningRequest,
    node: core_v1.Node | None,
    reserved: Collection[str],
) -> Decision:
    wrong = serving_kubelet_errors(csr, asked)
    if wrong:
        return Decision(Verdict.LEAVE, wrong)
    assert csr.spec is not None
    if not node_of(csr) or csr.spec.username != asked.common_name:
        return Decision(Verdict.LEAVE, f"{csr.spec.username} asks for a certificate of {asked.common_name}")
    taken = [name for name in asked.dns_names if name.lower() in reserved]
    taken += [ip for ip in asked.ips if _canonical(ip) in reserved]
    if taken:
        return Decision(Verdict.LEAVE, f"names or addresses of others: {', '.join(taken)}")
    if node is None or node.status is None or not node.status.addresses:
        return Decision(Verdict.WAIT, f"node {node_of(csr)} has not reported its addresses yet")
    known = {objects.name(node), *(a.address for a in node.status.addresses if a.address)}
    known_ips = {_canonical(a) for a in known if a}
    foreign = [name for name in asked.dns_names if name not in known]
    foreign += [ip for ip in asked.ips if _canonical(ip) not in known_ips]
    if foreign:
        return Decision(Verdict.WAIT, f"not known as names or addresses of the node: {', '.join(foreign)}")
    return Decision(Verdict.APPROVE, "Auto approving kubelet serving certificate for the node's own names.")


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def client_kubelet_errors(csr: certificates_v1.CertificateSigningRequest, asked: SigningRequest) -> str:
    """Why the request is none for a kubelet's client certificate; empty if it is one."""
    wrong = _node_subject_errors(asked)
    if wrong:
        return wrong
    if asked.dns_names or asked.ips:
        return "a client certificate has no alternative names"
    return _usage_errors(csr, _CLIENT_USAGES)


def serving_kubelet_errors(csr: certificates_v1.CertificateSigningRequest, asked: SigningRequest) -> str:
    """Why the request is none for a kubelet's serving certificate; empty if it is one."""
    wrong = _node_subject_errors(asked)
    if wrong:
        return wrong
    if not asked.dns_names and not asked.ips:
        return "a serving certificate needs a DNS name or an address"
    return _usage_errors(csr, _SERVING_USAGES)


def _node_subject_errors(asked: SigningRequest) -> str:
    if asked.organizations != (NODES_GROUP,):
        return f"the organization must be {NODES_GROUP}, found {', '.join(asked.organizations) or 'none'}"
    if not asked.common_name.startswith(NODE_PREFIX) or asked.common_name == NODE_PREFIX:
        return f"the common name must be {NODE_PREFIX}<node>, found {asked.common_name}"
    return ""


def _usage_errors(csr: certificates_v1.CertificateSigningRequest, wanted: Collection[str]) -> str:
    usages = set(csr.spec.usages if csr.spec else ())
    if usages - {KEY_ENCIPHERMENT} != set(wanted):
        return f"the usages must be {', '.join(sorted(wanted))}, found {', '.join(sorted(usages)) or 'none'}"
    return ""


def signing_errors(csr: certificates_v1.CertificateSigningRequest) -> str:
    """Why the signer must refuse a request although it was approved; empty if it may sign. PKIError as of `read`."""
    asked = read(csr)
    signer = csr.spec.signerName if csr.spec else None
    if signer == KUBELET_CLIENT:
        return client_kubelet_errors(csr, asked)
    if signer == KUBELET_SERVING:
        return serving_kubelet_errors(csr, asked)
    if signer == API_CLIENT:
        if MASTERS_GROUP in asked.organizations:
            return f"no certificate of {MASTERS_GROUP} is given on request"
        usages = set(csr.spec.usages if csr.spec else ())
        if CLIENT_AUTH not in usages or usages - {CLIENT_AUTH, DIGITAL_SIGNATURE, KEY_ENCIPHERMENT}:
            return f"the usages must be {CLIENT_AUTH} and none but {DIGITAL_SIGNATURE} and {KEY_ENCIPHERMENT}"
        return ""
    return f"not a signer of this cluster: {signer}"


def lifetime(csr: certificates_v1.CertificateSigningRequest, longest: float) -> float:
    """Seconds for which the certificate is valid: what was asked for, at least 10 minutes, at most `longest`."""
    asked = csr.spec.expirationSeconds if csr.spec else None
    return longest if not asked else min(longest, max(float(asked), MINIMUM_SECONDS))


# --- where a request stands ------------------------------------------------------------------------------------------


def has_condition(csr: certificates_v1.CertificateSigningRequest, *types: str) -> bool:
    """Whether one of these conditions holds."""
    return any(c.type in types for c in (csr.status.conditions if csr.status else ()))


def is_pending(csr: certificates_v1.CertificateSigningRequest) -> bool:
    """Whether nobody has decided yet."""
    return not has_condition(csr, APPROVED, DENIED, FAILED)


def is_to_sign(csr: certificates_v1.CertificateSigningRequest) -> bool:
    """Whether it was approved for one of our signers and has no certificate yet."""
    signed = bool(csr.status and csr.status.certificate)
    ours = bool(csr.spec and csr.spec.signerName in SIGNERS)
    return ours and has_condition(csr, APPROVED) and not has_condition(csr, DENIED, FAILED) and not signed


def ends_in(csr: certificates_v1.CertificateSigningRequest, *, now: float) -> float:
    """Seconds until the request object is old enough to be deleted; the certificate lives on without it.

    Decided ones (signed, denied, failed) are kept an hour after the decision, pending ones a day.
    """
    made = objects.meta(csr).creationTimestamp
    begin = times.parse(made) if made else now
    if is_pending(csr) or is_to_sign(csr):
        return max(0.0, begin + PENDING_SECONDS - now)
    stamps = [
        c.lastUpdateTime or c.lastTransitionTime
        for c in (csr.status.conditions if csr.status else ())
        if c.type in (APPROVED, DENIED, FAILED)
    ]
    decided = max((times.parse(s) for s in stamps if s), default=begin)
    return max(0.0, decided + DECIDED_SECONDS - now)
