"""The agent's certificates: asked for by certificate signing requests, renewed before they end.

Kubernetes: "Certificate Signing Requests" and the kubelet's TLS bootstrapping and rotation. A key never leaves the
machine. A request is named after its key, so that an agent that was interrupted while it waited finds the same
request again instead of making another.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from kube import pki
from kube.client import Client
from kube.clock import Clock
from kube.errors import KtoolError
from kube.files import write_atomic
from kube.models import certificates_v1, meta_v1
from kube.status import ApiError, is_already_exists, is_not_found

CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER = "kubernetes.io/kubelet-serving"
NODES_GROUP = "system:nodes"

APPROVAL_SECONDS = 300.0
POLL_SECONDS = (0.05, 2.0)
REMIND_SECONDS = 30.0
# The part of its life after which a certificate is renewed; spread, so that a cluster's nodes don't all come at once.
RENEW_AT = (0.7, 0.9)
CHECK_SECONDS = 3600.0
RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


class CertificateError(KtoolError):
    """A certificate was denied, or was not issued in time."""


class Request(Struct, frozen=True):
    """What to ask for: a signer, a subject (CN and O) and, for servers, names and addresses."""

    signer: str
    common_name: str
    organizations: tuple[str, ...] = (NODES_GROUP,)
    dns_names: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()

    @property
    def usages(self) -> list[str]:
        """The usages that the signer signs for."""
        return [pki.DIGITAL_SIGNATURE, pki.SERVER_AUTH if self.signer == SERVING_SIGNER else pki.CLIENT_AUTH]


def node_user(node_name: str) -> str:
    """The user that a node is."""
    return f"system:node:{node_name}"


def client_request(node_name: str) -> Request:
    """The certificate by which a node introduces itself to the API server."""
    return Request(CLIENT_SIGNER, node_user(node_name))


def serving_request(node_name: str, addresses: tuple[str, ...]) -> Request:
    """The certificate of the kubelet's own server."""
    return Request(SERVING_SIGNER, node_user(node_name), dns_names=(node_name,), ips=addresses)


async def obtain(
    client: Client, request: Request, pending_key: Path, *, clock: Clock, timeout: float = APPROVAL_SECONDS
) -> pki.KeyPair:
    """Ask for a certificate and wait for it.

    The new key is kept in `pending_key` (0600) while the request is open; the caller saves the pair, and then removes
    that file. Raises CertificateError (denied, failed, not approved within `timeout` seconds), ApiError (401: the
    token is not accepted), ConnectionError.
    """
    key = _pending(pending_key)
    name = _name(key, request.signer)
    csr = pki.create_csr(
        key,
        request.common_name,
        organizations=request.organizations,
        dns_names=request.dns_names,
        ips=request.ips,
    )
    wanted = certificates_v1.CertificateSigningRequest(
        metadata=meta_v1.ObjectMeta(name=name),
        spec=certificates_v1.CertificateSigningRequestSpec(
            request=base64.b64encode(csr).decode(), signerName=request.signer, usages=request.usages
        ),
    )
    end = clock.monotonic() + timeout
    reminded = clock.monotonic()
    pause = POLL_SECONDS[0]
    await _create(client, wanted)
    while True:
        try:
            found = await client.get(certificates_v1.CertificateSigningRequest, name)
        except ApiError as error:
            if not is_not_found(error):
                raise
            await _create(client, wanted)  # old requests are cleaned away
            found = wanted
        pem = _issued(found, pending_key)
        if pem is not None:
            return pki.KeyPair(pki.parse_cert(pem, source=f"certificate signing request {name}"), key)
        now = clock.monotonic()
        if now >= end:
            raise CertificateError(
                "the certificate was not issued in time",
                found=f"certificate signing request {name} is still open after {timeout:.0f} s",
                mend=f"Approve it with: kubectl certificate approve {name}",
            )
        if now - reminded >= REMIND_SECONDS:
            reminded = now
            log.info("waiting for approval: kubectl certificate approve %s", name)
        await clock.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS[1])


async def _create(client: Client, wanted: certificates_v1.CertificateSigningRequest) -> None:
    try:
        await client.create(wanted)
    except ApiError as error:
        if not is_already_exists(error):
            raise


def _issued(request: certificates_v1.CertificateSigningRequest, pending_key: Path) -> bytes | None:
    status = request.status
    if status is None:
        return None
    for condition in status.conditions:
        if condition.type in ("Denied", "Failed"):
            pending_key.unlink(missing_ok=True)  # the next request is another one
            raise CertificateError(
                f"the certificate signing request {request.metadata.name} was {(condition.type or '').lower()}",
                found=condition.message or condition.reason or "no reason given",
                mend="Join with a new token, or ask whoever approves certificates of this cluster.",
            )
    return base64.b64decode(status.certificate) if status.certificate else None


def _pending(path: Path) -> pki.PrivateKey:
    """The key of an open request, or a new one."""
    if path.exists():
        try:
            return pki.load_key(path)
        except pki.PKIError as error:
            log.warning("%s; a new key is made", error)
    key = pki.create_key()
    pki.save_key(key, path)
    return key


def _name(key: pki.PrivateKey, signer: str) -> str:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(signer.encode() + public).hexdigest()
    return f"{'node-csr' if signer == CLIENT_SIGNER else 'csr'}-{digest[:32]}"


class Files(Struct):
    """Where a certificate and its key lie; `pending` holds the key of an open request."""

    certificate: Path
    key: Path
    pending: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> Files:
        return cls(folder / f"{name}.crt", folder / f"{name}.key", folder / f"{name}.key.pending")

    def load(self) -> pki.KeyPair | None:
        """The pair, None if there is none that could be used at all."""
        if not (self.certificate.exists() and self.key.exists()):
            return None
        try:
            return pki.load_pair(cert=self.certificate, key=self.key)
        except pki.PKIError as error:
            log.warning("%s; a new certificate is asked for", error)
            return None

    def save(self, pair: pki.KeyPair) -> None:
        """Keep a new pair; the old one is gone then."""
        pki.save_key(pair.key, self.key)
        write_atomic(self.certificate, pair.cert_pem)
        self.pending.unlink(missing_ok=True)


class Renewal:
    """Renews one certificate before it ends.

    `renewed` is given the new pair, after it was saved.
    """

    def __init__(
        self,
        client: Client,
        request: Request,
        files: Files,
        *,
        clock: Clock,
        renewed: Callable[[pki.KeyPair], Awaitable[None]] | None = None,
    ) -> None:
        self._client = client
        self._request = request
        self._files = files
        self._clock = clock
        self._renewed = renewed
        self._part = random.uniform(*RENEW_AT)  # noqa: S311
        self._there = asyncio.Event()

    async def first(self) -> pki.KeyPair:
        """The pair, as soon as `run` has found or brought one."""
        while True:
            await self._there.wait()
            pair = self._files.load()
            if pair is not None:
                return pair
            self._there.clear()  # somebody removed the files

    async def run(self) -> None:
        """Get the certificate if there is none, and renew it whenever it is time; until cancelled."""
        while True:
            pair = self._files.load()
            left = self.seconds_left(pair)
            if left > 0:
                self._there.set()
                # Not in one sleep: the clock of the wall may jump.
                await self._clock.sleep(min(left, CHECK_SECONDS))
                continue
            try:
                fresh = await obtain(self._client, self._request, self._files.pending, clock=self._clock)
            except (KtoolError, ApiError, ConnectionError, TimeoutError) as error:
                log.warning("no new certificate from %s: %s", self._request.signer, error)
                await self._clock.sleep(RETRY_SECONDS if pair is not None else RETRY_SECONDS / 10)
                continue
            self._files.save(fresh)
            log.info("new certificate from %s, for %s", self._request.signer, self._request.common_name)
            if self._renewed is not None:
                await self._renewed(fresh)

    def seconds_left(self, pair: pki.KeyPair | None) -> float:
        """Seconds until the certificate should be renewed; not positive: now."""
        if pair is None or not self._fits(pair):
            return 0.0
        start = pair.certificate.not_valid_before_utc.timestamp()
        end = pki.expires_at(pair.certificate)
        return start + (end - start) * self._part - self._clock.time()

    def _fits(self, pair: pki.KeyPair) -> bool:
        """Whether the certificate still says what is wanted: addresses of a machine change."""
        user, _ = pki.identity(pair.certificate)
        names, addresses = _alternative_names(pair.certificate)
        wanted = set(self._request.dns_names) <= names and set(self._request.ips) <= addresses
        return user == self._request.common_name and wanted


def _alternative_names(certificate: x509.Certificate) -> tuple[set[str], set[str]]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set(), set()
    addresses = {str(address) for address in found.get_values_for_type(x509.IPAddress)}
    return set(found.get_values_for_type(x509.DNSName)), addresses
