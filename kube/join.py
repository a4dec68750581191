"""The join file: all that a machine needs to introduce itself to a cluster it does not know yet.

Whoever adds a machine writes it (0600: the token is a secret), the agent on that machine reads it once. It holds what
`kubeadm join` takes as arguments: where the API server is, a short-lived bootstrap token (`<id>.<secret>`, see
"Authenticating with Bootstrap Tokens"), and hashes of the CA's public key, so that the agent can tell the true
server from an impostor before it shows the token ("discovery-token-ca-cert-hash": `sha256:` and the hex digest of
the DER SubjectPublicKeyInfo; `kube.pki.ca_pin`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from kube.errors import KtoolError
from kube.files import write_secret

_TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class ControlPlane(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a further master needs besides (kubeadm: `join --control-plane`): `files` maps paths below the folder `pki`
    to their content, among it the keys of the cluster's CAs; `etcd_endpoints` are client URLs of etcd's members."""

    files: dict[str, str]
    etcd_endpoints: tuple[str, ...]

    def __repr__(self) -> str:  # the cluster's keys must not get into a log by accident
        return f"ControlPlane(files={sorted(self.files)}, etcd_endpoints={self.etcd_endpoints!r})"


# What every master has, below `pki`: whoever joins as one brings all of it.
CONTROL_PLANE_FILES = ("ca.crt", "ca.key", "sa.key", "sa.pub", "etcd/ca.crt", "etcd/ca.key")


class JoinConfig(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """What the join file says (JSON, keys in camelCase).

    `server` is the API server's URL, `token` the bootstrap token, `ca_cert_hashes` the pins (one of them must match a
    certificate of the chain's CA), `node_name` the name to register under (empty: the agent's own choice).
    `control_plane` is there for a machine that becomes a master, too: such a file is worth the whole cluster.
    """

    server: str
    token: str
    ca_cert_hashes: tuple[str, ...]
    node_name: str = ""
    control_plane: ControlPlane | None = None

    def __repr__(self) -> str:  # the token must not get into a log by accident
        return f"JoinConfig(server={self.server!r}, token id={self.token_id!r}, node_name={self.node_name!r})"

    @property
    def token_id(self) -> str:
        """The public half of the token, fit for logs."""
        return self.token.partition(".")[0]


def read(path: Path) -> JoinConfig:
    """Read a join file. KtoolError if it is missing, unreadable, malformed, or names no pin (an unpinned join trusts
    anybody)."""
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise KtoolError("there is no join file", found=f"no file {path}", wanted="what enrolment writes") from error
    except OSError as error:
        raise KtoolError(
            "the join file cannot be read",
            found=f"{path}: {error.strerror or error}",
            wanted="a file that this user may read",
        ) from error
    return parse(text, source=str(path))


def parse(text: bytes, *, source: str) -> JoinConfig:
    """The content of a join file that came from `source`. KtoolError as from `read`."""
    try:
        config = msgspec.json.decode(text, type=JoinConfig)
    except msgspec.ValidationError as error:
        raise KtoolError(f"the join file {source} is malformed", found=str(error)) from error
    except msgspec.DecodeError as error:
        # The parser's message may quote the file, and the file holds a secret.
        raise KtoolError(f"the join file {source} is malformed", found="no JSON", wanted="a JSON object") from error
    wrong = list(problems(config))
    if wrong:
        raise KtoolError(f"the join file {source} cannot be used", found="; ".join(wrong))
    return config


def at(config: JoinConfig, server: str) -> JoinConfig:
    """The same invitation, with the API server at another URL. KtoolError if it is none with https."""
    if not server.startswith("https://"):
        raise KtoolError("the API server's URL cannot be used", found=server, wanted="https://HOST:PORT")
    return msgspec.structs.replace(config, server=server)


def text_of(config: JoinConfig) -> bytes:
    """A join file's content. KtoolError if it could not be used."""
    wrong = list(problems(config))
    if wrong:
        raise KtoolError("this join file could not be used", found="; ".join(wrong))
    return msgspec.json.format(msgspec.json.encode(config)) + b"\n"


def write(path: Path, config: JoinConfig) -> None:
    """Write a join file in one step, readable by its owner only. KtoolError if it could not be used."""
    write_secret(path, text_of(config))


def problems(config: JoinConfig) -> Iterable[str]:
    """What makes a join file useless; nothing if it is fine. The token itself is never repeated."""
    if not config.server.startswith("https://"):
        yield f"server is {config.server!r}, wanted a URL with https"
    if not _TOKEN.fullmatch(config.token):
        yield "token is not of the form <6 characters>.<16 characters>, lower-case letters and digits"
    if not config.ca_cert_hashes:
        yield "caCertHashes is empty, wanted at least one pin of the cluster's CA"
    for pin in config.ca_cert_hashes:
        if not _HASH.fullmatch(pin):
            yield f"caCertHashes has {pin!r}, wanted sha256: and 64 hexadecimal digits"
    if config.control_plane is not None:
        missing = sorted({*CONTROL_PLANE_FILES} - config.control_plane.files.keys())
        if missing or config.control_plane.files.keys() - {*CONTROL_PLANE_FILES}:
            yield f"controlPlane.files has {', '.join(sorted(config.control_plane.files))}, wanted all of " + ", ".join(
                CONTROL_PLANE_FILES
            )
        if not config.control_plane.etcd_endpoints:
            yield "controlPlane.etcdEndpoints is empty, wanted at least one URL"
        for url in config.control_plane.etcd_endpoints:
            if not url.startswith("https://"):
                yield f"controlPlane.etcdEndpoints has {url!r}, wanted a URL with https"
