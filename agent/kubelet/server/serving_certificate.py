"""The certificate that the kubelet's server shows, taken anew from its files when they change.

Certificates are rotated while connections are open. Each handshake looks at the files' times; when one has changed a
new TLS context is made, and handshakes from then on use it. A pair that does not fit together (it is just being
written) is left alone: the old one goes on.
"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

log = logging.getLogger(__name__)


class ServingCertificate:
    """TLS of the server: certificate and key of the node, and the CA that clients' certificates must be from."""

    def __init__(self, *, cert: Path, key: Path, client_ca: Path) -> None:
        """Raises OSError (ssl.SSLError) if the files are not there or do not fit."""
        self._files = (cert, key, client_ca)
        self._seen = self._times()
        self._current = self._load()
        self.context = self._load()
        """The context to listen with."""
        self.context.sni_callback = self._choose

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, server_name: str | None, context: ssl.SSLContext
    ) -> None:
        """Called in each handshake, also for clients that name no server."""
        times = self._times()
        if times != self._seen:
            try:
                self._current = self._load()
                log.info("the serving certificate has changed")
            except OSError as error:
                log.warning("the serving certificate cannot be taken anew, the old one stays: %s", error)
            else:
                self._seen = times
        connection.context = self._current

    def _load(self) -> ssl.SSLContext:
        cert, key, client_ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(cert, key)
        context.load_verify_locations(client_ca)
        # Without a certificate a client may show a token instead; a wrong certificate ends the handshake.
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _times(self) -> tuple[int, ...]:
        def changed(path: Path) -> int:
            try:
                return os.stat(path).st_mtime_ns
            except OSError:
                return 0

        return tuple(changed(path) for path in self._files)
