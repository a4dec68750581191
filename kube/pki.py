"""Certificates and keys of a cluster ("PKI certificates and requirements"): ECDSA P-256 throughout.

One CA vouches for everybody. A client's certificate says who it is (CN: the user, O: its groups); a server's says under
which names and addresses it may be met. A machine makes its own key and sends only a signing request, so no private
key ever travels. A machine that has never met the cluster trusts the CA by its pin, the hash of the CA's public key
that came with the join token: without it, whoever answers first on that address could pose as the master.

Certificates are valid from five minutes before they were made: the clocks of a new machine and of the master seldom
agree to the second. None outlives the CA. Lifetimes are in seconds, PEM is bytes.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kube import files
from kube.clock import Clock
from kube.errors import KtoolError

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

DAY = 86400.0
CA_LIFETIME = 3650 * DAY
CERT_LIFETIME = 365 * DAY
BACKDATE = 300.0

# Names of usages as a CertificateSigningRequest spells them.
SERVER_AUTH = "server auth"
CLIENT_AUTH = "client auth"
DIGITAL_SIGNATURE = "digital signature"
KEY_ENCIPHERMENT = "key encipherment"
_EXTENDED = {SERVER_AUTH: ExtendedKeyUsageOID.SERVER_AUTH, CLIENT_AUTH: ExtendedKeyUsageOID.CLIENT_AUTH}
USAGES = frozenset({*_EXTENDED, DIGITAL_SIGNATURE, KEY_ENCIPHERMENT})

PIN_PREFIX = "sha256:"

_E = TypeVar("_E", bound=x509.ExtensionType)


class PKIError(KtoolError):
    """A certificate, key or request that is malformed, does not fit, or is not trusted."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    @property
    def cert_pem(self) -> bytes:
        return cert_pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """What a certificate signing request asks for; its signature has been checked (the asker has the key)."""

    common_name: str
    organizations: tuple[str, ...]
    dns_names: tuple[str, ...]
    ips: tuple[str, ...]
    request: x509.CertificateSigningRequest = field(repr=False)


# --- making ----------------------------------------------------------------------------------------------------------


def create_key() -> PrivateKey:
    """A new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def create_ca(common_name: str = "ktool-ca", *, clock: Clock, lifetime: float = CA_LIFETIME) -> KeyPair:
    """A new certificate authority that signs itself and may sign no other authority."""
    key = create_key()
    name = _name(common_name, ())
    usage = _key_usage(DIGITAL_SIGNATURE, ca=True)
    builder = (
        _builder(name, name, key.public_key(), clock.time(), clock.time() + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return KeyPair(builder.sign(key, hashes.SHA256()), key)


def issue_server(
    ca: KeyPair,
    common_name: str,
    *,
    clock: Clock,
    dns_names: Iterable[str] = (),
    ips: Iterable[str] = (),
    organizations: Sequence[str] = (),
    peer: bool = False,
    lifetime: float = CERT_LIFETIME,
) -> KeyPair:
    """A new key and certificate of a server that is met under these DNS names and IP addresses.

    A `peer` shows the same certificate as a client, too: an etcd member to the others, and to itself.
    """
    key = create_key()
    names = _alternative_names(dns_names, ips)
    if names is None:
        raise PKIError("a server certificate needs a name", found="no DNS name and no address", wanted="at least one")
    subject = _name(common_name, organizations)
    usages = {DIGITAL_SIGNATURE, SERVER_AUTH, *({CLIENT_AUTH} if peer else ())}
    return KeyPair(_issue(ca, subject, key.public_key(), names, usages, lifetime, clock), key)


def issue_client(
    ca: KeyPair,
    common_name: str,
    *,
    clock: Clock,
    organizations: Sequence[str] = (),
    lifetime: float = CERT_LIFETIME,
) -> KeyPair:
    """A new key and certificate of a user (CN) in groups (O)."""
    key = create_key()
    subject = _name(common_name, organizations)
    certificate = _issue(ca, subject, key.public_key(), None, {DIGITAL_SIGNATURE, CLIENT_AUTH}, lifetime, clock)
    return KeyPair(certificate, key)


def create_csr(
    key: PrivateKey,
    common_name: str,
    *,
    organizations: Sequence[str] = (),
    dns_names: Iterable[str] = (),
    ips: Iterable[str] = (),
) -> bytes:
    """A certificate signing request in PEM: the `spec.request` of a CertificateSigningRequest (there in base64)."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(common_name, organizations))
    names = _alternative_names(dns_names, ips)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def parse_csr(pem: bytes) -> SigningRequest:
    """What a signing request asks for; who approves it decides by this.

    PKIError if it is malformed, not signed by its own key, has a weak key, no single common name, parts of a subject
    other than CN and O, or alternative names other than DNS names and IP addresses: what the approver does not see
    must not get into a certificate.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        valid = request.is_signature_valid
        # Decoding happens on first use: a malformed request shows itself here and nowhere later.
        subject, extensions, public_key = list(request.subject), list(request.extensions), request.public_key()
    except (ValueError, InvalidSignature, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise PKIError("not a certificate signing request", found=str(error), wanted="PKCS #10 in PEM") from error
    if not valid:
        raise PKIError("the signing request's signature is wrong", wanted="a request signed by its own key")
    strong = (
        (isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.key_size >= 256)
        or isinstance(public_key, ed25519.Ed25519PublicKey)
        or (isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size >= 2048)
    )
    if not strong:
        kind = type(public_key).__name__
        raise PKIError("the signing request's key is too weak", found=kind, wanted="ECDSA P-256 or stronger")
    common_names = [str(a.value) for a in subject if a.oid == NameOID.COMMON_NAME]
    organizations = tuple(str(a.value) for a in subject if a.oid == NameOID.ORGANIZATION_NAME)
    if len(common_names) != 1 or not common_names[0]:
        raise PKIError("no common name in the signing request", found=repr(common_names), wanted="one common name")
    if len(subject) != 1 + len(organizations):
        raise PKIError(
            "more in the subject than a name and groups", found=request.subject.rfc4514_string(), wanted="CN and O only"
        )
    dns_names: list[str] = []
    ips: list[str] = []
    for extension in extensions:
        if not isinstance(extension.value, x509.SubjectAlternativeName):
            continue  # other extensions are never copied: the usages come from the request object
        for name in extension.value:
            if isinstance(name, x509.DNSName):
                dns_names.append(name.value)
            elif isinstance(name, x509.IPAddress):
                ips.append(str(name.value))
            else:
                raise PKIError(
                    "unexpected alternative name", found=type(name).__name__, wanted="DNS names and IP addresses"
                )
    return SigningRequest(common_names[0], organizations, tuple(dns_names), tuple(ips), request)


def sign_csr(
    ca: KeyPair, pem: bytes, *, clock: Clock, usages: Collection[str], lifetime: float = CERT_LIFETIME
) -> bytes:
    """The certificate, in PEM, that an approved signing request asked for.

    Subject, names and key come from the request, `usages` (as a CertificateSigningRequest spells them) from the
    caller. The result is never an authority. PKIError as of `parse_csr`, or if a usage is not one of `USAGES`.
    """
    asked = parse_csr(pem)
    unknown = sorted(set(usages) - USAGES)
    if unknown:
        raise PKIError("usages that are not signed for", found=", ".join(unknown), wanted=", ".join(sorted(USAGES)))
    subject = _name(asked.common_name, asked.organizations)
    names = _alternative_names(asked.dns_names, asked.ips)
    public_key = asked.request.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey)
    return cert_pem(_issue(ca, subject, public_key, names, set(usages), lifetime, clock))


def renew(ca: KeyPair, pair: KeyPair, *, clock: Clock, lifetime: float = CERT_LIFETIME) -> KeyPair:
    """A new key and certificate with the same subject, names and usages as the old ones."""
    old = pair.certificate
    names = _extension(old, x509.SubjectAlternativeName)
    extended = _extension(old, x509.ExtendedKeyUsage)
    usages = {DIGITAL_SIGNATURE} | {usage for usage, oid in _EXTENDED.items() if extended and oid in extended}
    key = create_key()
    return KeyPair(_issue(ca, old.subject, key.public_key(), names, usages, lifetime, clock), key)


# --- asking ----------------------------------------------------------------------------------------------------------


def issued_at(not_before: float) -> float:
    """When a certificate of ours was issued that is valid since `not_before`, which is some minutes earlier (both in
    seconds since 1970)."""
    return not_before + BACKDATE


def expires_at(certificate: x509.Certificate) -> float:
    """When the certificate ends, seconds since 1970."""
    return certificate.not_valid_after_utc.timestamp()


def needs_renewal(certificate: x509.Certificate, clock: Clock, *, left: float = 0.2) -> bool:
    """Whether less than the fraction `left` of the certificate's life is left."""
    start, end = certificate.not_valid_before_utc.timestamp(), expires_at(certificate)
    return end - clock.time() < (end - start) * left


def identity(certificate: x509.Certificate) -> tuple[str, tuple[str, ...]]:
    """(user, groups) of a client certificate: its CN and its Os. The user is empty if there is no CN."""
    names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return names[0] if names else "", tuple(str(a.value) for a in groups)


def server_names(certificate: x509.Certificate) -> set[str]:
    """The names and addresses that a server's certificate is good for, as text."""
    found = _extension(certificate, x509.SubjectAlternativeName)
    if found is None:
        return set()
    addresses = {str(address) for address in found.get_values_for_type(x509.IPAddress)}
    return {*found.get_values_for_type(x509.DNSName), *addresses}


def check_issued(certificate: x509.Certificate, ca: x509.Certificate, clock: Clock) -> None:
    """PKIError unless the certificate was signed by this CA and both are valid now."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise PKIError(
            "the certificate is not from this cluster's CA",
            found=f"issuer {certificate.issuer.rfc4514_string()}",
            wanted=f"a signature of {ca.subject.rfc4514_string()} with pin {ca_pin(ca)}",
        ) from error
    now = datetime.fromtimestamp(clock.time(), UTC)
    for each in (certificate, ca):
        if not each.not_valid_before_utc <= now <= each.not_valid_after_utc:
            raise PKIError(
                f"the certificate of {each.subject.rfc4514_string()} is not valid now",
                found=f"{now:%Y-%m-%dT%H:%M:%SZ}",
                wanted=f"between {each.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} "
                f"and {each.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
                mend="Check the machine's clock",
            )


def ca_pin(certificate: x509.Certificate) -> str:
    """`sha256:<hex>` of the certificate's public key (kubeadm: `--discovery-token-ca-cert-hash`).

    It outlives a renewal of the CA's certificate as long as the key stays.
    """
    info = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return PIN_PREFIX + hashlib.sha256(info).hexdigest()


def verify_pin(certificate: x509.Certificate, pin: str) -> None:
    """PKIError unless the CA's certificate has this pin."""
    digest = pin.strip().lower().removeprefix(PIN_PREFIX)
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise PKIError("not a CA pin", found=repr(pin), wanted=f"{PIN_PREFIX} and 64 hexadecimal digits")
    found = ca_pin(certificate)
    if found != PIN_PREFIX + digest:
        raise PKIError(
            "the server's CA is not the pinned one",
            found=found,
            wanted=PIN_PREFIX + digest,
            mend="Either the pin is of another cluster, or somebody answers in the master's place: do not go on",
        )


def key_id(key: PublicKey) -> str:
    """A public key's name in tokens (`kid`): base64url of the SHA-256 of the key, as kube-apiserver names it."""
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(info).digest()).rstrip(b"=").decode()


# --- PEM and files ---------------------------------------------------------------------------------------------------


def cert_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_key_pem(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def parse_cert(pem: bytes, *, source: str = "PEM data") -> x509.Certificate:
    """The first certificate in PEM data; `source` names it in errors (PKIError)."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise PKIError(f"no certificate in {source}", found=str(error), wanted="a certificate in PEM") from error


def parse_key(pem: bytes, *, source: str = "PEM data") -> PrivateKey:
    """The private key in PEM data; `source` names it in errors (PKIError), which never show the data."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise PKIError(f"no private key in {source}", wanted="an unencrypted private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PKIError(f"the key in {source} is of the wrong kind", found=type(key).__name__, wanted="an ECDSA key")
    return key


def save_pair(pair: KeyPair, *, cert: Path | str, key: Path | str) -> None:
    """Write the key (0600) and then the certificate, each in one step."""
    files.write_secret(key, pair.key_pem)
    files.write_atomic(cert, pair.cert_pem)


def load_pair(*, cert: Path | str, key: Path | str) -> KeyPair:
    """Certificate and key from files; PKIError if they are unreadable or do not belong together."""
    pair = KeyPair(load_cert(cert), load_key(key))
    if pair.certificate.public_key() != pair.key.public_key():
        raise PKIError(
            "certificate and key do not belong together",
            found=f"the public key of {cert} is not that of {key}",
            wanted="a pair",
            mend=f"Put the matching key beside the certificate, or remove {cert} and {key} to have them made anew",
        )
    return pair


def load_cert(path: Path | str) -> x509.Certificate:
    """The certificate in a file (PKIError)."""
    return parse_cert(_read(path), source=str(path))


def save_key(key: PrivateKey, path: Path | str) -> None:
    """Write a private key (0600) in one step: the key that signs service-account tokens, for instance."""
    files.write_secret(path, key_pem(key))


def load_key(path: Path | str) -> PrivateKey:
    """The private key in a file (PKIError)."""
    return parse_key(_read(path), source=str(path))


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PKIError(f"cannot read {path}", found=error.strerror or str(error), wanted="a readable file") from error


# --- the parts of a certificate --------------------------------------------------------------------------------------


def _name(common_name: str, organizations: Sequence[str]) -> x509.Name:
    try:
        # Each group in a part of its own, so that a group's name may hold anything.
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
        return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    except ValueError as error:
        raise PKIError(
            "not a name for a certificate", found=f"{common_name!r}, {list(organizations)}", wanted=str(error)
        ) from error


def _alternative_names(dns_names: Iterable[str], ips: Iterable[str]) -> x509.SubjectAlternativeName | None:
    try:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys(dns_names)]
        names += [x509.IPAddress(address) for address in dict.fromkeys(ipaddress.ip_address(ip) for ip in ips)]
    except ValueError as error:
        raise PKIError("not a name for a certificate", found=str(error), wanted="DNS names, IP addresses") from error
    return x509.SubjectAlternativeName(names) if names else None


def _key_usage(*usages: str, ca: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=DIGITAL_SIGNATURE in usages,
        key_encipherment=KEY_ENCIPHERMENT in usages,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


_AnyPublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: _AnyPublicKey, start: float, end: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(int(start - BACKDATE), UTC))
        .not_valid_after(datetime.fromtimestamp(int(end), UTC))
    )


def _issue(
    ca: KeyPair,
    subject: x509.Name,
    public_key: _AnyPublicKey,
    names: x509.SubjectAlternativeName | None,
    usages: set[str],
    lifetime: float,
    clock: Clock,
) -> x509.Certificate:
    now = clock.time()
    ca_end = expires_at(ca.certificate)
    if ca_end <= now:
        raise PKIError(
            "the CA's certificate has expired",
            found=f"{ca.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
            wanted="a CA that is valid now",
            mend="Check the machine's clock, or renew the CA",
        )
    if lifetime <= 0:
        raise PKIError("a certificate must live for a while", found=f"{lifetime} s", wanted="more than 0 s")
    constraints = _extension(ca.certificate, x509.BasicConstraints)
    issuer = ca.certificate.subject
    if constraints is None or not constraints.ca:
        raise PKIError("not a CA", found=f"the certificate of {issuer.rfc4514_string()}", wanted="one that may sign")
    builder = (
        _builder(subject, issuer, public_key, now, min(now + lifetime, ca_end))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority(ca.certificate), critical=False)
    )
    if usages & {DIGITAL_SIGNATURE, KEY_ENCIPHERMENT}:
        builder = builder.add_extension(_key_usage(*usages), critical=True)
    extended = [oid for usage, oid in _EXTENDED.items() if usage in usages]
    if extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(ca.key, hashes.SHA256())


def _authority(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """How a certificate points to the key that signed it; a CA made elsewhere may not have named its key."""
    identifier = _extension(ca, x509.SubjectKeyIdentifier)
    if identifier is not None:
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    public_key = ca.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey), "load_pair and create_ca know ECDSA keys only"
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key)


def _extension(certificate: x509.Certificate, type_: type[_E]) -> _E | None:
    try:
        return certificate.extensions.get_extension_for_class(type_).value
    except x509.ExtensionNotFound:
        return None
