from __future__ import annotations

import pytest

from control.api.request_info import RequestInfo, parse


@pytest.mark.parametrize(
    ("method", "target", "query", "expected"),
    [
        ("GET", "/api/v1/pods", {}, ("list", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/namespaces/a/pods", {}, ("list", "", "v1", "a", "pods", "", "")),
        ("GET", "/api/v1/namespaces/a/pods/", {}, ("list", "", "v1", "a", "pods", "", "")),
        ("GET", "/api/v1/namespaces/a/pods/x", {}, ("get", "", "v1", "a", "pods", "", "x")),
        ("GET", "/api/v1/namespaces/a/pods/x/log", {}, ("get", "", "v1", "a", "pods", "log", "x")),
        ("POST", "/api/v1/namespaces/a/pods/x/binding", {}, ("create", "", "v1", "a", "pods", "binding", "x")),
        ("GET", "/api/v1/namespaces", {}, ("list", "", "v1", "", "namespaces", "", "")),
        ("GET", "/api/v1/namespaces/a", {}, ("get", "", "v1", "a", "namespaces", "", "a")),
        ("PUT", "/api/v1/namespaces/a/finalize", {}, ("update", "", "v1", "a", "namespaces", "finalize", "a")),
        ("PATCH", "/api/v1/namespaces/a/status", {}, ("patch", "", "v1", "a", "namespaces", "status", "a")),
        (
            "DELETE",
            "/apis/apps/v1/namespaces/a/deployments",
            {},
            ("deletecollection", "apps", "v1", "a", "deployments", "", ""),
        ),
        (
            "DELETE",
            "/apis/apps/v1/namespaces/a/deployments/x",
            {},
            ("delete", "apps", "v1", "a", "deployments", "", "x"),
        ),
        ("GET", "/apis/apps/v1/deployments", {"watch": "true"}, ("watch", "apps", "v1", "", "deployments", "", "")),
        ("GET", "/apis/apps/v1/deployments", {"watch": "True"}, ("watch", "apps", "v1", "", "deployments", "", "")),
        ("GET", "/apis/apps/v1/deployments", {"watch": "1"}, ("watch", "apps", "v1", "", "deployments", "", "")),
        ("GET", "/apis/apps/v1/deployments", {"watch": "false"}, ("list", "apps", "v1", "", "deployments", "", "")),
        ("GET", "/api/v1/watch/namespaces/a/pods", {}, ("watch", "", "v1", "a", "pods", "", "")),
        ("GET", "/api/v1/nodes", {"fieldSelector": "metadata.name=n1"}, ("list", "", "v1", "", "nodes", "", "n1")),
        ("HEAD", "/api/v1/nodes/n", {}, ("get", "", "v1", "", "nodes", "", "n")),
    ],
)
def test_resource_requests(method: str, target: str, query: dict[str, str], expected: tuple[str, ...]) -> None:
    info = parse(method, target, query)
    assert info.is_resource_request
    found = (info.verb, info.group, info.version, info.namespace, info.resource, info.subresource, info.name)
    assert found == expected


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/version/"]
)
def test_paths_that_are_no_resources(path: str) -> None:
    assert parse("GET", path, {}) == RequestInfo("get", path)


def test_what_follows_a_subresource_is_kept() -> None:
    assert parse("GET", "/api/v1/namespaces/a/pods/x/proxy/b/c", {}).rest == "b/c"
