"""Which groups, versions and resources there are, told to clients (Kubernetes: the discovery API).

Two forms: aggregated (all in two requests, apidiscovery.k8s.io/v2) and the older one, a document per group version.
"""

from __future__ import annotations

from typing import Any

from control.api.registry import ResourceRegistry
from control.api.resource import VERBS, Object, Resource, Subresource

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"


def aggregated_version(accept: str) -> str:
    """`v2` or `v2beta1` if a client asks for aggregated discovery in that form, else empty."""
    for clause in accept.split(","):
        found = {part.strip() for part in clause.split(";")}
        if "as=APIGroupDiscoveryList" in found and "g=apidiscovery.k8s.io" in found:
            for version in ("v2", "v2beta1"):
                if f"v={version}" in found:
                    return version
        elif "application/json" in found:
            return ""
    return ""


def aggregated(registry: ResourceRegistry, version: str, *, core: bool) -> Object:
    """APIGroupDiscoveryList of the core group (`/api`) or of all others (`/apis`)."""
    items = []
    for group in registry.groups():
        if (not group) != core:
            continue
        versions = [
            {
                "version": v,
                "resources": [_aggregated_resource(r) for r in registry.resources(group, v)],
                "freshness": "Current",
            }
            for v in registry.versions(group)
        ]
        items.append({"metadata": {"name": group} if group else {}, "versions": versions})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _aggregated_resource(resource: Resource) -> Object:
    kind = resource.kind
    found: dict[str, Any] = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": verbs(resource),
    }
    if kind.short_names:
        found["shortNames"] = [*kind.short_names]
    if resource.categories:
        found["categories"] = [*resource.categories]
    if resource.subresources:
        found["subresources"] = [
            {
                "subresource": s.name,
                "responseKind": {"group": s.group, "version": s.version, "kind": s.kind},
                "verbs": sorted(s.verbs),
            }
            for s in resource.subresources
        ]
    return found


def verbs(resource: Resource) -> list[str]:
    """The verbs of a resource; those without storage can only be created."""
    return ["create"] if resource.handler else [v for v in VERBS if v in resource.verbs]


def api_versions(address: str) -> Object:
    """APIVersions: what `/api` says."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group(registry: ResourceRegistry, name: str) -> Object | None:
    """APIGroup: what `/apis/<group>` says, or None."""
    found = [{"groupVersion": f"{name}/{v}", "version": v} for v in registry.versions(name)]
    if not name or not found:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": found, "preferredVersion": found[0]}


def group_list(registry: ResourceRegistry) -> Object:
    """APIGroupList: what `/apis` says."""
    groups = [found for name in registry.groups() if (found := group(registry, name))]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def resource_list(registry: ResourceRegistry, group_name: str, version: str) -> Object | None:
    """APIResourceList: what `/api/v1` and `/apis/<group>/<version>` say, or None."""
    found = registry.resources(group_name, version)
    if not found:
        return None
    entries: list[Object] = []
    for resource in found:
        entries.append(_resource(resource))
        entries += [_subresource(resource, s) for s in resource.subresources]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group_name}/{version}" if group_name else version,
        "resources": entries,
    }


def _resource(resource: Resource) -> Object:
    kind = resource.kind
    found: dict[str, Any] = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": verbs(resource),
    }
    if kind.short_names:
        found["shortNames"] = [*kind.short_names]
    if resource.categories:
        found["categories"] = [*resource.categories]
    return found


def _subresource(resource: Resource, subresource: Subresource) -> Object:
    found: dict[str, Any] = {
        "name": f"{resource.kind.plural}/{subresource.name}",
        "singularName": "",
        "namespaced": resource.kind.namespaced,
        "kind": subresource.kind,
        "verbs": sorted(subresource.verbs),
    }
    if (subresource.group, subresource.version) != (resource.kind.group, resource.kind.version):
        found["group"], found["version"] = subresource.group, subresource.version
    return found
