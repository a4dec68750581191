"""A small API server in memory, behind the client's Transport: for tests of what sits on Client and informers.

It keeps objects as plain data and does what callers rely on: names, uids, resource versions with compare-and-swap,
generations, finalizers, status apart from spec, selectors, watches from a revision. It checks nothing about contents.

`hold()` keeps watch events back (of all kinds, or of some) until `release()`: caches then lag behind, as they do on a
busy day. `refuse` may answer a request with an error before the server looks at it. `requests` is the log of all
writes.
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import orjson

from kube import kinds, selector, status, times
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.kinds import Kind
from kube.transport import Request, Response

Data = dict[str, Any]
_NO_GENERATION = {"Event", "ConfigMap", "Secret", "Endpoints", "Lease", "ServiceAccount"}


class FakeAPI:
    """Objects by (group resource, namespace, name), and the history of their changes."""

    def __init__(self, clock: Clock | None = None, *, graceful_pods: bool = False) -> None:
        self.clock = clock or SystemClock()
        self.graceful_pods = graceful_pods
        self.objects: dict[tuple[str, str, str], Data] = {}
        self.requests: list[tuple[str, str]] = []
        self.refuse: Callable[[Request], status.ApiError | None] = lambda _: None
        self._history: list[tuple[int, str, str, Data]] = []
        self._revision = 1
        self._names = count(1)
        self._changed = asyncio.Event()
        self._visible: int | None = None
        self._held: frozenset[str] = frozenset()

    def client(self) -> Client:
        return Client(self)

    # --- for tests -------------------------------------------------------------------------------------------------

    def hold(self, *resources: str) -> None:
        """Deliver no watch events from now on; with `resources` (as `pods`, `deployments.apps`) only none of these."""
        self._visible, self._held = self._revision, frozenset(resources)

    def release(self) -> None:
        """Deliver what was held back."""
        self._visible = None
        self._wake()

    def find(self, kind: str, name: str, namespace: str = "") -> Data | None:
        for (plural, ns, found), obj in self.objects.items():
            if found == name and ns == namespace and _kind_name(plural) == kind:
                return obj
        return None

    def all(self, kind: str, namespace: str | None = None) -> list[Data]:
        return [
            obj
            for (plural, ns, _), obj in self.objects.items()
            if _kind_name(plural) == kind and namespace in (None, ns)
        ]

    def writes(self) -> Counter[str]:
        """How many writes there were, by method."""
        return Counter(method for method, _ in self.requests)

    def put(self, obj: Data) -> Data:
        """Create or replace an object as it stands, status and all."""
        kind = kinds.by_gvk(obj["apiVersion"], obj["kind"])
        assert kind is not None
        meta = obj["metadata"]
        key = (kind.group_resource, meta.get("namespace", ""), meta["name"])
        before = self.objects.get(key)
        if before is not None:
            meta.setdefault("uid", before["metadata"]["uid"])
            meta.setdefault("generation", before["metadata"].get("generation", 1))
        self._born(kind, obj)
        return self._store(key, obj, "MODIFIED" if before else "ADDED")

    def change(self, kind: str, name: str, namespace: str = "", **fields: Any) -> Data:
        """Merge top-level fields (`status={...}`) into an object."""
        obj = self.find(kind, name, namespace)
        assert obj is not None, f"{kind} {namespace}/{name}"
        found = kinds.by_gvk(obj["apiVersion"], obj["kind"])
        assert found is not None
        return self._store((found.group_resource, namespace, name), _merge(obj, fields), "MODIFIED")

    def remove(self, kind: str, name: str, namespace: str = "") -> None:
        """Make an object vanish, whatever its finalizers say."""
        for key in [k for k in self.objects if _kind_name(k[0]) == kind and k[1:] == (namespace, name)]:
            self._drop(key)

    # --- Transport -------------------------------------------------------------------------------------------------

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        await asyncio.sleep(0)
        if request.method != "GET":
            self.requests.append((request.method, request.path))
        try:
            refusal = self.refuse(request)
            if refusal is not None:
                raise refusal
            if stream:
                return Response(200, stream=self._watch(request))
            return Response(200, body=orjson.dumps(self._answer(request)))
        except status.ApiError as error:
            return Response(error.code, body=orjson.dumps(error.to_status()))

    async def close(self) -> None:
        return None

    def _answer(self, request: Request) -> Any:
        parts = [part for part in request.path.split("/") if part]
        if len(parts) <= (2 if parts[0] == "api" else 3):
            return _discovery(parts)
        kind, namespace, name, subresource = self._resource(parts)
        body = orjson.loads(request.body) if request.body else {}
        key = (kind.group_resource, namespace, name)
        if request.method == "POST" and not name:
            return self._create(kind, namespace, body)
        if not name:
            items = self._list(kind, namespace, request)
            if request.method == "DELETE":
                for item in items:
                    meta = item["metadata"]
                    self._delete((kind.group_resource, meta.get("namespace", ""), meta["name"]), body)
                return status.success_status()
            return {
                "kind": kind.list_kind,
                "apiVersion": kind.api_version,
                "metadata": {"resourceVersion": str(self._revision)},
                "items": items,
            }
        found = self.objects.get(key)
        if found is None:
            raise status.not_found(kind.plural, name, group=kind.group)
        if request.method == "GET":
            return found
        if request.method == "DELETE":
            return self._delete(key, body)
        if request.method == "PUT":
            return self._update(key, kind, body, subresource)
        if request.method == "PATCH":
            _preconditions(kind, found, body.get("metadata", {}))
            return self._update(key, kind, _merge(found, body), subresource)
        if request.method == "POST" and subresource == "eviction":
            return self._delete(key, {})
        raise status.method_not_allowed(kind.plural, request.method)

    def _resource(self, parts: list[str]) -> tuple[Kind, str, str, str]:
        group, rest = ("", parts[1:]) if parts[0] == "api" else (parts[1], parts[2:])
        version, rest = rest[0], rest[1:]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        kind = kinds.by_resource(group, version, rest[0])
        if kind is None:
            raise status.no_such_path()
        return kind, namespace, rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else ""

    def _list(self, kind: Kind, namespace: str, request: Request) -> list[Data]:
        matches = _matcher(dict(request.query))
        return [
            obj
            for (plural, ns, _), obj in self.objects.items()
            if plural == kind.group_resource and namespace in ("", ns) and matches(obj)
        ]

    async def _watch(self, request: Request) -> AsyncIterator[bytes]:
        kind, namespace, _, _ = self._resource([part for part in request.path.split("/") if part])
        query = dict(request.query)
        seen = int(query.get("resourceVersion", "0"))
        matches = _matcher(query)
        at = 0
        while True:
            changed = self._changed
            while at < len(self._history):
                revision, type_, plural, obj = self._history[at]
                held = not self._held or kind.group_resource in self._held
                if self._visible is not None and revision > self._visible and held:
                    break
                at += 1
                if revision <= seen or plural != kind.group_resource or not matches(obj):
                    continue
                if namespace in ("", obj["metadata"].get("namespace", "")):
                    yield orjson.dumps({"type": type_, "object": obj}) + b"\n"
            await changed.wait()

    # --- writes ----------------------------------------------------------------------------------------------------

    def _create(self, kind: Kind, namespace: str, obj: Data) -> Data:
        meta = obj.setdefault("metadata", {})
        if kind.namespaced:
            meta["namespace"] = namespace
            home = self.objects.get(("namespaces", "", namespace))
            if home is not None and home["metadata"].get("deletionTimestamp"):
                error = status.forbidden(kind.plural, "", f"namespace {namespace} is being terminated")
                error.details["causes"] = [{"reason": "NamespaceTerminating"}]
                raise error
        if not meta.get("name"):
            meta["name"] = f"{meta['generateName']}{next(self._names):05d}"
        key = (kind.group_resource, namespace, meta["name"])
        if key in self.objects:
            raise status.already_exists(kind.plural, meta["name"], group=kind.group)
        if kind.kind == "Namespace":
            obj["spec"] = {"finalizers": ["kubernetes"]}
            obj["status"] = {"phase": "Active"}
        elif kind.kind != "Event":
            obj.pop("status", None)
        if kind.kind == "Pod":
            obj["status"] = {"phase": "Pending"}
        self._born(kind, obj)
        return self._store(key, obj, "ADDED")

    def _born(self, kind: Kind, obj: Data) -> None:
        meta = obj["metadata"]
        meta.setdefault("uid", f"uid-{next(self._names)}")
        meta.setdefault("creationTimestamp", times.now_rfc3339(self.clock))
        if kind.kind not in _NO_GENERATION:
            meta.setdefault("generation", 1)

    def _update(self, key: tuple[str, str, str], kind: Kind, obj: Data, subresource: str) -> Data:
        before = self.objects[key]
        _preconditions(kind, before, obj.get("metadata", {}))
        if subresource in ("status", "approval"):
            after = {**before, "status": obj.get("status", {})}
        elif subresource == "finalize":
            after = {**before, "spec": {**before.get("spec", {}), "finalizers": obj["spec"].get("finalizers", [])}}
        else:
            after = {**obj, "status": before["status"]} if "status" in before else dict(obj)
            after["metadata"] = {**obj["metadata"]}
            for field in ("uid", "creationTimestamp", "deletionTimestamp", "resourceVersion", "generation"):
                if field in before["metadata"]:
                    after["metadata"][field] = before["metadata"][field]
            if after.get("spec") != before.get("spec") and "generation" in before["metadata"]:
                after["metadata"]["generation"] += 1
        if _normal(after) == _normal(before):
            return before
        meta = after["metadata"]
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and not self._lingers(kind, after):
            self._store(key, after, "MODIFIED")
            return self._drop(key)
        return self._store(key, after, "MODIFIED")

    def _lingers(self, kind: Kind, obj: Data) -> bool:
        if kind.kind == "Namespace":
            return bool(obj.get("spec", {}).get("finalizers"))
        return kind.kind == "Pod" and self.graceful_pods and bool(obj.get("spec", {}).get("nodeName"))

    def _delete(self, key: tuple[str, str, str], options: Data) -> Data:
        obj = self.objects[key]
        kind = kinds.by_gvk(obj["apiVersion"], obj["kind"])
        assert kind is not None
        _preconditions(kind, obj, options.get("preconditions") or {})
        meta = dict(obj["metadata"])
        finalizers = [*meta.get("finalizers", [])]
        wanted = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(options.get("propagationPolicy", ""))
        if options.get("propagationPolicy"):
            finalizers = [f for f in finalizers if f not in ("foregroundDeletion", "orphan")]
        if wanted:
            finalizers.append(wanted)
        meta["finalizers"] = finalizers
        force = options.get("gracePeriodSeconds") == 0
        if not finalizers and (force or not self._lingers(kind, obj)):
            return self._drop(key)
        if meta.get("deletionTimestamp") and meta["finalizers"] == obj["metadata"].get("finalizers", []):
            return obj
        meta.setdefault("deletionTimestamp", times.now_rfc3339(self.clock))
        after = {**obj, "metadata": meta}
        if kind.kind == "Namespace":
            after["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        return self._store(key, after, "MODIFIED")

    def _store(self, key: tuple[str, str, str], obj: Data, type_: str) -> Data:
        self._revision += 1
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._revision)}}
        self.objects[key] = obj
        self._history.append((self._revision, type_, key[0], obj))
        self._wake()
        return obj

    def _drop(self, key: tuple[str, str, str]) -> Data:
        obj = self.objects.pop(key)
        self._revision += 1
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._revision)}}
        self._history.append((self._revision, "DELETED", key[0], obj))
        self._wake()
        return obj

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def secret_data(**values: str) -> dict[str, str]:
    """A Secret's data."""
    return {name.replace("_", "-"): base64.b64encode(value.encode()).decode() for name, value in values.items()}


def _kind_name(group_resource: str) -> str:
    return next(kind.kind for kind in kinds.KINDS if kind.group_resource == group_resource)


def _preconditions(kind: Kind, found: Data, wanted: Data) -> None:
    meta = found["metadata"]
    for field in ("uid", "resourceVersion"):
        if wanted.get(field) and wanted[field] != meta.get(field):
            raise status.conflict(kind.plural, meta["name"], group=kind.group)


def _matcher(query: dict[str, str]) -> Callable[[Data], bool]:
    labels = selector.parse(query.get("labelSelector", ""))
    fields = selector.parse_fields(query.get("fieldSelector", ""))

    def matches(obj: Data) -> bool:
        found = {r.field: _at(obj, r.field) for r in fields.requirements}
        return labels.matches(obj["metadata"].get("labels", {})) and fields.matches(found)

    return matches


def _at(obj: Any, path: str) -> str:
    for part in path.split("."):
        obj = obj.get(part) if isinstance(obj, dict) else None
    return str(obj) if obj is not None else ""


def _merge(obj: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(obj) if isinstance(obj, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


def _normal(obj: Any) -> Any:
    """An object without what is empty: an absent list and an empty one are the same."""
    if isinstance(obj, dict):
        return {k: n for k, v in obj.items() if (n := _normal(v)) not in ({}, [], None)}
    return [_normal(v) for v in obj] if isinstance(obj, list) else obj


_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def _discovery(parts: list[str]) -> Data:
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"]}
    if parts == ["apis"]:
        groups = {k.group: k.version for k in kinds.KINDS if k.group}
        listed = [
            {
                "name": group,
                "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
            }
            for group, version in groups.items()
        ]
        return {"kind": "APIGroupList", "groups": listed}
    api_version = "/".join(parts[1:])
    resources = [
        {"name": k.plural, "kind": k.kind, "namespaced": k.namespaced, "verbs": _VERBS, "singularName": k.singular}
        for k in kinds.KINDS
        if k.api_version == api_version and not k.group.startswith("auth")
    ]
    return {"kind": "APIResourceList", "groupVersion": api_version, "resources": resources}
