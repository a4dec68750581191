from __future__ import annotations

from typing import Any

from msgspec import structs

from control.api import openapi_v2
from control.api.registry import ResourceRegistry
from control.api.resource import VERBS, Resource
from kube.kinds import Kind
from tests.control.api.server_under_test import PODS, Server, config_map, pod

AGGREGATED = (
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
)
TABLE = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)
METADATA = "application/json;as=PartialObjectMetadata{list};g=meta.k8s.io;v=v1,application/json"


async def test_aggregated_discovery(server: Server) -> None:
    response = await server.send("GET", "/api", accept=AGGREGATED)
    assert response.headers["content-type"] == "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    core = await server.call("GET", "/api", accept=AGGREGATED)
    assert [(item["metadata"], [v["version"] for v in item["versions"]]) for item in core["items"]] == [({}, ["v1"])]
    pods = next(r for r in core["items"][0]["versions"][0]["resources"] if r["resource"] == "pods")
    assert pods["scope"] == "Namespaced"
    assert pods["responseKind"] == {"group": "", "version": "v1", "kind": "Pod"}
    assert pods["shortNames"] == ["po"]
    assert pods["verbs"] == [*VERBS]
    assert {s["subresource"] for s in pods["subresources"]} >= {"status", "binding", "eviction", "log", "exec"}
    groups = await server.call("GET", "/apis", accept=AGGREGATED)
    assert "apps" in [item["metadata"]["name"] for item in groups["items"]]


async def test_legacy_discovery(server: Server) -> None:
    assert (await server.call("GET", "/api"))["versions"] == ["v1"]
    groups = await server.call("GET", "/apis")
    apps = next(g for g in groups["groups"] if g["name"] == "apps")
    assert apps == {**await server.call("GET", "/apis/apps"), **apps}
    assert apps["preferredVersion"] == {"groupVersion": "apps/v1", "version": "v1"}
    resources = (await server.call("GET", "/apis/apps/v1"))["resources"]
    names = [r["name"] for r in resources]
    assert {"deployments", "deployments/scale", "deployments/status", "replicasets"} <= {*names}
    scale = next(r for r in resources if r["name"] == "deployments/scale")
    assert (scale["group"], scale["version"], scale["kind"]) == ("autoscaling", "v1", "Scale")
    assert (await server.error("GET", "/apis/nothing"))["code"] == 404


async def test_resources_come_and_go_at_run_time(server: Server) -> None:
    registry = server.api.environment.registry
    template = registry.find("", "v1", "configmaps")
    assert template is not None
    kind = Kind("example.com", "v1", "Thing", "things", True)
    thing: Resource = structs.replace(template, kind=kind)
    registry.register(thing)
    path = "/apis/example.com/v1/namespaces/default/things"
    wanted = {**config_map("a"), "apiVersion": "example.com/v1", "kind": "Thing"}
    await server.call("POST", path, wanted)
    assert [r["name"] for r in (await server.call("GET", "/apis/example.com/v1"))["resources"]] == ["things"]
    assert (await server.call("GET", path))["kind"] == "ThingList"
    registry.unregister("example.com", "v1", "things")
    assert (await server.error("GET", path))["code"] == 404
    assert (await server.error("GET", "/apis/example.com/v1"))["code"] == 404
    registry.register(thing)
    assert len((await server.call("GET", path))["items"]) == 1


async def test_openapi_tells_kubectl_what_it_looks_for(server: Server) -> None:
    index = (await server.call("GET", "/openapi/v3"))["paths"]
    url = index["apis/apps/v1"]["serverRelativeURL"]
    path, _, query = url.partition("?hash=")
    response = await server.send("GET", path, query=[("hash", query)])
    assert "immutable" in response.headers["cache-control"]
    document = await server.call("GET", path)
    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert "fieldValidation" in [p["name"] for p in patch["parameters"]]
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    schemas = document["components"]["schemas"]
    deployment = schemas["io.k8s.api.apps.v1.Deployment"]
    gvk = {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert gvk in deployment["x-kubernetes-group-version-kind"]
    container = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert container["x-kubernetes-patch-merge-key"] == "name"


async def test_every_openapi_reference_leads_somewhere(server: Server) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*(references(v) for v in value.values()))
        if isinstance(value, list):
            return set().union(*(references(v) for v in value)) if value else set()
        return set()

    for name in (await server.call("GET", "/openapi/v3"))["paths"]:
        document = await server.call("GET", f"/openapi/v3/{name}")
        known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert references(document) <= known, name


async def test_paths_version_and_health(server: Server) -> None:
    assert {"/api/v1", "/apis/apps/v1", "/readyz", "/version"} <= {*(await server.call("GET", "/"))["paths"]}
    assert (await server.call("GET", "/version/"))["minor"] == "32"
    for path in ("/healthz", "/livez", "/readyz", "/readyz/"):
        assert (await server.send("GET", path)).body == b"ok"
    verbose = await server.send("GET", "/readyz", query=[("verbose", "")])
    assert verbose.body.endswith(b"[+]ping ok\nreadyz check passed\n")
    server.api.nonresource.ready["part"] = lambda: "it is broken in a secret way"
    failed = await server.send("GET", "/readyz")
    assert failed.status == 503
    assert b"[-]part failed" in failed.body
    assert b"secret" not in failed.body
    assert (await server.send("GET", "/livez")).status == 200
    assert (await server.send("GET", "/readyz", query=[("exclude", "part")])).status == 200
    assert (await server.send("GET", "/readyz/part")).status == 503
    assert (await server.error("GET", "/readyz/nothing"))["code"] == 404
    assert (await server.error("POST", "/version"))["code"] == 405


async def test_metrics(server: Server) -> None:
    await server.call("POST", PODS, pod("a"))
    text = (await server.send("GET", "/metrics")).body.decode()
    assert 'apiserver_request_total{verb="CREATE",group="",resource="pods",code="201"} 1\n' in text
    assert 'apiserver_storage_objects{resource="pods"} 1\n' in text


async def test_tables(server: Server) -> None:
    await server.call("POST", PODS, pod("a"))
    table = await server.call("GET", PODS, accept=TABLE)
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    columns = [c["name"] for c in table["columnDefinitions"]]
    assert columns[:5] == ["Name", "Ready", "Status", "Restarts", "Age"]
    assert len(table["rows"][0]["cells"]) == len(columns)
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    one = await server.call("GET", f"{PODS}/a", accept=TABLE, query=[("includeObject", "Object")])
    assert one["rows"][0]["object"]["spec"]["containers"][0]["name"] == "main"
    none = await server.call("GET", PODS, accept=TABLE, query=[("includeObject", "None")])
    assert "object" not in none["rows"][0]
    assert (await server.error("GET", f"{PODS}/x", accept=TABLE))["kind"] == "Status"


async def test_every_kind_has_a_table(server: Server) -> None:
    for resource in server.api.environment.registry:
        if "list" not in resource.verbs or resource.handler:
            continue
        table = await server.call("GET", resource.kind.path(), accept=TABLE)
        assert table["kind"] == "Table"


async def test_metadata_only(server: Server) -> None:
    await server.call("POST", PODS, pod("a"))
    one = await server.call("GET", f"{PODS}/a", accept=METADATA.format(list=""))
    assert (one["kind"], "spec" in one, one["metadata"]["name"]) == ("PartialObjectMetadata", False, "a")
    found = await server.call("GET", PODS, accept=METADATA.format(list="List"))
    assert found["kind"] == "PartialObjectMetadataList"
    assert [item["metadata"]["name"] for item in found["items"]] == ["a"]


async def test_openapi_v2_lets_everything_pass(server: Server) -> None:
    found = await server.call("GET", "/openapi/v2")
    assert (found["swagger"], found["definitions"]) == ("2.0", {})
    media = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    answer = await server.send("GET", "/openapi/v2", accept=media)
    assert (answer.status, answer.headers["content-type"]) == (200, media.replace("@", "."))
    assert answer.body.startswith(b"\x0a\x032.0\x12\x15\x0a\x0aKubernetes\x12\x07v1.32.0\x42")
    assert (await server.send("GET", "/api/v1/pods", accept=media)).status == 406


async def test_openapi_v2_tells_old_kubectl_what_can_be_patched_in_a_dry_run(server: Server) -> None:
    paths = (await server.call("GET", "/openapi/v2"))["paths"]
    patch = paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert [parameter["name"] for parameter in patch["parameters"]] == ["dryRun"]
    assert not any("subjectaccessreviews" in path for path in paths)


def test_openapi_v2_as_protobuf() -> None:
    config_maps = next(one for one in ResourceRegistry.builtin() if one.kind.kind == "ConfigMap")
    # Fields of nested messages: parameters, parameter, non-body parameter, query, name.
    dry_run = b"\x42\x0e\x0a\x0c\x12\x0a\x1a\x08\x22\x06dryRun"
    # Vendor extension: name; value, as YAML.
    kind = b'{"group":"","version":"v1","kind":"ConfigMap"}'
    extension = b"\x6a\x53\x0a\x1fx-kubernetes-group-version-kind\x12\x30\x12\x2e" + kind
    found = openapi_v2.protobuf([config_maps], title="T", number="1")
    assert found.startswith(b"\x0a\x032.0\x12\x06\x0a\x01T\x12\x011\x42")
    assert b"\x0a\x30/api/v1/namespaces/{namespace}/configmaps/{name}\x12" in found
    assert found.endswith(dry_run + extension)
