"""What an API server serves, and what users call it (Kubernetes concept: API discovery).

The command line takes `deploy`, `deployments`, `deployment.apps` or `Deployment` for the same resource; which one that
is, and which group wins when several have it, is the server's word, in its order.
"""

from __future__ import annotations

import difflib
from typing import Any

import orjson
from msgspec import Struct

from kube.client import Client
from kube.errors import KtoolError
from kube.kinds import Kind

MEDIA_TYPE = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class ServedResource(Struct, frozen=True):
    """A resource of the server: its kind, what may be done with it, and the categories (`all`) that it is in."""

    kind: Kind
    verbs: frozenset[str]
    categories: frozenset[str]


class UnknownResource(KtoolError):
    """The server does not have what the user named."""


class Discovery:
    """All resources of a server, in its order of preference."""

    def __init__(self, resources: list[ServedResource]) -> None:
        self.resources = resources

    @classmethod
    async def load(cls, client: Client) -> Discovery:
        """Ask the server (two requests, aggregated discovery)."""
        found: list[ServedResource] = []
        for path in ("/api", "/apis"):
            response = await client.raw("GET", path, headers={"accept": f"{MEDIA_TYPE},application/json"})
            found += parse(orjson.loads(response.body))
        return cls(found)

    def resolve(self, name: str) -> ServedResource:
        """Resource by plural, singular, kind or short name, with or without its group (`deploy.apps`).

        Raises UnknownResource, with the closest names.
        """
        wanted = name.lower()
        for resource in self.resources:
            if wanted in _names(resource.kind):
                return resource
        plain, _, group = wanted.partition(".")
        for resource in self.resources:
            if group and plain in _names(resource.kind) and resource.kind.group == group:
                return resource
        known = sorted({n for r in self.resources for n in _names(r.kind)})
        close = difflib.get_close_matches(wanted, known, n=1)
        raise UnknownResource(
            f"the server has no resource {name!r}",
            wanted="a resource's name, such as pods, deploy or nodes",
            mend=f"Did you mean {close[0]!r}?" if close else "See `kubectl api-resources` for all of them.",
        )

    def category(self, name: str) -> list[ServedResource]:
        """Resources of a category; empty if there is none of that name."""
        return [r for r in self.resources if name in r.categories]

    def by_gvk(self, api_version: str, kind: str) -> ServedResource | None:
        """Resource of an object by its apiVersion and kind."""
        return next((r for r in self.resources if (r.kind.api_version, r.kind.kind) == (api_version, kind)), None)


def parse(document: dict[str, Any]) -> list[ServedResource]:
    """Resources of an APIGroupDiscoveryList; subresources are left out."""
    found = []
    for group in document.get("items", ()):
        name = (group.get("metadata") or {}).get("name", "")
        for version in group.get("versions", ()):
            for entry in version.get("resources", ()):
                kind = Kind(
                    group=name,
                    version=version["version"],
                    kind=entry["responseKind"]["kind"],
                    plural=entry["resource"],
                    namespaced=entry.get("scope") == "Namespaced",
                    short_names=tuple(entry.get("shortNames", ())),
                )
                verbs, categories = (frozenset(entry.get(f, ())) for f in ("verbs", "categories"))
                found.append(ServedResource(kind, verbs, categories))
    return found


def _names(kind: Kind) -> set[str]:
    return {kind.plural, kind.singular, kind.kind.lower(), *kind.short_names}
