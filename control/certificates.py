"""The master's own certificates and keys, made when they are missing and renewed before they end.

Names are kubeadm's ("PKI certificates and requirements"). The CA is never replaced: every machine trusts it.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from msgspec import Struct

from control.data_dir import DataDir
from kube import files, kubeconfig, pki
from kube.clock import Clock
from kube.pki import KeyPair

MASTERS = "system:masters"
ADMIN = "kubernetes-admin"
CLUSTER_DOMAIN = "cluster.local"

log = logging.getLogger(__name__)


class Addresses(Struct, frozen=True):
    """How the API server is reached: on which address and port it listens, and which address it tells others."""

    bind: str
    advertise: str
    port: int

    @property
    def local_url(self) -> str:
        """URL on this machine."""
        bind = ipaddress.ip_address(self.bind)
        if bind.is_unspecified or bind.is_loopback:
            return f"https://127.0.0.1:{self.port}" if bind.version == 4 else f"https://[::1]:{self.port}"
        return f"https://{self.bind}:{self.port}"

    @property
    def url(self) -> str:
        """URL on other machines."""
        return f"https://{self.advertise}:{self.port}"


def service_address(service_cidr: str) -> str:
    """The first address of the service range: the API server's, inside the cluster."""
    return str(ipaddress.ip_network(service_cidr)[1])


def is_address(text: str) -> bool:
    """Whether this is an IP address (else it should be a name)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Certificates:
    """The certificates in a data directory. `ensure` may be called again at any time, to renew what is about to end.

    `more_names` are names and addresses of the API server that it cannot know by itself (a load balancer's).
    """

    def __init__(
        self,
        data_dir: DataDir,
        addresses: Addresses,
        *,
        service_cidr: str,
        cluster: str,
        clock: Clock,
        more_names: tuple[str, ...] = (),
    ) -> None:
        self._dir = data_dir
        self._more_names = more_names
        self._addresses = addresses
        self._service_address = service_address(service_cidr)
        self._cluster = cluster
        self._clock = clock

    @property
    def ca_cert(self) -> Path:
        return self._dir.pki / "ca.crt"

    @property
    def ca_key(self) -> Path:
        return self._dir.pki / "ca.key"

    @property
    def server_cert(self) -> Path:
        """The API server's certificate, followed by the CA's for clients that know only its pin."""
        return self._dir.pki / "apiserver.crt"

    @property
    def server_key(self) -> Path:
        return self._dir.pki / "apiserver.key"

    @property
    def kubelet_client_cert(self) -> Path:
        return self._dir.pki / "apiserver-kubelet-client.crt"

    @property
    def kubelet_client_key(self) -> Path:
        return self._dir.pki / "apiserver-kubelet-client.key"

    @property
    def service_account_key(self) -> Path:
        return self._dir.pki / "sa.key"

    def ensure(self) -> bool:
        """Make what is missing, renew what is about to end; whether anything was written. PKIError for broken files."""
        written = False
        if not self.ca_cert.exists() or not self.ca_key.exists():
            if self.ca_cert.exists() or self.ca_key.exists():
                raise pki.PKIError(
                    "half of the cluster's CA is missing",
                    found=str(self.ca_cert if self.ca_cert.exists() else self.ca_key),
                    wanted=f"{self.ca_cert} and {self.ca_key}",
                    mend="Restore the other file: a new CA would lock every machine of the cluster out",
                )
            log.info("making a certificate authority for cluster %s", self._cluster)
            ca = pki.create_ca(f"{self._cluster}-ca", clock=self._clock)
            pki.save_pair(ca, cert=self.ca_cert, key=self.ca_key)
            written = True
        else:
            ca = pki.load_pair(cert=self.ca_cert, key=self.ca_key)
        written |= self._ensure_pair(self.server_cert, self.server_key, lambda: self._issue_server(ca), self._fits, ca)
        written |= self._ensure_pair(
            self.kubelet_client_cert,
            self.kubelet_client_key,
            lambda: pki.issue_client(ca, "kube-apiserver-kubelet-client", organizations=(MASTERS,), clock=self._clock),
            lambda _: True,
            None,
        )
        if not self.service_account_key.exists():
            key = pki.create_key()
            pki.save_key(key, self.service_account_key)
            files.write_atomic(self.service_account_key.with_suffix(".pub"), pki.public_key_pem(key.public_key()))
            written = True
        written |= self._ensure_kubeconfig(
            self._dir.admin_kubeconfig, ca, ADMIN, (MASTERS,), self._addresses.local_url, "admin"
        )
        return written

    def ensure_component(self, user: str) -> Path:
        """The kubeconfig of a part of the control plane that runs apart from the API server, on the same machine."""
        ca = pki.load_pair(cert=self.ca_cert, key=self.ca_key)
        path = self._dir.kubeconfig(user.rpartition(":")[2])
        self._ensure_kubeconfig(path, ca, user, (), self._addresses.local_url, user)
        return path

    def _ensure_pair(
        self,
        cert: Path,
        key: Path,
        issue: Callable[[], KeyPair],
        fits: Callable[[x509.Certificate], bool],
        chain: KeyPair | None,
    ) -> bool:
        if cert.exists() and key.exists():
            found = pki.load_pair(cert=cert, key=key).certificate
            if fits(found) and not pki.needs_renewal(found, self._clock):
                return False
            log.info("renewing %s", cert)
        pair = issue()
        files.write_secret(key, pair.key_pem)
        files.write_atomic(cert, pair.cert_pem + (chain.cert_pem if chain else b""))
        return True

    def _issue_server(self, ca: KeyPair) -> KeyPair:
        names, addresses = self._server_names()
        return pki.issue_server(ca, "kube-apiserver", dns_names=names, ips=addresses, clock=self._clock)

    def _server_names(self) -> tuple[list[str], list[str]]:
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        names.append(f"kubernetes.default.svc.{CLUSTER_DOMAIN}")
        host = socket.gethostname()
        if host.isascii() and host.replace("-", "").replace(".", "").isalnum():
            names.append(host.lower())
        addresses = ["127.0.0.1", "::1", self._addresses.advertise, self._service_address]
        if not ipaddress.ip_address(self._addresses.bind).is_unspecified:
            addresses.append(self._addresses.bind)
        for name in self._more_names:
            (addresses if is_address(name) else names).append(name)
        return names, addresses

    def _fits(self, certificate: x509.Certificate) -> bool:
        """Whether the API server's certificate has all names and addresses that it is reached by now."""
        names, addresses = self._server_names()
        try:
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return False
        wanted = {ipaddress.ip_address(a) for a in addresses}
        return wanted <= {*found.get_values_for_type(x509.IPAddress)} and {*names} <= {
            *found.get_values_for_type(x509.DNSName)
        }

    def _ensure_kubeconfig(
        self, path: Path, ca: KeyPair, user: str, groups: tuple[str, ...], url: str, entry: str
    ) -> bool:
        if path.exists():
            try:
                found = kubeconfig.connect(path)
                certificate = pki.parse_cert(found.client_cert, source=str(path))
                pki.check_issued(certificate, ca.certificate, self._clock)
                if found.server == url and not pki.needs_renewal(certificate, self._clock):
                    return False
            except (kubeconfig.KubeconfigError, pki.PKIError) as error:
                log.warning("%s is made anew: %s", path, error)
        pair = pki.issue_client(ca, user, organizations=groups, clock=self._clock)
        config = kubeconfig.build(
            server=url,
            ca_data=ca.cert_pem,
            client_cert=pair.cert_pem,
            client_key=pair.key_pem,
            user=entry,
            cluster=self._cluster,
        )
        kubeconfig.save(path, config)
        return True
