"""Kubeconfig files: where the API server is, how to trust it, and who we are.

Read as kubectl reads them: `$KUBECONFIG` (the first of its files that exists), otherwise `~/.kube/config`; the current
context names a cluster and a user. Data may stand in the file (base64) or in files beside it (relative to it). What
ktool's client cannot do (credential plugins, proxies, passwords) is refused by name instead of being ignored: an
ignored field ends in a puzzling 401.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from kube.errors import KtoolError
from kube.files import write_secret

_MEND = 'Name a kubeconfig with KUBECONFIG=<file>; "ktool kubeconfig --path" prints where the cluster\'s own is'


class KubeconfigError(KtoolError):
    """A kubeconfig that is missing, malformed, or asks for what the client cannot do."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What a client needs to reach an API server, as one user.

    `server` is the URL; `ca_data`, `client_cert` and `client_key` are PEM (empty: none), `token` a bearer token
    (empty: none), `namespace` the one to use where the user names none. `insecure` turns off the server's check.
    `tls_server_name`: the name that the server's certificate must have, if it is not the URL's (a tunnel's end).
    """

    server: str
    ca_data: bytes = b""
    client_cert: bytes = b""
    client_key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    namespace: str = "default"
    insecure: bool = False
    tls_server_name: str = ""


def default_path(environment: Mapping[str, str] | None = None) -> Path:
    """The kubeconfig that the environment asks for: the first existing file of $KUBECONFIG, or ~/.kube/config.

    If $KUBECONFIG names files and none exists, the first of them (reading it then says so).
    """
    env = os.environ if environment is None else environment
    named = [Path(part).expanduser() for part in env.get("KUBECONFIG", "").split(os.pathsep) if part]
    existing = next((path for path in named if path.exists()), None)
    if existing is not None:
        return existing
    return named[0] if named else Path(env.get("HOME") or Path.home()) / ".kube" / "config"


def build(
    *,
    server: str,
    ca_data: bytes,
    client_cert: bytes = b"",
    client_key: bytes = b"",
    token: str = "",
    user: str = "admin",
    cluster: str = "ktool",
    context: str = "",
    namespace: str = "",
) -> dict[str, Any]:
    """A kubeconfig of one cluster, user and context, as plain data; certificates and keys are PEM.

    `context` defaults to `<user>@<cluster>`.
    """
    cluster_entry: dict[str, Any] = {"server": server}
    if ca_data:
        cluster_entry["certificate-authority-data"] = base64.b64encode(ca_data).decode()
    user_entry: dict[str, Any] = {}
    if client_cert:
        user_entry["client-certificate-data"] = base64.b64encode(client_cert).decode()
        user_entry["client-key-data"] = base64.b64encode(client_key).decode()
    if token:
        user_entry["token"] = token
    name = context or f"{user}@{cluster}"
    context_entry: dict[str, Any] = {"cluster": cluster, "user": user}
    if namespace:
        context_entry["namespace"] = namespace
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": cluster_entry}],
        "users": [{"name": user, "user": user_entry}],
        "contexts": [{"name": name, "context": context_entry}],
        "current-context": name,
        "preferences": {},
    }


def save(path: Path | str, config: Mapping[str, Any]) -> None:
    """Write a kubeconfig in one step, readable by its owner only."""
    write_secret(path, yaml.dump(dict(config), Dumper=yaml.CSafeDumper, sort_keys=False).encode())


def load(path: Path | str) -> dict[str, Any]:
    """A kubeconfig file as plain data; KubeconfigError if it is missing, unreadable or no YAML map."""
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise KubeconfigError("there is no kubeconfig", found=f"no file {path}", mend=_MEND) from error
    except OSError as error:
        raise KubeconfigError(f"cannot read the kubeconfig {path}", found=error.strerror or str(error)) from error
    try:
        try:
            config = yaml.load(text, Loader=yaml.CSafeLoader)
        except yaml.YAMLError:
            config = yaml.safe_load(text)  # ten times slower, and tells better where the mistake is
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # The parser quotes lines of the file in its message, and these may be secret: only the place is told.
        mark = getattr(error, "problem_mark", None)
        place = f"a mistake in line {mark.line + 1}, column {mark.column + 1}" if mark else "not text"
        raise KubeconfigError(f"the kubeconfig {path} is not YAML", found=place) from None
    if not isinstance(config, dict):
        raise KubeconfigError(
            f"the kubeconfig {path} is no kubeconfig", found=_shape(config), wanted="a map with kind: Config"
        )
    return config


def connect(path: Path | str | None = None, *, context: str = "") -> Connection:
    """Connection of a kubeconfig file (None: the one that the environment asks for); context empty: the current."""
    chosen = Path(path) if path is not None else default_path()
    return resolve(load(chosen), source=chosen, context=context)


def resolve(config: Mapping[str, Any], *, source: Path | str = "kubeconfig", context: str = "") -> Connection:
    """Connection that a kubeconfig's current (or named) context means.

    `source` is the file: errors name it, and relative paths in it start at its folder. KubeconfigError names the file
    and the field, with what was found and what is wanted.
    """
    reader = _Reader(config, Path(source))
    name = context or reader.text(config, "current-context", "current-context")
    if not name:
        raise reader.error("current-context", "nothing", "the name of one of the contexts")
    where, chosen = reader.entry("contexts", "context", name)
    cluster_name = reader.text(chosen, "cluster", f"{where}.cluster")
    user_name = reader.text(chosen, "user", f"{where}.user")
    cluster_at, cluster = reader.entry("clusters", "cluster", cluster_name)
    # kubectl allows a context without a user: anonymous.
    user_at, user = reader.entry("users", "user", user_name) if user_name else ("", {})

    for at, data, refused in (
        (cluster_at, cluster, ("proxy-url",)),
        (user_at, user, ("exec", "auth-provider", "username", "password", "as", "as-groups")),
    ):
        for key in refused:
            if data.get(key):
                raise reader.error(f"{at}.{key}", "a value", "a client certificate or a token; ktool does not use this")

    server = reader.text(cluster, "server", f"{cluster_at}.server")
    try:
        url = urlsplit(server)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise reader.error(f"{cluster_at}.server", repr(server), "a URL such as https://10.0.0.1:6443")
    certificate = reader.data(user, "client-certificate", user_at)
    key_pem = reader.data(user, "client-key", user_at)
    if bool(certificate) != bool(key_pem):
        missing = "client-key" if certificate else "client-certificate"
        raise reader.error(f"{user_at}.{missing}", "nothing", "both client-certificate and client-key, or neither")
    token = reader.text(user, "token", f"{user_at}.token")
    token_file = reader.text(user, "tokenFile", f"{user_at}.tokenFile")
    if not token and token_file:
        token = reader.file(token_file, f"{user_at}.tokenFile").decode(errors="replace").strip()
    return Connection(
        server=server,
        ca_data=reader.data(cluster, "certificate-authority", cluster_at),
        client_cert=certificate,
        client_key=key_pem,
        token=token,
        namespace=reader.text(chosen, "namespace", f"{where}.namespace") or "default",
        insecure=cluster.get("insecure-skip-tls-verify") is True,
        tls_server_name=reader.text(cluster, "tls-server-name", f"{cluster_at}.tls-server-name"),
    )


class _Reader:
    """Looks things up in a kubeconfig and names file and field where they are not as they should be."""

    def __init__(self, config: Mapping[str, Any], source: Path) -> None:
        self._config = config
        self._source = source

    def error(self, where: str, found: str, wanted: str) -> KubeconfigError:
        return KubeconfigError(f"kubeconfig {self._source}: {where}", found=found, wanted=wanted)

    def entry(self, plural: str, singular: str, name: str) -> tuple[str, Mapping[str, Any]]:
        """(path in the file, content) of a named entry in one of the three lists."""
        entries = self._config.get(plural) or []
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise self.error(plural, _shape(entries), "a list of named entries")
        for index, entry in enumerate(entries):
            if entry.get("name") == name:
                where = f"{plural}[{index}].{singular}"
                content = entry.get(singular) or {}
                if not isinstance(content, Mapping):
                    raise self.error(where, _shape(content), "a map")
                return where, content
        known = ", ".join(repr(entry.get("name")) for entry in entries) or "nothing"
        raise self.error(plural, known, f"an entry named {name!r}")

    def text(self, data: Mapping[str, Any], key: str, where: str) -> str:
        value = data.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(where, _shape(value), "text")
        return value

    def data(self, data: Mapping[str, Any], key: str, where: str) -> bytes:
        """Content of `<key>-data` (base64) or of the file that `<key>` names; empty if there is neither."""
        inline = self.text(data, f"{key}-data", f"{where}.{key}-data")
        if inline:
            try:
                return base64.b64decode("".join(inline.split()), validate=True)
            except (binascii.Error, ValueError):
                raise self.error(f"{where}.{key}-data", "something else", "base64") from None
        name = self.text(data, key, f"{where}.{key}")
        return self.file(name, f"{where}.{key}") if name else b""

    def file(self, name: str, where: str) -> bytes:
        path = self._source.parent / Path(name).expanduser()
        try:
            return path.read_bytes()
        except OSError as error:
            raise self.error(where, f"{path}: {error.strerror}", "a file that can be read") from error


def _shape(value: Any) -> str:
    """What kind of thing a value is; never the value, which may be secret."""
    if value is None:
        return "nothing"
    names: dict[type, str] = {dict: "a map", list: "a list", str: "text", bool: "a boolean", int: "a number"}
    return names.get(type(value), type(value).__name__)
