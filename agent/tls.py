"""TLS of the kubelet's own server: our certificate, and clients' certificates checked by the cluster's CA."""

from __future__ import annotations

import ssl

from agent.certificates import Files


def server_context(ca_pem: bytes, files: Files) -> ssl.SSLContext:
    """A server's context. A client may come without a certificate; one that it shows must be the CA's."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ca_pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    reload(context, files)
    return context


def reload(context: ssl.SSLContext, files: Files) -> None:
    """Use the certificate that lies in the files now; connections from now on see it."""
    context.load_cert_chain(files.certificate, files.key)
