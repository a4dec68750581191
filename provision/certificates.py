"""Which certificates a machine holds, and how long they are good (Kubernetes task: "Check certificate expiration").

The master renews its own before they end, agents ask for new ones; this is for looking, and for noticing when that
fails. The cluster's CA is never renewed: every machine trusts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from kube import pki
from kube.errors import KtoolError

# Where they lie below the data directory: the master's own, the agent's.
FOLDERS = ("pki", "pki/etcd", "agent/pki")


class CertificateView(msgspec.Struct, frozen=True):
    """One certificate. `expires` in epoch seconds; `problem` where it could not be read."""

    file: str
    subject: str = ""
    organizations: tuple[str, ...] = ()
    issuer: str = ""
    expires: float = 0.0
    problem: str = ""

    def left(self, now: float) -> float:
        """Seconds that it is still good; negative once it has ended."""
        return self.expires - now


def certificates(data_dir: Path) -> Iterator[CertificateView]:
    """The certificates below a data directory, the master's first."""
    for folder in FOLDERS:
        for path in sorted((data_dir / folder).glob("*.crt")):
            if folder.startswith("agent") and path.name == "ca.crt" and (data_dir / "pki" / "ca.crt").exists():
                continue  # the same, beside its master
            yield view(path, str(path.relative_to(data_dir)))


def view(path: Path, name: str) -> CertificateView:
    """One certificate's file."""
    try:
        certificate = pki.load_cert(path)
    except KtoolError as error:
        return CertificateView(name, problem=str(error))
    subject, organizations = pki.identity(certificate)
    issuer = next((str(a.value) for a in certificate.issuer if a.oid._name == "commonName"), "")
    return CertificateView(name, subject, tuple(organizations), issuer, pki.expires_at(certificate))
