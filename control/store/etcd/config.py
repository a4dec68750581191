"""Where etcd is and how it is spoken to (kube-apiserver's `--etcd-servers`, `--etcd-cafile`, ...)."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from kube.errors import KtoolError

DEFAULT_PORT = 2379
DEFAULT_PREFIX = "/ktool"


class Endpoint(Struct, frozen=True):
    """One member's client address, `host:port` as gRPC takes it."""

    target: str
    tls: bool


class EtcdConfig(Struct, frozen=True, kw_only=True):
    """Endpoints in the order in which they are tried, the files of TLS, and the prefix of every key.

    All keys of one cluster share the prefix; two clusters in one etcd need two. `ca` alone checks the server,
    `cert` and `key` tell it who we are.
    """

    endpoints: tuple[Endpoint, ...]
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise KtoolError(
                "no etcd endpoint",
                found="an empty list",
                wanted="URLs of etcd's members, separated by commas",
                mend="Pass --etcd-endpoints https://10.0.0.1:2379,https://10.0.0.2:2379",
            )
        if (self.cert is None) != (self.key is None):
            raise KtoolError(
                "etcd's client certificate and its key belong together",
                found="--etcd-cert alone" if self.key is None else "--etcd-key alone",
                wanted="both --etcd-cert and --etcd-key, or neither",
                mend="Pass the other file too",
            )
        if any(endpoint.tls for endpoint in self.endpoints) and self.ca is None:
            raise KtoolError(
                "an https endpoint of etcd needs the CA that signed its certificate",
                found="no --etcd-ca",
                wanted="a file with the CA's certificate",
                mend="Pass --etcd-ca FILE",
            )
        if self.prefix and (not self.prefix.startswith("/") or self.prefix.endswith("/")):
            raise KtoolError(
                "etcd's key prefix is malformed",
                found=repr(self.prefix),
                wanted="a path such as /ktool, without a slash at its end",
                mend="Pass --etcd-prefix /ktool",
            )


def parse_endpoint(url: str) -> Endpoint:
    """An endpoint from `https://host:port` or `http://host:port`. KtoolError if it is malformed."""
    wanted = "https://HOST:2379 or, for tests, http://HOST:2379"
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError as error:
        raise KtoolError("an etcd endpoint is malformed", found=f"{url!r} ({error})", wanted=wanted) from None
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query or parts.username:
        raise KtoolError("an etcd endpoint is malformed", found=repr(url), wanted=wanted)
    return Endpoint(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", parts.scheme == "https")


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """Endpoints from URLs separated by commas, each once, in their order."""
    return tuple(dict.fromkeys(parse_endpoint(url) for url in text.split(",") if url.strip()))
