"""The certificates of an etcd member beside a master, from a CA of etcd's own (kubeadm: the folder `pki/etcd`).

Whoever has a certificate of this CA may read and write the whole cluster's state, past every rule of the API server:
so it is another CA than the cluster's, which signs certificates for every node. Its key lies on masters only.

    pki/etcd/ca        signs the others, the same on all masters
    pki/etcd/server    shown to clients; etcd's own gateway is a client of it, too
    pki/etcd/peer      between members
    pki/apiserver-etcd-client    the API server's
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from kube import files, pki
from kube.clock import Clock
from kube.pki import KeyPair

LOOPBACK = ("127.0.0.1", "::1")

log = logging.getLogger(__name__)


class EtcdCertificates(Struct, frozen=True):
    """The files below a master's folder `pki`; `ensure` makes what is missing and renews what is about to end."""

    pki_dir: Path

    @property
    def folder(self) -> Path:
        return self.pki_dir / "etcd"

    @property
    def ca_cert(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def ca_key(self) -> Path:
        return self.folder / "ca.key"

    @property
    def server_cert(self) -> Path:
        return self.folder / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.folder / "server.key"

    @property
    def peer_cert(self) -> Path:
        return self.folder / "peer.crt"

    @property
    def peer_key(self) -> Path:
        return self.folder / "peer.key"

    @property
    def client_cert(self) -> Path:
        return self.pki_dir / "apiserver-etcd-client.crt"

    @property
    def client_key(self) -> Path:
        return self.pki_dir / "apiserver-etcd-client.key"

    def ensure(self, *, name: str, address: str, clock: Clock) -> bool:
        """Have all certificates of the member `name` at `address`; True if anything was written.

        PKIError if half of the CA is missing, or a file is broken.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca, written = self._authority(clock)

        def issue() -> KeyPair:
            return pki.issue_server(
                ca, name, dns_names=("localhost", name), ips=(*LOOPBACK, address), peer=True, clock=clock
            )

        def fits(pair: KeyPair) -> bool:
            wanted = {name, *(str(ipaddress.ip_address(one)) for one in (*LOOPBACK, address))}
            return wanted <= pki.server_names(pair.certificate)

        for cert, key in ((self.server_cert, self.server_key), (self.peer_cert, self.peer_key)):
            written |= _ensure_pair(cert, key, issue, fits, ca=ca, clock=clock)
        written |= _ensure_pair(
            self.client_cert,
            self.client_key,
            lambda: pki.issue_client(ca, "kube-apiserver-etcd-client", clock=clock),
            lambda pair: True,
            ca=ca,
            clock=clock,
        )
        return written

    def renew(self, clock: Clock) -> bool:
        """Renew what is about to end, with the names that it has; True if anything was. etcd reads its files anew at
        each handshake. PKIError as from `ensure`."""
        if not self.ca_key.exists():
            return False
        ca = pki.load_pair(cert=self.ca_cert, key=self.ca_key)
        written = False
        for cert, key in (
            (self.server_cert, self.server_key),
            (self.peer_cert, self.peer_key),
            (self.client_cert, self.client_key),
        ):
            if not cert.exists() or not key.exists():
                continue
            pair = pki.load_pair(cert=cert, key=key)
            if pki.needs_renewal(pair.certificate, clock):
                log.info("renewing %s", cert)
                pki.save_pair(pki.renew(ca, pair, clock=clock), cert=cert, key=key)
                written = True
        return written

    def _authority(self, clock: Clock) -> tuple[KeyPair, bool]:
        there = self.ca_cert.exists(), self.ca_key.exists()
        if all(there):
            return pki.load_pair(cert=self.ca_cert, key=self.ca_key), False
        if any(there):
            raise pki.PKIError(
                "half of etcd's CA is missing",
                found=str(self.ca_cert if there[0] else self.ca_key),
                wanted=f"{self.ca_cert} and {self.ca_key}",
                mend="Restore the other file from another master: a new CA would lock the members out of each other",
            )
        ca = pki.create_ca("etcd-ca", clock=clock)
        pki.save_pair(ca, cert=self.ca_cert, key=self.ca_key)
        return ca, True


def _ensure_pair(
    cert: Path,
    key: Path,
    issue: Callable[[], KeyPair],
    fits: Callable[[KeyPair], bool],
    *,
    ca: KeyPair,
    clock: Clock,
) -> bool:
    if cert.exists() and key.exists():
        try:
            found = pki.load_pair(cert=cert, key=key)
            pki.check_issued(found.certificate, ca.certificate, clock)
            if fits(found) and not pki.needs_renewal(found.certificate, clock):
                return False
        except pki.PKIError as error:  # a crash between the two files, or another CA's
            log.warning("%s is made anew: %s", cert, error)
    pair = issue()
    files.write_secret(key, pair.key_pem)
    files.write_atomic(cert, pair.cert_pem)
    return True
