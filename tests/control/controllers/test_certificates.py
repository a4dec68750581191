from __future__ import annotations

import asyncio
import base64
from functools import partial
from typing import Any

import pytest
from cryptography import x509

from control.controllers import certificate_request as requests
from control.controllers.certificate_request import API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, Verdict
from control.controllers.certificates import CertificatesController
from kube import objects, pki
from kube.clock import VirtualClock
from kube.models import certificates_v1, core_v1, meta_v1
from tests.control.controllers.cluster import NOW, Cluster, running, stamp

CLIENT = ("client auth", "digital signature")
SERVING = ("server auth", "digital signature")
BOOTSTRAP = ("system:bootstrap:abc", ("system:bootstrappers", "system:authenticated"))
NODE = ("system:node:n1", ("system:nodes", "system:authenticated"))
CA = pki.create_ca(clock=VirtualClock(NOW))
KEY = pki.create_key()


def csr(
    signer: str = KUBELET_CLIENT,
    who: tuple[str, tuple[str, ...]] = BOOTSTRAP,
    *,
    cn: str = "system:node:n1",
    orgs: tuple[str, ...] = ("system:nodes",),
    dns: tuple[str, ...] = (),
    ips: tuple[str, ...] = (),
    usages: tuple[str, ...] = CLIENT,
    seconds: int | None = None,
    age: float = 0.0,
) -> certificates_v1.CertificateSigningRequest:
    pem = pki.create_csr(KEY, cn, organizations=orgs, dns_names=dns, ips=ips)
    return certificates_v1.CertificateSigningRequest(
        metadata=meta_v1.ObjectMeta(name="csr", creationTimestamp=stamp(age)),
        spec=certificates_v1.CertificateSigningRequestSpec(
            request=base64.b64encode(pem).decode(),
            signerName=signer,
            usages=[*usages],
            username=who[0],
            groups=[*who[1]],
            expirationSeconds=seconds,
        ),
    )


def node(*addresses: str) -> core_v1.Node:
    return core_v1.Node(
        metadata=meta_v1.ObjectMeta(name="n1", uid="u"),
        status=core_v1.NodeStatus(addresses=[core_v1.NodeAddress(type="InternalIP", address=a) for a in addresses]),
    )


serving = partial(csr, KUBELET_SERVING, NODE, usages=SERVING)


@pytest.mark.parametrize(
    ("request_", "found", "verdict"),
    [
        (csr(), None, Verdict.APPROVE),
        (csr(who=NODE), None, Verdict.APPROVE),
        (csr(usages=(*CLIENT, "key encipherment")), None, Verdict.APPROVE),
        (csr(who=("system:node:n2", NODE[1])), None, Verdict.LEAVE),
        (csr(who=("system:node:n1", ("system:authenticated",))), None, Verdict.LEAVE),
        (csr(who=("eve", ("system:authenticated",))), None, Verdict.LEAVE),
        (csr(orgs=("system:masters",)), None, Verdict.LEAVE),
        (csr(orgs=("system:nodes", "system:masters")), None, Verdict.LEAVE),
        (csr(cn="system:node:"), None, Verdict.LEAVE),
        (csr(cn="admin"), None, Verdict.LEAVE),
        (csr(dns=("evil",)), None, Verdict.LEAVE),
        (csr(usages=(*CLIENT, "server auth")), None, Verdict.LEAVE),
        (csr(usages=("digital signature",)), None, Verdict.LEAVE),
        (csr(API_CLIENT), None, Verdict.LEAVE),
        (csr("example.com/mine"), None, Verdict.LEAVE),
        (serving(dns=("n1",), ips=("10.0.0.1",)), node("10.0.0.1"), Verdict.APPROVE),
        (serving(ips=("fd00::1",)), node("fd00:0::1"), Verdict.APPROVE),
        (serving(dns=("n1",)), None, Verdict.WAIT),
        (serving(dns=("n1",)), node(), Verdict.WAIT),
        (serving(dns=("n2",)), node("10.0.0.1"), Verdict.WAIT),
        (serving(ips=("10.0.0.2",)), node("10.0.0.1"), Verdict.WAIT),
        (serving(), node("10.0.0.1"), Verdict.LEAVE),
        (serving(cn="system:node:n2", dns=("n1",)), node("10.0.0.1"), Verdict.LEAVE),
        (csr(KUBELET_SERVING, BOOTSTRAP, dns=("n1",), usages=SERVING), node("10.0.0.1"), Verdict.LEAVE),
        (csr(KUBELET_SERVING, NODE, dns=("n1",), usages=CLIENT), node("10.0.0.1"), Verdict.LEAVE),
    ],
)
def test_decisions(
    request_: certificates_v1.CertificateSigningRequest, found: core_v1.Node | None, verdict: Verdict
) -> None:
    decision = requests.decide(request_, found)
    assert decision.verdict is verdict, decision.message
    assert decision.message


def other(name: str, address: str, ready: str) -> core_v1.Node:
    return core_v1.Node(
        metadata=meta_v1.ObjectMeta(name=name),
        status=core_v1.NodeStatus(
            addresses=[core_v1.NodeAddress(type="InternalIP", address=address)],
            conditions=[core_v1.NodeCondition(type="Ready", status=ready)],
        ),
    )


@pytest.mark.parametrize(
    ("dns", "ips", "verdict"),
    [
        ("n1", "10.0.0.1", Verdict.APPROVE),
        ("kubernetes.default.svc", "10.0.0.1", Verdict.LEAVE),
        ("Kubernetes", "10.0.0.1", Verdict.LEAVE),
        ("n1", "10.96.0.1", Verdict.LEAVE),
        ("n2", "10.0.0.1", Verdict.LEAVE),
        ("n1", "10.0.0.2", Verdict.LEAVE),
        ("n1", "10.0.0.3", Verdict.APPROVE),  # its machine is gone
    ],
)
def test_a_node_gets_no_certificate_of_others_whatever_it_reports(dns: str, ips: str, verdict: Verdict) -> None:
    liar = node(dns, ips)
    nodes = [liar, other("n2", "10.0.0.2", "True"), other("n3", "10.0.0.3", "Unknown")]
    reserved = requests.control_plane_names("10.96.0.1") | requests.names_of_others("n1", nodes)
    decision = requests.decide(serving(dns=(dns,), ips=(ips,)), liar, reserved=reserved)
    assert decision.verdict is verdict, decision.message


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (csr(), ""),
        (csr(orgs=("system:masters",)), "organization"),
        (csr(API_CLIENT, orgs=("dev",), cn="jane"), ""),
        (csr(API_CLIENT, orgs=("system:masters",), cn="jane"), "system:masters"),
        (csr(API_CLIENT, orgs=("dev",), cn="jane", usages=SERVING), "usages"),
        (csr("example.com/mine"), "not a signer"),
    ],
)
def test_the_signer_looks_again(request_: certificates_v1.CertificateSigningRequest, word: str) -> None:
    found = requests.signing_errors(request_)
    assert word in found
    assert bool(found) == bool(word)


@pytest.mark.parametrize(("asked", "expected"), [(None, 1000.0), (10, 600.0), (700, 700.0), (5000, 1000.0)])
def test_lifetime(asked: int | None, expected: float) -> None:
    assert requests.lifetime(csr(seconds=asked), 1000.0) == expected


def decided(type_: str, *, ago: float, certificate: str | None = None) -> certificates_v1.CertificateSigningRequest:
    found = csr(age=90000)
    found.status = certificates_v1.CertificateSigningRequestStatus(
        certificate=certificate,
        conditions=[certificates_v1.CertificateSigningRequestCondition(type=type_, lastUpdateTime=stamp(ago))],
    )
    return found


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (csr(age=100), 86300.0),
        (csr(age=90000), 0.0),
        (decided("Approved", ago=600, certificate="x"), 3000.0),
        (decided("Denied", ago=600), 3000.0),
        (decided("Failed", ago=4000), 0.0),
    ],
)
def test_how_long_requests_are_kept(request_: certificates_v1.CertificateSigningRequest, expected: float) -> None:
    assert requests.ends_in(request_, now=NOW) == expected


def status(cluster: Cluster) -> dict[str, Any]:
    found = cluster.api.find("CertificateSigningRequest", "csr")
    assert found is not None
    result: dict[str, Any] = found.get("status", {})
    return result


async def issue(cluster: Cluster) -> None:
    """Signing runs in a thread: give it real time."""
    for _ in range(2000):
        await cluster.settle()
        if status(cluster).get("certificate"):
            return
        await asyncio.sleep(0.01)


controller = partial(CertificatesController, ca=CA)


async def test_a_bootstrapping_node_gets_its_certificate() -> None:
    async with running(controller) as cluster:
        await cluster.client.create(csr(seconds=3600))
        await issue(cluster)
        assert [c["type"] for c in status(cluster)["conditions"]] == ["Approved"]
        certificate = pki.parse_cert(base64.b64decode(status(cluster)["certificate"]))
        assert pki.identity(certificate) == ("system:node:n1", ("system:nodes",))
        assert pki.expires_at(certificate) == pytest.approx(NOW + 3600, abs=5)
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        await cluster.advance(3601)
        assert cluster.api.find("CertificateSigningRequest", "csr") is None


async def test_a_serving_certificate_waits_for_the_nodes_addresses() -> None:
    async with running(controller) as cluster:
        await cluster.client.create(serving(dns=("n1",), ips=("10.0.0.1",)))
        await cluster.settle()
        assert not status(cluster)
        cluster.api.put(objects.to_dict(node("10.0.0.1")))
        await issue(cluster)
        certificate = pki.parse_cert(base64.b64decode(status(cluster)["certificate"]))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["n1"]


async def test_what_is_odd_waits_for_a_person_and_expires() -> None:
    async with running(controller) as cluster:
        await cluster.client.create(csr(orgs=("system:masters",)))
        await cluster.settle()
        assert not status(cluster)
        await cluster.advance(86401)
        assert cluster.api.find("CertificateSigningRequest", "csr") is None


async def test_an_approved_request_that_must_not_be_signed_fails() -> None:
    async with running(controller) as cluster:
        approved = objects.to_dict(csr(orgs=("system:masters",)))
        approved["status"] = {"conditions": [{"type": "Approved", "status": "True"}]}
        cluster.api.put(approved)
        await cluster.settle()
        assert [c["type"] for c in status(cluster)["conditions"]] == ["Approved", "Failed"]
        assert not status(cluster).get("certificate")


async def test_garbage_fails() -> None:
    async with running(controller) as cluster:
        broken = csr()
        broken.spec.request = base64.b64encode(b"nonsense").decode()  # type: ignore[union-attr]
        await cluster.client.create(broken)
        await cluster.settle()
        assert [c["type"] for c in status(cluster)["conditions"]] == ["Failed"]
