from __future__ import annotations

import asyncio
import ssl
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kube import pki
from kube.clock import VirtualClock
from kube.pki import CLIENT_AUTH, DAY, DIGITAL_SIGNATURE, SERVER_AUTH, KeyPair, PKIError

START = 1_800_000_000.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(start=START)


@pytest.fixture
def ca(clock: VirtualClock) -> KeyPair:
    return pki.create_ca(clock=clock)


def constraints(certificate: x509.Certificate) -> x509.BasicConstraints:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def alternative(certificate: x509.Certificate) -> list[str]:
    return [str(n.value) for n in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]


def test_a_ca(ca: KeyPair, clock: VirtualClock) -> None:
    certificate = ca.certificate
    assert constraints(certificate).ca
    assert constraints(certificate).path_length == 0
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert certificate.not_valid_before_utc.timestamp() == START - 300
    assert pki.expires_at(certificate) == START + pki.CA_LIFETIME
    pki.check_issued(certificate, certificate, clock)


def test_a_server_certificate(ca: KeyPair, clock: VirtualClock) -> None:
    pair = pki.issue_server(
        ca, "kube-apiserver", clock=clock, dns_names=["localhost", "kubernetes", "localhost"], ips=["10.96.0.1", "::1"]
    )
    assert alternative(pair.certificate) == ["localhost", "kubernetes", "10.96.0.1", "::1"]
    assert usages(pair.certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not constraints(pair.certificate).ca
    assert pair.certificate.not_valid_before_utc.timestamp() == START - 300
    pki.check_issued(pair.certificate, ca.certificate, clock)


def test_a_client_certificate(ca: KeyPair, clock: VirtualClock) -> None:
    pair = pki.issue_client(ca, "system:node:n1", clock=clock, organizations=["system:nodes", "a,b=c"])
    assert pki.identity(pair.certificate) == ("system:node:n1", ("system:nodes", "a,b=c"))
    assert usages(pair.certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert "private" not in repr(pair).lower()


def test_no_certificate_outlives_its_ca(clock: VirtualClock) -> None:
    ca = pki.create_ca(clock=clock, lifetime=10 * DAY)
    assert pki.expires_at(pki.issue_client(ca, "a", clock=clock).certificate) == START + 10 * DAY


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda ca, clock: pki.issue_server(ca, "s", clock=clock), "needs a name"),
        (lambda ca, clock: pki.issue_server(ca, "s", clock=clock, ips=["10.0.0"]), "not a name"),
        (lambda ca, clock: pki.issue_server(ca, "s", clock=clock, dns_names=["ü"]), "not a name"),
        (lambda ca, clock: pki.issue_client(ca, "", clock=clock), "not a name"),
        (lambda ca, clock: pki.issue_client(ca, "x" * 65, clock=clock), "not a name"),
        (lambda ca, clock: pki.issue_client(ca, "a", clock=clock, lifetime=0), "live for a while"),
        (lambda ca, clock: pki.issue_client(pki.issue_client(ca, "a", clock=clock), "b", clock=clock), "not a CA"),
        (lambda ca, clock: pki.issue_client(ca, "a", clock=VirtualClock(START + 4000 * DAY)), "has expired"),
    ],
)  # fmt: skip
def test_what_is_not_issued(ca: KeyPair, clock: VirtualClock, call, what: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PKIError, match=what):
        call(ca, clock)


def test_a_signing_request_is_signed_as_asked(ca: KeyPair, clock: VirtualClock) -> None:
    key = pki.create_key()
    csr = pki.create_csr(
        key, "system:node:n1", organizations=["system:nodes"], dns_names=["n1"], ips=["10.0.0.1", "fd00::1"]
    )
    asked = pki.parse_csr(csr)
    assert (asked.common_name, asked.organizations) == ("system:node:n1", ("system:nodes",))
    assert (asked.dns_names, asked.ips) == (("n1",), ("10.0.0.1", "fd00::1"))
    pem = pki.sign_csr(ca, csr, clock=clock, usages=[DIGITAL_SIGNATURE, CLIENT_AUTH, SERVER_AUTH], lifetime=DAY)
    certificate = pki.parse_cert(pem)
    assert certificate.public_key() == key.public_key()
    assert pki.identity(certificate) == ("system:node:n1", ("system:nodes",))
    assert alternative(certificate) == ["n1", "10.0.0.1", "fd00::1"]
    assert set(usages(certificate)) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert pki.expires_at(certificate) == START + DAY
    pki.check_issued(certificate, ca.certificate, clock)


def request(
    *attributes: tuple[x509.ObjectIdentifier, str],
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    names: list[x509.GeneralName] | None = None,
    authority: bool = False,
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key or pki.create_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


CN, O = (NameOID.COMMON_NAME, "a"), (NameOID.ORGANIZATION_NAME, "g")  # noqa: E741


def test_a_request_cannot_make_itself_an_authority(ca: KeyPair, clock: VirtualClock) -> None:
    pem = pki.sign_csr(ca, request(CN, authority=True), clock=clock, usages=[CLIENT_AUTH])
    assert not constraints(pki.parse_cert(pem)).ca


@pytest.mark.parametrize(
    ("pem", "what"),
    [
        (b"", "not a certificate signing request"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "not a certificate"),
        (request(), "no common name"),
        (request(O), "no common name"),
        (request(CN, CN), "no common name"),
        (request(CN, O, (NameOID.LOCALITY_NAME, "x")), "more in the subject"),
        (request(CN, names=[x509.RFC822Name("a@b.c")]), "unexpected alternative name"),
        (request(CN, names=[x509.UniformResourceIdentifier("spiffe://x")]), "unexpected alternative name"),
        (request(CN, key=rsa.generate_private_key(65537, 1024)), "too weak"),
        (request(CN, key=ec.generate_private_key(ec.SECP192R1())), "too weak"),
    ],
)
def test_requests_that_are_refused(ca: KeyPair, clock: VirtualClock, pem: bytes, what: str) -> None:
    with pytest.raises(PKIError, match=what):
        pki.sign_csr(ca, pem, clock=clock, usages=[CLIENT_AUTH])


def test_a_request_signed_by_another_key_is_refused() -> None:
    der = x509.load_pem_x509_csr(request(CN)).public_bytes(serialization.Encoding.DER)
    forged = bytearray(der)
    at = der.index(b"\x55\x04\x03") + 5  # the common name's only letter
    assert forged[at : at + 1] == b"a"
    forged[at] = ord("b")
    pem = x509.load_der_x509_csr(bytes(forged)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(PKIError, match="signature is wrong"):
        pki.parse_csr(pem)


def test_an_unknown_usage_is_refused(ca: KeyPair, clock: VirtualClock) -> None:
    with pytest.raises(PKIError) as caught:
        pki.sign_csr(ca, request(CN), clock=clock, usages=[CLIENT_AUTH, "code signing"])
    assert caught.value.found == "code signing"


def test_renewal(ca: KeyPair, clock: VirtualClock) -> None:
    old = pki.issue_server(ca, "s", clock=clock, dns_names=["h"], ips=["10.0.0.1"], organizations=["g"])
    later = VirtualClock(START + 300 * DAY)
    assert not pki.needs_renewal(old.certificate, clock)
    assert not pki.needs_renewal(old.certificate, VirtualClock(START + 280 * DAY))
    assert pki.needs_renewal(old.certificate, later)
    assert pki.needs_renewal(old.certificate, VirtualClock(START + 400 * DAY))
    new = pki.renew(ca, old, clock=later)
    assert new.key != old.key
    assert new.certificate.subject == old.certificate.subject
    assert alternative(new.certificate) == alternative(old.certificate)
    assert usages(new.certificate) == usages(old.certificate)
    assert pki.expires_at(new.certificate) == START + 665 * DAY
    client = pki.renew(ca, pki.issue_client(ca, "c", clock=clock), clock=later)
    assert usages(client.certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_pin_is_the_hash_of_the_public_key(ca: KeyPair, clock: VirtualClock) -> None:
    pin = pki.ca_pin(ca.certificate)
    pki.verify_pin(ca.certificate, pin)
    pki.verify_pin(ca.certificate, " " + pin.upper().replace("SHA256:", "sha256:") + "\n")
    other = pki.create_ca(clock=clock)
    with pytest.raises(PKIError) as caught:
        pki.verify_pin(other.certificate, pin)
    assert caught.value.wanted == pin
    assert caught.value.found == pki.ca_pin(other.certificate)
    for malformed in ("", "sha256:", "sha256:xyz", "md5:" + "0" * 32, pin + "0"):
        with pytest.raises(PKIError, match="not a CA pin"):
            pki.verify_pin(ca.certificate, malformed)


# A certificate made by openssl; pin computed by: openssl x509 -pubkey | openssl pkey -pubin -outform der | sha256sum
FIXED_CA = (
    b"-----BEGIN CERTIFICATE-----\n"
    b"MIIBdzCCAR2gAwIBAgIUePTab3hIif9juutFLPr1GbAvZZUwCgYIKoZIzj0EAwIw\n"
    b"EDEOMAwGA1UEAwwFZml4ZWQwIBcNMjYxMTIxMDkzNjMwWhgPMjEyNjEwMjgwOTM2\n"
    b"MzBaMBAxDjAMBgNVBAMMBWZpeGVkMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n"
    b"UH95WapySheG/uakr2FB8EfuyS18Y4g5hMJTTbfzOzDh5QT/jW36xA0KSk5ouRwU\n"
    b"CfoCGY3Sttmf7orwEfKxdKNTMFEwHQYDVR0OBBYEFO788z0DEwxHzj78s1yGlLXn\n"
    b"FCPCMB8GA1UdIwQYMBaAFO788z0DEwxHzj78s1yGlLXnFCPCMA8GA1UdEwEB/wQF\n"
    b"MAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgOobOCsAT+t74iulWpDmQZ3mcGKGJ00h0\n"
    b"6fBcwr/sf+cCIQC2kCos/bnhWWoP7plAa05yolcAA+NtNVvZHbDr0FPuaA==\n"
    b"-----END CERTIFICATE-----\n"
)
FIXED_PIN = "sha256:cd0c1cc935f119f85bb9e24ada91766f6319a76e68bbe4de55c7f8bf5aeb9e4f"


def test_the_pin_agrees_with_openssl() -> None:
    assert pki.ca_pin(pki.parse_cert(FIXED_CA)) == FIXED_PIN


def test_what_this_ca_did_not_issue(ca: KeyPair, clock: VirtualClock) -> None:
    pair = pki.issue_client(ca, "a", clock=clock, lifetime=DAY)
    impostor = pki.create_ca(clock=clock)  # the same name, another key
    with pytest.raises(PKIError, match="not from this cluster's CA"):
        pki.check_issued(pair.certificate, impostor.certificate, clock)
    pki.check_issued(pair.certificate, ca.certificate, VirtualClock(START - 299))
    for moment in (START - 301, START + DAY + 1):
        with pytest.raises(PKIError, match="not valid now") as caught:
            pki.check_issued(pair.certificate, ca.certificate, VirtualClock(moment))
        assert "clock" in caught.value.mend


def test_files(tmp_path: Path, ca: KeyPair, clock: VirtualClock) -> None:
    cert, key = tmp_path / "pki" / "ca.crt", tmp_path / "pki" / "ca.key"
    pki.save_pair(ca, cert=cert, key=key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(cert.stat().st_mode) == 0o644
    loaded = pki.load_pair(cert=cert, key=key)
    assert loaded.certificate == ca.certificate
    pki.check_issued(pki.issue_client(loaded, "a", clock=clock).certificate, ca.certificate, clock)

    with pytest.raises(PKIError, match=r"cannot read .*none"):
        pki.load_pair(cert=tmp_path / "none", key=key)
    with pytest.raises(PKIError, match=r"no certificate in .*ca.key"):
        pki.load_cert(key)
    with pytest.raises(PKIError, match=r"no private key in .*ca.crt"):
        pki.load_key(cert)
    pki.save_key(pki.create_key(), key)
    with pytest.raises(PKIError, match="do not belong together"):
        pki.load_pair(cert=cert, key=key)
    other = rsa.generate_private_key(65537, 2048)
    with pytest.raises(PKIError, match="wrong kind"):
        pki.parse_key(
            other.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def test_a_service_account_key(tmp_path: Path) -> None:
    key = pki.create_key()
    pki.save_key(key, tmp_path / "sa.key")
    again = pki.load_key(tmp_path / "sa.key")
    assert pki.key_id(again.public_key()) == pki.key_id(key.public_key())
    assert pki.key_id(key.public_key()) != pki.key_id(pki.create_key().public_key())
    assert pki.public_key_pem(key.public_key()).startswith(b"-----BEGIN PUBLIC KEY-----")


async def test_a_real_handshake_with_strict_checks(tmp_path: Path) -> None:
    clock = VirtualClock(start=time.time())
    ca = pki.create_ca(clock=clock)
    server = pki.issue_server(ca, "api", clock=clock, ips=["127.0.0.1"])
    client = pki.issue_client(ca, "admin", clock=clock, organizations=["system:masters"])
    for name, pair in (("ca", ca), ("server", server), ("client", client)):
        pki.save_pair(pair, cert=tmp_path / f"{name}.crt", key=tmp_path / f"{name}.key")

    def context(purpose: ssl.Purpose, name: str) -> ssl.SSLContext:
        made = ssl.create_default_context(purpose, cafile=str(tmp_path / "ca.crt"))
        made.load_cert_chain(tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
        made.verify_mode = ssl.CERT_REQUIRED
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        return made

    seen: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert")["subject"])
        writer.write(b"hello")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context(ssl.Purpose.CLIENT_AUTH, "server"))
    async with listening, asyncio.timeout(20):
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context(ssl.Purpose.SERVER_AUTH, "client")
        )
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
    assert seen == [((("organizationName", "system:masters"),), (("commonName", "admin"),))]
