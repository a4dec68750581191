"""Paths that are no resources: discovery, OpenAPI, version, health, metrics."""

from __future__ import annotations

import platform
from collections.abc import Callable

import orjson

from control.api import discovery, metrics, openapi, openapi_v2, output
from control.api.call import Call
from control.api.environment import Environment
from control.api.metrics import RequestCounters
from control.api.resource import Object
from kube import status
from kube.transport import Response

VERSION = "v1.32.0"
HEALTH = ("healthz", "livez", "readyz")
TEXT = {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}
FOREVER = {"content-type": output.JSON, "cache-control": "public, immutable, max-age=31536000"}

# A health check: None if all is well, else what is wrong.
Check = Callable[[], str | None]


def is_public(path: str) -> bool:
    """Whether anybody may read a path: health and version."""
    first = path.strip("/").partition("/")[0]
    return first in HEALTH or first == "version"


class NonResource:
    """Answers for non-resource paths. `live` and `ready` checks are added by whoever runs a part of the master."""

    def __init__(self, environment: Environment, counters: RequestCounters) -> None:
        self._environment = environment
        self._counters = counters
        self.address = ""
        self.live: dict[str, Check] = {"ping": lambda: None}
        self.ready: dict[str, Check] = {}

    async def answer(self, call: Call) -> Response:
        """Answer a GET. ApiError 404, 405."""
        parts = [part for part in call.info.path.split("/") if part]
        if call.request.method not in ("GET", "HEAD"):
            raise status.ApiError(
                405,
                status.Reason.METHOD_NOT_ALLOWED,
                f"{call.request.method} is not supported on {call.info.path}: wanted GET",
            )
        match parts:
            case []:
                return output.respond({"paths": self._paths()}, output=call.output)
            case ["version"]:
                return output.respond(version(), output=call.output)
            case ["healthz" | "livez" | "readyz" as which, *check] if len(check) < 2:
                return self._health(which, check[0] if check else "", call)
            case ["metrics"]:
                text = metrics.text(self._counters, self._environment.cache)
                return Response(200, {"content-type": metrics.CONTENT_TYPE}, text.encode())
            case ["openapi", "v2"]:
                return self._openapi_v2(call)
            case ["openapi", "v3", *rest]:
                return self._openapi(rest, call)
            case ["api" | "apis", *_]:
                return self._discovery(parts, call)
        raise status.no_such_path()

    def _discovery(self, parts: list[str], call: Call) -> Response:
        registry = self._environment.registry
        found: Object | None = None
        match parts:
            case ["api" | "apis" as root]:
                wanted = discovery.aggregated_version(call.request.headers.get("accept", ""))
                if wanted:
                    headers = {"content-type": discovery.AGGREGATED.format(version=wanted)}
                    body = discovery.aggregated(registry, wanted, core=root == "api")
                    return Response(200, headers, orjson.dumps(body))
                found = discovery.api_versions(self.address) if root == "api" else discovery.group_list(registry)
            case ["api", version_]:
                found = discovery.resource_list(registry, "", version_)
            case ["apis", group]:
                found = discovery.group(registry, group)
            case ["apis", group, version_]:
                found = discovery.resource_list(registry, group, version_)
        if found is None:
            raise status.no_such_path()
        return output.respond(found, output=call.output)

    def _openapi_v2(self, call: Call) -> Response:
        registry = self._environment.registry
        if openapi_v2.is_protobuf_wanted(call.request.headers.get("accept", "")):
            body = openapi_v2.protobuf(registry, title="Kubernetes", number=VERSION)
            return Response(200, {"content-type": openapi_v2.PROTOBUF}, body)
        found = openapi_v2.document(registry, title="Kubernetes", number=VERSION)
        return output.respond(found, output=call.output)

    def _openapi(self, rest: list[str], call: Call) -> Response:
        registry = self._environment.registry
        found: Object | None = None
        match rest:
            case []:
                return output.respond(openapi.index(registry), output=call.output)
            case ["api", version_]:
                found = openapi.document(registry, "", version_, title="Kubernetes", number=VERSION)
            case ["apis", group, version_]:
                found = openapi.document(registry, group, version_, title="Kubernetes", number=VERSION)
        if found is None:
            raise status.no_such_path()
        headers = FOREVER if call.options.text("hash") else output.JSON_HEADERS
        return Response(200, headers, orjson.dumps(found))

    def _health(self, which: str, name: str, call: Call) -> Response:
        checks = self.live if which == "livez" else {**self.live, **self.ready}
        if name:
            if name not in checks:
                raise status.no_such_path()
            checks = {name: checks[name]}
        excluded = {value for key, value in call.request.query if key == "exclude"}
        lines, failed = [], []
        for title, check in checks.items():
            wrong = None if title in excluded else check()
            if wrong is None:
                lines.append(f"[+]{title} {'excluded: ok' if title in excluded else 'ok'}")
            else:
                # what is wrong may tell strangers too much; it is in the log and in `ktool status`
                lines.append(f"[-]{title} failed: reason withheld")
                failed.append(title)
        if failed:
            lines.append(f"{which} check failed")
            return Response(503, TEXT, "\n".join(lines).encode() + b"\n")
        if "verbose" in dict(call.request.query):
            lines.append(f"{which} check passed")
            return Response(200, TEXT, "\n".join(lines).encode() + b"\n")
        return Response(200, TEXT, b"ok")

    def _paths(self) -> list[str]:
        registry = self._environment.registry
        found = ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
        found += [f"/livez/{name}" for name in self.live]
        found += [f"/readyz/{name}" for name in {**self.live, **self.ready}]
        for group in registry.groups():
            for version_ in registry.versions(group):
                path = f"/apis/{group}/{version_}" if group else f"/api/{version_}"
                found += [path, f"/openapi/v3{path}"]
            if group:
                found.append(f"/apis/{group}")
        return sorted(found)


def version() -> Object:
    """What `/version` says: the version of Kubernetes that is spoken (version.Info)."""
    major, minor, _ = VERSION.removeprefix("v").split(".")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{VERSION}+ktool",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": platform.python_implementation(),
        "platform": f"{platform.system().lower()}/{machine}",
    }
