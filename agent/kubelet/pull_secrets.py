"""Registry credentials from imagePullSecrets (Kubernetes: "Pull an Image from a Private Registry"). Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from agent.runtime.runtime import RegistryAuth
from kube.models import core_v1

DOCKER_CONFIG_JSON = "kubernetes.io/dockerconfigjson"
DOCKER_CONFIG = "kubernetes.io/dockercfg"
DOCKER_HUB = "docker.io"
_HUB_NAMES = ("index.docker.io", "registry-1.docker.io", DOCKER_HUB)


def registry_of(reference: str) -> str:
    """The registry's host (with port) in an image reference; Docker Hub's where none is named."""
    first, slash, _ = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return DOCKER_HUB


def credentials_for(reference: str, secrets: Iterable[core_v1.Secret]) -> RegistryAuth | None:
    """The credentials for an image's registry in the first Secret that has some; malformed Secrets have none."""
    wanted = registry_of(reference)
    for secret in secrets:
        for server, entry in _entries(secret).items():
            if _host(server) == wanted:
                found = _auth(server, entry)
                if found is not None:
                    return found
    return None


def _entries(secret: core_v1.Secret) -> Mapping[str, Any]:
    key = {DOCKER_CONFIG_JSON: ".dockerconfigjson", DOCKER_CONFIG: ".dockercfg"}.get(secret.type or "")
    if key is None:
        return {}
    try:
        data = msgspec.json.decode(base64.b64decode(secret.data.get(key, ""), validate=True))
    except (binascii.Error, msgspec.DecodeError):
        return {}
    entries = data.get("auths") if isinstance(data, dict) and key == ".dockerconfigjson" else data
    return entries if isinstance(entries, dict) else {}


def _host(server: str) -> str:
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DOCKER_HUB if host in _HUB_NAMES else host


def _auth(server: str, entry: Any) -> RegistryAuth | None:
    if not isinstance(entry, dict):
        return None
    username, password = entry.get("username", ""), entry.get("password", "")
    if not username and isinstance(entry.get("auth"), str):
        try:
            username, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    token = entry.get("identitytoken", "")
    if not username and not token:
        return None
    return RegistryAuth(username=username, password=password, server_address=server, identity_token=token)
