from __future__ import annotations

import time
from typing import Any

from kube import times
from tests.control.api.server_under_test import CONFIG_MAPS, PODS, Server, config_map, pod

MERGE = "application/merge-patch+json"


async def bound_pod(server: Server, name: str, **metadata: Any) -> None:
    await server.call("POST", PODS, pod(name, **metadata))
    binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}}
    await server.call("POST", f"{PODS}/{name}/binding", binding)


async def test_what_nothing_keeps_goes_at_once(server: Server) -> None:
    created = await server.call("POST", CONFIG_MAPS, config_map("a"))
    found = await server.call("DELETE", f"{CONFIG_MAPS}/a")
    assert (found["kind"], found["status"]) == ("Status", "Success")
    assert found["details"] == {"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}
    assert (await server.error("DELETE", f"{CONFIG_MAPS}/a"))["reason"] == "NotFound"


async def test_a_finalizer_keeps_an_object_until_it_is_removed(server: Server) -> None:
    wanted = config_map("a")
    wanted["metadata"]["finalizers"] = ["example.com/wait"]
    await server.call("POST", CONFIG_MAPS, wanted)
    found = await server.call("DELETE", f"{CONFIG_MAPS}/a")
    assert found["metadata"]["deletionTimestamp"]
    assert found["metadata"]["deletionGracePeriodSeconds"] == 0
    again = await server.call("DELETE", f"{CONFIG_MAPS}/a")
    assert again == found
    error = await server.error(
        "PATCH",
        f"{CONFIG_MAPS}/a",
        {"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}},
        content_type=MERGE,
    )
    assert (error["code"], error["details"]["causes"][0]["field"]) == (422, "metadata.finalizers")
    await server.call("PATCH", f"{CONFIG_MAPS}/a", {"metadata": {"finalizers": None}}, content_type=MERGE)
    assert (await server.error("GET", f"{CONFIG_MAPS}/a"))["code"] == 404


async def test_a_pod_waits_for_its_node(server: Server) -> None:
    await bound_pod(server, "a")
    found = await server.call("DELETE", f"{PODS}/a")
    assert found["metadata"]["deletionGracePeriodSeconds"] == 30
    longer = await server.call("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 60})
    assert longer == found
    shorter = await server.call("DELETE", f"{PODS}/a", query=[("gracePeriodSeconds", "5")])
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    assert shorter["metadata"]["deletionTimestamp"] < found["metadata"]["deletionTimestamp"]
    assert (await server.call("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 0}))["status"] == "Success"
    assert (await server.error("GET", f"{PODS}/a"))["code"] == 404


async def test_a_pod_without_a_node_goes_at_once(server: Server) -> None:
    await server.call("POST", PODS, pod("a"))
    assert (await server.call("DELETE", f"{PODS}/a"))["kind"] == "Status"


async def test_propagation_policies_become_finalizers(server: Server) -> None:
    for policy, finalizer in (("Orphan", "orphan"), ("Foreground", "foregroundDeletion")):
        await server.call("POST", CONFIG_MAPS, config_map("a"))
        found = await server.call("DELETE", f"{CONFIG_MAPS}/a", {"propagationPolicy": policy})
        assert found["metadata"]["finalizers"] == [finalizer]
        await server.call("PATCH", f"{CONFIG_MAPS}/a", {"metadata": {"finalizers": []}}, content_type=MERGE)
    await server.call("POST", CONFIG_MAPS, config_map("a"))
    found = await server.call("DELETE", f"{CONFIG_MAPS}/a", {"propagationPolicy": "Background"})
    assert found["status"] == "Success"


async def test_preconditions(server: Server) -> None:
    created = await server.call("POST", CONFIG_MAPS, config_map("a"))
    version = created["metadata"]["resourceVersion"]
    for wrong in ({"uid": "another"}, {"resourceVersion": "1"}):
        error = await server.error("DELETE", f"{CONFIG_MAPS}/a", {"preconditions": wrong})
        assert (error["code"], error["reason"]) == (409, "Conflict")
        assert "Precondition failed" in error["message"]
    await server.call("DELETE", f"{CONFIG_MAPS}/a", {"preconditions": {"resourceVersion": version}})


async def test_a_collection_is_deleted_by_selector(server: Server) -> None:
    for name, group in (("a", "x"), ("b", "x"), ("c", "y")):
        wanted = config_map(name)
        wanted["metadata"]["labels"] = {"group": group}
        await server.call("POST", CONFIG_MAPS, wanted)
    found = await server.call("DELETE", CONFIG_MAPS, query=[("labelSelector", "group=x")])
    assert [item["metadata"]["name"] for item in found["items"]] == ["a", "b"]
    left = await server.call("GET", CONFIG_MAPS)
    assert [item["metadata"]["name"] for item in left["items"]] == ["c"]


async def test_wrong_options(server: Server) -> None:
    await server.call("POST", CONFIG_MAPS, config_map("a"))
    for options in (
        {"propagationPolicy": "Sometimes"},
        {"propagationPolicy": "Orphan", "orphanDependents": True},
        {"gracePeriodSeconds": "soon"},
        {"dryRun": ["Some"]},
    ):
        error = await server.error("DELETE", f"{CONFIG_MAPS}/a", options)
        assert (error["code"], error["reason"]) == (422, "Invalid")
        assert error["details"]["causes"][0]["field"] in options


async def test_namespaces_that_a_cluster_needs_stay(server: Server) -> None:
    error = await server.error("DELETE", "/api/v1/namespaces/default")
    assert (error["code"], error["reason"]) == (403, "Forbidden")


async def test_a_grace_period_of_ages_does_not_make_a_pod_undeletable(server: Server) -> None:
    obj = pod("a")
    obj["spec"] |= {"nodeName": "n", "terminationGracePeriodSeconds": 2**62}
    await server.call("POST", PODS, obj)
    found = await server.call("DELETE", f"{PODS}/a")
    assert found["metadata"]["deletionTimestamp"].startswith("9999-")
    found = await server.call("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 5})
    assert found["metadata"]["deletionGracePeriodSeconds"] == 5
    assert abs(times.parse(found["metadata"]["deletionTimestamp"]) - time.time()) < 60
    assert (await server.call("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 0}))["status"] == "Success"
