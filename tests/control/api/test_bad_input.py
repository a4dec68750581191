"""What users get wrong, and what they are told: code, reason, words, field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from control.api import pipeline
from control.store.errors import OutcomeUnknownError, StoreUnavailableError
from kube.transport import Query, Request
from tests.control.api.server_under_test import CONFIG_MAPS, PODS, Server, config_map, pod

DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


def deployment(**spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}}
    found = {"selector": {"matchLabels": {"app": "a"}}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": found}


def pod_with(**container: Any) -> dict[str, Any]:
    found = pod("a")
    found["spec"]["containers"][0] |= container
    return found


def big_pod() -> dict[str, Any]:
    return pod_with(env=[{"name": f"E{n}", "value": "v" * 1000} for n in range(1700)])


@dataclass(frozen=True)
class Case:
    method: str
    path: str
    body: Any
    code: int
    reason: str
    words: str
    field: str = ""
    media_type: str = "application/json"
    accept: str = "application/json"
    query: Query = ()


CASES = {
    "malformed JSON": Case("POST", CONFIG_MAPS, b'{"metadata": {', 400, "BadRequest", "malformed JSON at line 1"),
    "malformed YAML": Case(
        "POST", CONFIG_MAPS, b"data: {a: b\n", 400, "BadRequest", "malformed YAML", media_type="application/yaml"
    ),
    "a key twice in YAML": Case(
        "POST", CONFIG_MAPS, b"data: {a: b, a: c}\n", 400, "BadRequest", "stands twice", media_type="application/yaml"
    ),
    "no body": Case("POST", CONFIG_MAPS, b"", 400, "BadRequest", "no body"),
    "a list": Case("POST", CONFIG_MAPS, [1], 400, "BadRequest", "no object"),
    "another kind": Case("POST", CONFIG_MAPS, pod("a"), 400, "BadRequest", "found 'Pod', wanted 'ConfigMap'"),
    "another version": Case(
        "POST", CONFIG_MAPS, {**config_map("a"), "apiVersion": "v2"}, 400, "BadRequest", "does not match the expected"
    ),
    "another namespace": Case(
        "POST",
        CONFIG_MAPS,
        {"metadata": {"name": "a", "namespace": "other"}},
        400,
        "BadRequest",
        "found 'other', wanted 'default'",
    ),
    "no such namespace": Case(
        "POST", "/api/v1/namespaces/nowhere/pods", pod("a"), 404, "NotFound", 'namespaces "nowhere" not found'
    ),
    "no namespace": Case("POST", "/api/v1/pods", pod("a"), 400, "BadRequest", "made in a namespace"),
    "a resource version at creation": Case(
        "POST", CONFIG_MAPS, {"metadata": {"name": "a", "resourceVersion": "1"}}, 400, "BadRequest", "resourceVersion"
    ),
    "wrong type": Case(
        "POST", DEPLOYMENTS, deployment(replicas="three"), 400, "BadRequest", "whole number", "spec.replicas"
    ),
    "a number as a label": Case(
        "POST", CONFIG_MAPS, {"metadata": {"name": "a", "labels": {"a": 1}}}, 400, "BadRequest", "", "metadata.labels.a"
    ),
    "bad quantity": Case(
        "POST",
        PODS,
        pod_with(resources={"requests": {"cpu": "lots"}}),
        400,
        "BadRequest",
        "lots",
        "spec.containers[0].resources.requests.cpu",
    ),
    "unknown field": Case(
        "POST",
        PODS,
        pod_with(imagee="x"),
        400,
        "BadRequest",
        "strict decoding error: unknown field \"spec.containers[0].imagee\" (did you mean 'image'?)",
        "spec.containers[0].imagee",
        query=[("fieldValidation", "Strict")],
    ),
    "name too long": Case("POST", CONFIG_MAPS, config_map("a" * 254), 422, "Invalid", "253", "metadata.name"),
    "name of forbidden characters": Case("POST", CONFIG_MAPS, config_map("A_b"), 422, "Invalid", "", "metadata.name"),
    "no name": Case("POST", CONFIG_MAPS, {"metadata": {}}, 422, "Invalid", "generateName", "metadata.name"),
    "a label's value": Case(
        "POST",
        CONFIG_MAPS,
        {"metadata": {"name": "a", "labels": {"a": "b c"}}},
        422,
        "Invalid",
        "b c",
        "metadata.labels.a",
    ),
    "a selector that does not match the template": Case(
        "POST",
        DEPLOYMENTS,
        deployment(selector={"matchLabels": {"app": "other"}}),
        422,
        "Invalid",
        "",
        "spec.template.metadata.labels",
    ),
    "no containers": Case(
        "POST", PODS, {"metadata": {"name": "a"}, "spec": {}}, 422, "Invalid", "Required value", "spec.containers"
    ),
    "an object over 1.5 MB": Case(
        "POST", PODS, big_pod(), 413, "RequestEntityTooLarge", "wanted at most 1572864 bytes"
    ),
    "a body over 3 MB": Case(
        "POST", CONFIG_MAPS, config_map("a", x="y" * (4 << 20)), 413, "RequestEntityTooLarge", "limit is 3145728"
    ),
    "already there": Case(
        "POST", CONFIG_MAPS, config_map("there"), 409, "AlreadyExists", 'configmaps "there" already exists'
    ),
    "not there": Case("GET", f"{CONFIG_MAPS}/x", None, 404, "NotFound", 'configmaps "x" not found'),
    "an update of what is not there": Case("PUT", f"{CONFIG_MAPS}/x", config_map("x"), 404, "NotFound", "not found"),
    "another name": Case(
        "PUT", f"{CONFIG_MAPS}/there", config_map("x"), 400, "BadRequest", "does not match the name on the URL (there)"
    ),
    "another uid": Case(
        "PUT", f"{CONFIG_MAPS}/there", {"metadata": {"name": "there", "uid": "x"}}, 409, "Conflict", "Precondition"
    ),
    "an immutable field": Case(
        "PUT",
        f"{PODS}/there",
        {**pod("there"), "spec": {**pod("there")["spec"], "hostname": "other"}},
        422,
        "Invalid",
        "",
        "spec.hostname",
    ),
    "an immutable creation time": Case(
        "PATCH",
        f"{CONFIG_MAPS}/there",
        {"metadata": {"creationTimestamp": "2000-01-01T00:00:00Z"}},
        422,
        "Invalid",
        "immutable",
        "metadata.creationTimestamp",
        media_type=MERGE,
    ),
    "a patch of an unknown type": Case(
        "PATCH", f"{CONFIG_MAPS}/there", {}, 415, "UnsupportedMediaType", "found 'application/json'"
    ),
    "server-side apply": Case(
        "PATCH",
        f"{CONFIG_MAPS}/there",
        {},
        415,
        "UnsupportedMediaType",
        "without --server-side",
        media_type="application/apply-patch+yaml",
    ),
    "a test that fails": Case(
        "PATCH",
        f"{CONFIG_MAPS}/there",
        [{"op": "test", "path": "/metadata/name", "value": "x"}],
        422,
        "Invalid",
        "the test does not hold",
        media_type=JSON_PATCH,
    ),
    "a malformed patch": Case(
        "PATCH", f"{CONFIG_MAPS}/there", {"op": "x"}, 400, "BadRequest", "JSON patch", media_type=JSON_PATCH
    ),
    "a patch that makes a wrong type": Case(
        "PATCH", f"{CONFIG_MAPS}/there", {"data": []}, 400, "BadRequest", "", "data", media_type=MERGE
    ),
    "an unknown media type": Case(
        "POST",
        CONFIG_MAPS,
        b"<a/>",
        415,
        "UnsupportedMediaType",
        "found 'application/xml', wanted application/json",
        media_type="application/xml",
    ),
    "an answer in protobuf": Case(
        "GET",
        CONFIG_MAPS,
        None,
        406,
        "NotAcceptable",
        "application/json",
        accept="application/vnd.kubernetes.protobuf",
    ),
    "no such resource": Case("GET", "/api/v1/namespaces/default/things", None, 404, "NotFound", "could not find"),
    "no such group": Case("GET", "/apis/example.com/v1/things", None, 404, "NotFound", "could not find"),
    "no such subresource": Case("GET", f"{CONFIG_MAPS}/there/status", None, 404, "NotFound", "could not find"),
    "a kind without namespaces, in one": Case(
        "GET", "/api/v1/namespaces/default/nodes/x", None, 404, "NotFound", "could not find"
    ),
    "all of a kind without namespaces, in one": Case(
        "GET",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterroles",
        None,
        404,
        "NotFound",
        "could not find",
    ),
    "a namespace in another one": Case(
        "DELETE", "/api/v1/namespaces/default/namespaces/kube-node-lease", None, 404, "NotFound", "could not find"
    ),
    "a review without namespaces, in one": Case(
        "POST",
        "/apis/authorization.k8s.io/v1/namespaces/default/subjectaccessreviews",
        {},
        404,
        "NotFound",
        "could not find",
    ),
    "more after a subresource": Case(
        "GET", "/api/v1/namespaces/default/status/more", None, 404, "NotFound", "could not find"
    ),
    "no such path": Case("GET", "/nothing", None, 404, "NotFound", "could not find"),
    "a verb that is not there": Case("DELETE", "/api/v1/namespaces", None, 405, "MethodNotAllowed", "deletecollection"),
    "creation at a name": Case("POST", f"{CONFIG_MAPS}/x", config_map("x"), 405, "MethodNotAllowed", "create"),
    "an unknown dryRun": Case(
        "POST", CONFIG_MAPS, config_map("a"), 422, "Invalid", "All", "dryRun", query=[("dryRun", "Some")]
    ),
    "an unknown fieldValidation": Case(
        "POST",
        CONFIG_MAPS,
        config_map("a"),
        422,
        "Invalid",
        "Strict",
        "fieldValidation",
        query=[("fieldValidation", "Sometimes")],
    ),
    "a limit that is no number": Case(
        "GET", CONFIG_MAPS, None, 400, "BadRequest", "found 'many'", query=[("limit", "many")]
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_bad_input(server: Server, case: Case) -> None:
    await server.call("POST", CONFIG_MAPS, config_map("there"))
    await server.call("POST", PODS, pod("there"))
    before = await server.store.revision()
    error = await server.error(
        case.method, case.path, case.body, query=case.query, content_type=case.media_type, accept=case.accept
    )
    assert (error["code"], error["reason"]) == (case.code, case.reason), error
    assert case.words in error["message"]
    if case.field:
        assert case.field in [cause["field"] for cause in error["details"]["causes"]], error
    assert await server.store.revision() == before, "nothing may be half-done"


async def test_wrong_credentials(server: Server) -> None:
    response = await server.api.handle(Request("GET", CONFIG_MAPS, headers={"authorization": "Bearer wrong"}))
    assert response.status == 401
    response = await server.api.handle(Request("GET", CONFIG_MAPS, headers={"authorization": "none"}))
    assert response.status == 403
    assert b'User \\"system:anonymous\\" cannot list resource \\"configmaps\\"' in response.body
    response = await server.api.handle(Request("GET", "/version/", headers={"authorization": "none"}))
    assert response.status == 200


async def test_a_handler_that_breaks_is_an_internal_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setitem(pipeline.HANDLERS, "get", broken)
    error = await server.error("GET", f"{CONFIG_MAPS}/a")
    assert (error["code"], error["reason"]) == (500, "InternalError")
    assert "RuntimeError: a bug" in error["message"]


async def test_a_change_that_may_have_happened_is_a_timeout(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: Any, **__: Any) -> Any:
        raise OutcomeUnknownError("etcd at 127.0.0.1:2379: Socket closed")

    monkeypatch.setattr(server.store, "put", lost)
    response = await server.send("POST", CONFIG_MAPS, config_map("a"))
    # client-go repeats whatever comes with Retry-After, a POST as well
    assert "retry-after" not in response.headers
    error = orjson.loads(response.body)
    assert (error["code"], error["reason"]) == (504, "Timeout")
    assert "nobody can say" in error["message"]


async def test_a_store_that_fails_while_a_collection_is_deleted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any, **__: Any) -> Any:
        raise StoreUnavailableError("the disk is gone")

    for name in ("a", "b"):
        await server.call("POST", CONFIG_MAPS, config_map(name))
    monkeypatch.setattr(server.store, "delete", lost)
    error = await server.error("DELETE", CONFIG_MAPS)
    assert (error["code"], error["reason"]) == (503, "ServiceUnavailable")  # nothing has happened
    assert "the disk is gone" in error["message"]


async def test_warnings_fit_into_a_header(server: Server) -> None:
    odd = {"metadata": {"name": "odd"}, "a\r\nx-evil: yes": 1}
    assert "\r" not in (await server.send("POST", CONFIG_MAPS, odd)).headers["warning"]
    many = {"metadata": {"name": "many"}, **{f"field-{n:0500}": n for n in range(100)}}
    found = (await server.send("POST", CONFIG_MAPS, many)).headers["warning"]
    assert 1000 < len(found) < 5000
    assert found.count('299 - "unknown field') == 16
