from __future__ import annotations

import asyncio

import pytest

from kube.models import core_v1, meta_v1
from kube.status import ApiError
from tests.control.api.server_under_test import CONFIG_MAPS, PODS, Server, config_map, pod

MERGE = "application/merge-patch+json"
NODES = "/api/v1/nodes"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


def deployment(name: str, image: str = "web:1") -> dict[str, object]:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": image}]}}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


async def test_an_object_gets_its_identity_from_the_server(server: Server) -> None:
    wanted = config_map("a", x="1")
    wanted["metadata"] |= {"uid": "mine", "creationTimestamp": "2000-01-01T00:00:00Z", "generation": 7}
    wanted["metadata"]["managedFields"] = [{"manager": "me"}]
    found = await server.call("POST", CONFIG_MAPS, wanted)
    metadata = found["metadata"]
    assert metadata["namespace"] == "default"
    assert metadata["uid"] != "mine"
    assert metadata["creationTimestamp"] > "2020"
    assert {"generation", "managedFields"}.isdisjoint(metadata)
    assert await server.call("GET", f"{CONFIG_MAPS}/a") == found


async def test_the_resource_version_is_the_stores_revision(server: Server) -> None:
    found = await server.call("POST", CONFIG_MAPS, config_map("a"))
    kv = await server.store.get("/registry/configmaps/default/a")
    assert kv is not None
    assert found["metadata"]["resourceVersion"] == str(kv.mod_revision)
    assert b"resourceVersion" not in kv.value


async def test_generated_names_differ(server: Server) -> None:
    wanted = {"metadata": {"generateName": "a-"}, "data": {}}
    names = {(await server.call("POST", CONFIG_MAPS, wanted))["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("a-") and len(name) == 7 for name in names)


async def test_update_swaps_only_what_the_client_has_seen(server: Server) -> None:
    seen = await server.call("POST", CONFIG_MAPS, config_map("a", x="1"))
    changed = await server.call("PUT", f"{CONFIG_MAPS}/a", {**seen, "data": {"x": "2"}})
    assert int(changed["metadata"]["resourceVersion"]) > int(seen["metadata"]["resourceVersion"])
    error = await server.error("PUT", f"{CONFIG_MAPS}/a", {**seen, "data": {"x": "3"}})
    assert (error["code"], error["reason"]) == (409, "Conflict")
    unconditional = await server.call("PUT", f"{CONFIG_MAPS}/a", config_map("a", x="4"))
    assert unconditional["data"] == {"x": "4"}
    assert unconditional["metadata"]["uid"] == seen["metadata"]["uid"]


async def test_an_update_that_changes_nothing_writes_nothing(server: Server) -> None:
    seen = await server.call("POST", CONFIG_MAPS, config_map("a", x="1"))
    before = await server.store.revision()
    assert await server.call("PUT", f"{CONFIG_MAPS}/a", config_map("a", x="1")) == seen
    patched = await server.call("PATCH", f"{CONFIG_MAPS}/a", {"data": {"x": "1"}}, content_type=MERGE)
    assert patched == seen
    assert await server.store.revision() == before


async def test_patches(server: Server) -> None:
    await server.call("POST", PODS, pod("a", labels={"x": "1"}))
    path = f"{PODS}/a"
    merged = await server.call("PATCH", path, {"metadata": {"labels": {"y": "2"}}}, content_type=MERGE)
    assert merged["metadata"]["labels"] == {"x": "1", "y": "2"}
    operations = [{"op": "remove", "path": "/metadata/labels/x"}]
    patched = await server.call("PATCH", path, operations, content_type="application/json-patch+json")
    assert patched["metadata"]["labels"] == {"y": "2"}
    strategic = {"spec": {"containers": [{"name": "main", "image": "web:2"}]}}
    patched = await server.call("PATCH", path, strategic, content_type="application/strategic-merge-patch+json")
    assert patched["spec"]["containers"][0]["image"] == "web:2"
    assert patched["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"


async def test_patches_without_resource_version_all_arrive(server: Server) -> None:
    await server.call("POST", CONFIG_MAPS, config_map("a"))
    async with asyncio.TaskGroup() as group:
        for n in range(30):
            group.create_task(server.call("PATCH", f"{CONFIG_MAPS}/a", {"data": {f"k{n}": "v"}}, content_type=MERGE))
    assert len((await server.call("GET", f"{CONFIG_MAPS}/a"))["data"]) == 30


async def test_status_and_spec_are_written_apart(server: Server) -> None:
    created = await server.call("POST", DEPLOYMENTS, {**deployment("a"), "status": {"replicas": 9}})
    assert not created.get("status")
    assert created["metadata"]["generation"] == 1
    path = f"{DEPLOYMENTS}/a"
    wanted = {**created, "status": {"replicas": 2}, "spec": {**created["spec"], "replicas": 5}}
    updated = await server.call("PUT", f"{path}/status", wanted)
    assert (updated["status"], updated["spec"]["replicas"]) == ({"replicas": 2}, 1)
    assert updated["metadata"]["generation"] == 1
    updated["spec"]["replicas"] = 4
    updated["status"] = {}
    updated = await server.call("PUT", path, updated)
    assert (updated["status"], updated["spec"]["replicas"]) == ({"replicas": 2}, 4)
    assert updated["metadata"]["generation"] == 2
    labelled = {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "status": {"replicas": 3}}
    patched = await server.call("PATCH", f"{path}/status", labelled, content_type=MERGE)
    assert patched["status"]["replicas"] == 3
    assert "labels" not in patched["metadata"]
    assert patched["metadata"]["annotations"] == {"c": "d"}


async def test_dry_run_shows_the_result_and_stores_nothing(server: Server) -> None:
    await server.call("POST", CONFIG_MAPS, config_map("kept", x="1"))
    before = await server.store.revision()
    dry = [("dryRun", "All")]
    created = await server.call("POST", CONFIG_MAPS, config_map("a", x="1"), query=dry)
    assert created["metadata"]["uid"]
    patched = await server.call("PATCH", f"{CONFIG_MAPS}/kept", {"data": {"x": "2"}}, query=dry, content_type=MERGE)
    assert patched["data"] == {"x": "2"}
    assert (await server.call("DELETE", f"{CONFIG_MAPS}/kept", query=dry))["status"] == "Success"
    assert (await server.error("POST", CONFIG_MAPS, config_map("kept"), query=dry))["reason"] == "AlreadyExists"
    assert await server.store.revision() == before
    assert (await server.call("GET", f"{CONFIG_MAPS}/kept"))["data"] == {"x": "1"}


async def test_quantities_are_canonical_and_nulls_are_dropped(server: Server) -> None:
    wanted = pod("a")
    wanted["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1000m", "memory": "1024Ki"}}
    wanted["spec"]["nodeName"] = None
    found = await server.call("POST", PODS, wanted)
    assert found["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1", "memory": "1Mi"}
    assert "nodeName" not in found["spec"]


async def test_field_validation(server: Server) -> None:
    wanted = {**config_map("a"), "dta": {"x": "1"}}
    response = await server.send("POST", CONFIG_MAPS, wanted, query=[("dryRun", "All")])
    assert response.status == 201
    assert response.headers["warning"].startswith('299 - "unknown field \\"dta\\"')
    query = [("dryRun", "All"), ("fieldValidation", "Ignore")]
    assert "warning" not in (await server.send("POST", CONFIG_MAPS, wanted, query=query)).headers
    error = await server.error("POST", CONFIG_MAPS, wanted, query=[("fieldValidation", "Strict")])
    assert (error["code"], error["reason"]) == (400, "BadRequest")
    assert 'strict decoding error: unknown field "dta"' in error["message"]


async def test_objects_may_be_sent_and_read_as_yaml(server: Server) -> None:
    text = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: 'yes'}\n"
    response = await server.send("POST", CONFIG_MAPS, text, content_type="application/yaml", accept="application/yaml")
    assert response.status == 201
    assert b"x: 'yes'" in response.body


async def test_a_namespace_that_is_deleted_takes_nothing_new(server: Server) -> None:
    await server.call("POST", "/api/v1/namespaces", {"metadata": {"name": "gone"}})
    found = await server.call("DELETE", "/api/v1/namespaces/gone")
    assert found["status"]["phase"] == "Terminating"
    error = await server.error("POST", "/api/v1/namespaces/gone/configmaps", config_map("a"))
    assert (error["code"], error["reason"]) == (403, "Forbidden")
    assert error["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    found["spec"]["finalizers"] = []
    await server.call("PUT", "/api/v1/namespaces/gone/finalize", found)
    assert (await server.error("GET", "/api/v1/namespaces/gone"))["code"] == 404


async def test_the_typed_client_meets_the_same_errors(server: Server) -> None:
    wanted = core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name="a", namespace="default"), data={"x": "1"})
    created = await server.client.create(wanted)
    assert (await server.client.get(core_v1.ConfigMap, "a", namespace="default")).data == {"x": "1"}
    with pytest.raises(ApiError) as caught:
        await server.client.create(wanted)
    assert caught.value.reason == "AlreadyExists"
    with pytest.raises(ApiError) as caught:
        await server.client.delete(core_v1.ConfigMap, "a", namespace="default", uid="another")
    assert caught.value.reason == "Conflict"
    await server.client.delete(core_v1.ConfigMap, "a", namespace="default", uid=created.metadata.uid or "")


async def test_both_kinds_of_events_are_the_same_objects(server: Server) -> None:
    event = {
        "metadata": {"name": "e1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"},
        "reason": "Tested",
        "message": "hello",
        "type": "Normal",
    }
    await server.call("POST", "/api/v1/namespaces/default/events", event)
    found = await server.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events/e1")
    assert (found["apiVersion"], found["note"], found["regarding"]["name"]) == ("events.k8s.io/v1", "hello", "a")
    listed = await server.call(
        "GET", "/api/v1/namespaces/default/events", query=[("fieldSelector", "involvedObject.name=a")]
    )
    assert [e["message"] for e in listed["items"]] == ["hello"]


async def test_a_node_brings_its_status_along(server: Server) -> None:
    node = {"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4"}}}
    assert (await server.call("POST", "/api/v1/nodes", node))["status"]["capacity"] == {"cpu": "4"}
    changed = await server.call("PUT", "/api/v1/nodes/n", {"metadata": {"name": "n", "labels": {"a": "b"}}})
    assert (changed["metadata"]["labels"], changed["status"]["capacity"]) == ({"a": "b"}, {"cpu": "4"})


async def test_metadata_that_has_become_empty_is_gone(server: Server) -> None:
    await server.call("POST", CONFIG_MAPS, {"metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": []}})
    merge = {"content_type": "application/merge-patch+json"}
    for query in ([("dryRun", "All")], []):
        off = {"metadata": {"labels": {"x": None}}}
        found = await server.call("PATCH", f"{CONFIG_MAPS}/a", off, query=query, **merge)
        assert {"labels", "finalizers"}.isdisjoint(found["metadata"])
