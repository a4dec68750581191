"""Which files a volume of content has: ConfigMaps, Secrets, projections, the downward API. Pure.

A payload is the wanted state of a whole volume: path in the volume → content and mode. `atomic_writer` brings it to
the disk. Problems are plain `ValueError`s in Kubernetes' words; who asks knows which volume it is about.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from agent.kubelet import downward
from kube.models import core_v1, meta_v1

DEFAULT_MODE = 0o644
# A token that not everybody in the pod needs to read, because the pod says who it runs as.
PRIVATE_MODE = 0o600
DEFAULT_TOKEN_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class File:
    """Content and permission bits of one file; `owner` is a user ID, None for root."""

    data: bytes = field(repr=False)
    mode: int = DEFAULT_MODE
    owner: int | None = None


Payload = dict[str, File]


class TokenKey(Struct, frozen=True):
    """Which token a projection asks for: `audience` empty for the API server's own, `seconds` of validity."""

    audience: str
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What volumes are filled from; maps and secrets of the pod's namespace that exist, by name."""

    config_maps: Mapping[str, core_v1.ConfigMap] = field(default_factory=dict)
    secrets: Mapping[str, core_v1.Secret] = field(default_factory=dict)
    tokens: Mapping[TokenKey, str] = field(default_factory=dict, repr=False)
    allocatable: Mapping[str, meta_v1.Quantity] = field(default_factory=dict)


def has_content(volume: core_v1.Volume) -> bool:
    """Whether the volume is one of those that are filled from the API."""
    return any((volume.configMap, volume.secret, volume.projected, volume.downwardAPI))


def token_key(projection: core_v1.ServiceAccountTokenProjection) -> TokenKey:
    """The key of the token that a projection asks for."""
    return TokenKey(projection.audience or "", projection.expirationSeconds or DEFAULT_TOKEN_SECONDS)


def token_keys(volume: core_v1.Volume) -> set[TokenKey]:
    """The tokens that a volume needs."""
    if volume.projected is None:
        return set()
    sources = (source.serviceAccountToken for source in volume.projected.sources)
    return {token_key(source) for source in sources if source is not None}


def payload(volume: core_v1.Volume, pod: core_v1.Pod, content: Content) -> Payload:
    """All files of a volume. ValueError where something that is not optional is missing; ConfigError for a field."""
    if (config_map := volume.configMap) is not None:
        mode = _mode(config_map.defaultMode)
        return _of_config_map(config_map.name or "", config_map.items, bool(config_map.optional), mode, content)
    if (secret := volume.secret) is not None:
        mode = _mode(secret.defaultMode)
        return _of_secret(secret.secretName or "", secret.items, bool(secret.optional), mode, content)
    if (own := volume.downwardAPI) is not None:
        return _of_downward(own.items, _mode(own.defaultMode), pod, content)
    assert volume.projected is not None, "only volumes of content have a payload"
    found: Payload = {}
    mode = _mode(volume.projected.defaultMode)
    for source in volume.projected.sources:
        found |= _of_projection(source, mode, pod, content)
    return found


def _of_projection(source: core_v1.VolumeProjection, mode: int, pod: core_v1.Pod, content: Content) -> Payload:
    if (config_map := source.configMap) is not None:
        return _of_config_map(config_map.name or "", config_map.items, bool(config_map.optional), mode, content)
    if (secret := source.secret) is not None:
        return _of_secret(secret.name or "", secret.items, bool(secret.optional), mode, content)
    if source.downwardAPI is not None:
        return _of_downward(source.downwardAPI.items, mode, pod, content)
    if (token := source.serviceAccountToken) is not None:
        user, group = only_user(pod), fs_group(pod)
        if user is not None or group is not None:
            mode = PRIVATE_MODE
        return {_path(token.path): File(content.tokens[token_key(token)].encode(), mode, user)}
    if source.clusterTrustBundle is not None:
        raise ValueError("clusterTrustBundle projections are not supported by this node's agent")
    return {}


def _of_config_map(name: str, items: list[core_v1.KeyToPath], optional: bool, mode: int, content: Content) -> Payload:
    config_map = content.config_maps.get(name)
    if config_map is None:
        if optional:
            return {}
        raise ValueError(f'configmap "{name}" not found')
    data = {key: text.encode() for key, text in config_map.data.items()}
    data |= {key: _decoded(text, key) for key, text in config_map.binaryData.items()}
    return _chosen(data, items, optional, mode, "configmap references non-existent config key")


def _of_secret(name: str, items: list[core_v1.KeyToPath], optional: bool, mode: int, content: Content) -> Payload:
    secret = content.secrets.get(name)
    if secret is None:
        if optional:
            return {}
        raise ValueError(f'secret "{name}" not found')
    data = {key: _decoded(text, key) for key, text in secret.data.items()}
    return _chosen(data, items, optional, mode, "references non-existent secret key")


def _of_downward(
    items: Iterable[core_v1.DownwardAPIVolumeFile], mode: int, pod: core_v1.Pod, content: Content
) -> Payload:
    found: Payload = {}
    for item in items:
        if item.fieldRef is not None:
            text = downward.field_value(pod, item.fieldRef.fieldPath or "")
        elif item.resourceFieldRef is not None:
            container = downward.container_named(pod, item.resourceFieldRef.containerName or "")
            text = downward.resource_value(pod, container, item.resourceFieldRef, allocatable=content.allocatable)
        else:
            continue
        found[_path(item.path)] = File(text.encode(), mode if item.mode is None else item.mode)
    return found


def _chosen(data: Mapping[str, bytes], items: list[core_v1.KeyToPath], optional: bool, mode: int, no: str) -> Payload:
    """All keys under their own names, or the chosen ones under the names that `items` give them."""
    if not items:
        return {_path(key): File(value, mode) for key, value in data.items()}
    found: Payload = {}
    for item in items:
        key = item.key or ""
        if key in data:
            found[_path(item.path)] = File(data[key], mode if item.mode is None else item.mode)
        elif not optional:
            raise ValueError(f"{no}: {key}")
    return found


def fs_group(pod: core_v1.Pod) -> int | None:
    """The group that the pod's volumes belong to, if it names one."""
    assert pod.spec is not None
    return pod.spec.securityContext.fsGroup if pod.spec.securityContext is not None else None


def only_user(pod: core_v1.Pod) -> int | None:
    """The user that all containers of the pod run as; None if they differ or don't say."""
    assert pod.spec is not None
    shared = pod.spec.securityContext.runAsUser if pod.spec.securityContext is not None else None
    users = {
        c.securityContext.runAsUser if c.securityContext and c.securityContext.runAsUser is not None else shared
        for c in [*pod.spec.initContainers, *pod.spec.containers]
    }
    return users.pop() if len(users) == 1 else None


def _mode(mode: int | None) -> int:
    return DEFAULT_MODE if mode is None else mode


def _path(path: str | None) -> str:
    """A path that stays in its volume and clear of the names that `atomic_writer` needs for itself."""
    parts = (path or "").split("/")
    if not path or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
        raise ValueError(f"invalid path {path!r}: must be relative and not start with or contain '..'")
    return "/".join(part for part in parts if part not in ("", "."))


def _decoded(text: str, key: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"key {key} is not base64") from None
