"""Which resources the server has, and objects of any of them by their metadata alone (PartialObjectMetadata).

The garbage and namespace collectors work on every kind, also on those that nobody knew when this was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import orjson
from msgspec import Struct

from kube import kinds
from kube.client import Client
from kube.kinds import Kind
from kube.models import meta_v1
from kube.status import ApiError


class Metadata(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The part of ObjectMeta that says who an object is, whose it is, and what keeps it."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resourceVersion: str | None = None
    deletionTimestamp: str | None = None
    deletionGracePeriodSeconds: int | None = None
    finalizers: list[str] = msgspec.field(default_factory=list)
    ownerReferences: list[meta_v1.OwnerReference] = msgspec.field(default_factory=list)


class PartialObject(msgspec.Struct, kw_only=True):
    """An object of any kind, read for its metadata only. Never write it back: most of it is missing."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)


@cache
def metadata_type(kind: Kind) -> type[PartialObject]:
    """A type of its own for each kind, so that client and informers know the path."""
    type_: Any = msgspec.defstruct(f"{kind.kind}Metadata", [], bases=(PartialObject,), kw_only=True)
    kinds.register(type_, kind)
    found: type[PartialObject] = type_
    return found


class Discovered(Struct, frozen=True):
    """What discovery found.

    `resources` holds one version of each (the preferred one) with its verbs; `kinds` all versions by apiVersion and
    kind, as owner references name them; `failures` what could not be discovered, by group version.
    """

    resources: Mapping[Kind, frozenset[str]]
    kinds: Mapping[tuple[str, str], Kind]
    failures: Mapping[str, str]

    def with_verbs(self, *verbs: str) -> list[Kind]:
        """Kinds that can do all of these."""
        return [kind for kind, found in self.resources.items() if found.issuperset(verbs)]


async def discover(client: Client) -> Discovered:
    """Ask the server. ApiError or ConnectionError if it does not even tell its groups."""
    resources: dict[Kind, frozenset[str]] = {}
    by_kind: dict[tuple[str, str], Kind] = {}
    failures: dict[str, str] = {}
    groups: dict[str, str] = {"v1": "/api/v1"}
    preferred = {"v1"}
    listed = await _get(client, "/apis")
    for group in listed.get("groups", []):
        for version in group.get("versions", []):
            groups[version["groupVersion"]] = f"/apis/{version['groupVersion']}"
        preferred.add((group.get("preferredVersion") or group["versions"][0])["groupVersion"])
    for api_version, path in groups.items():
        try:
            entries = (await _get(client, path)).get("resources", [])
        except ApiError as error:
            failures[api_version] = str(error)
            continue
        for kind, verbs in _kinds(api_version, entries):
            by_kind[api_version, kind.kind] = kind
            if api_version in preferred:
                resources[kind] = verbs
    return Discovered(resources, by_kind, failures)


def _kinds(api_version: str, entries: Sequence[Mapping[str, Any]]) -> list[tuple[Kind, frozenset[str]]]:
    group, _, version = api_version.rpartition("/")
    return [
        (
            Kind(group, version, entry["kind"], entry["name"], bool(entry.get("namespaced"))),
            frozenset(entry.get("verbs", ())),
        )
        for entry in entries
        if "/" not in entry["name"]  # subresources
    ]


async def _get(client: Client, path: str) -> dict[str, Any]:
    response = await client.raw("GET", path, headers={"accept": "application/json"})
    found: dict[str, Any] = orjson.loads(response.body)
    return found
