from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from control.api.continue_token import CURRENT, ContinueToken
from tests.control.api.server_under_test import CONFIG_MAPS, PODS, Server, config_map, pod, running

MERGE = "application/merge-patch+json"


def names(found: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in found["items"]]


async def fill(server: Server, count: int) -> list[str]:
    for n in range(count):
        await server.call("POST", CONFIG_MAPS, config_map(f"c{n:02}"))
    return [f"c{n:02}" for n in range(count)]


async def test_a_list_tells_what_it_is(server: Server) -> None:
    await fill(server, 2)
    found = await server.call("GET", CONFIG_MAPS)
    assert (found["kind"], found["apiVersion"]) == ("ConfigMapList", "v1")
    assert found["metadata"]["resourceVersion"] == str(await server.store.revision())
    assert names(found) == ["c00", "c01"]
    assert names(await server.call("GET", "/api/v1/configmaps")) == ["c00", "c01"]


async def test_namespaces_with_a_common_beginning_are_apart(server: Server) -> None:
    for namespace in ("a", "a-b", "ab"):
        await server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        await server.call("POST", f"/api/v1/namespaces/{namespace}/configmaps", config_map(f"in-{namespace}"))
    for namespace in ("a", "a-b", "ab"):
        found = await server.call("GET", f"/api/v1/namespaces/{namespace}/configmaps")
        assert names(found) == [f"in-{namespace}"]


async def test_pages_show_one_moment(server: Server) -> None:
    expected = await fill(server, 10)
    first = await server.call("GET", CONFIG_MAPS, query=[("limit", "4")])
    assert (names(first), first["metadata"]["remainingItemCount"]) == (expected[:4], 6)
    token = first["metadata"]["continue"]
    unchanged = await server.call("GET", CONFIG_MAPS, query=[("limit", "4"), ("continue", token)])
    await server.call("POST", CONFIG_MAPS, config_map("c04b"))
    await server.call("DELETE", f"{CONFIG_MAPS}/c05")
    second = await server.call("GET", CONFIG_MAPS, query=[("limit", "4"), ("continue", token)])
    assert second == unchanged
    assert names(second) == expected[4:8]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    token = second["metadata"]["continue"]
    third = await server.call("GET", CONFIG_MAPS, query=[("limit", "4"), ("continue", token)])
    assert names(third) == expected[8:]
    assert "continue" not in third["metadata"]


async def test_pages_of_selected_objects(server: Server) -> None:
    await fill(server, 12)
    for n in range(0, 12, 2):
        await server.call(
            "PATCH", f"{CONFIG_MAPS}/c{n:02}", {"metadata": {"labels": {"even": "yes"}}}, content_type=MERGE
        )
    for changed in (False, True):
        found, query = list[str](), [("limit", "2"), ("labelSelector", "even=yes")]
        token = ""
        while True:
            page = await server.call("GET", CONFIG_MAPS, query=[*query, *([("continue", token)] if token else [])])
            assert "remainingItemCount" not in page["metadata"]
            found += names(page)
            token = page["metadata"].get("continue", "")
            if not token:
                break
            if changed:
                await server.call("POST", CONFIG_MAPS, {"metadata": {"generateName": "z", "labels": {"even": "yes"}}})
        assert found == [f"c{n:02}" for n in range(0, 12, 2)]


async def test_a_forgotten_moment_is_410_with_a_way_on(server: Server) -> None:
    expected = await fill(server, 6)
    first = await server.call("GET", CONFIG_MAPS, query=[("limit", "2")])
    await server.call("POST", CONFIG_MAPS, config_map("c99"))
    await server.store.compact(await server.store.revision())
    query = [("limit", "2"), ("continue", first["metadata"]["continue"])]
    error = await server.error("GET", CONFIG_MAPS, query=query)
    assert (error["code"], error["reason"]) == (410, "Expired")
    fresh = error["metadata"]["continue"]
    assert ContinueToken.decode(fresh).revision == CURRENT
    rest = await server.call("GET", CONFIG_MAPS, query=[("continue", fresh)])
    assert names(rest) == [*expected[2:], "c99"]
    error = await server.error("GET", CONFIG_MAPS, query=[("continue", "not a token")])
    assert (error["code"], error["reason"]) == (400, "BadRequest")


async def test_resource_versions(server: Server) -> None:
    await fill(server, 1)
    revision = (await server.call("GET", CONFIG_MAPS))["metadata"]["resourceVersion"]
    await server.call("POST", CONFIG_MAPS, config_map("later"))
    exact = await server.call(
        "GET", CONFIG_MAPS, query=[("resourceVersion", revision), ("resourceVersionMatch", "Exact")]
    )
    assert (names(exact), exact["metadata"]["resourceVersion"]) == (["c00"], revision)
    newer = await server.call(
        "GET", CONFIG_MAPS, query=[("resourceVersion", revision), ("resourceVersionMatch", "NotOlderThan")]
    )
    assert names(newer) == ["c00", "later"]
    assert names(await server.call("GET", CONFIG_MAPS, query=[("resourceVersion", "0")])) == ["c00", "later"]
    error = await server.error("GET", CONFIG_MAPS, query=[("resourceVersionMatch", "Exact")])
    assert (error["code"], error["details"]["causes"][0]["field"]) == (422, "resourceVersionMatch")
    error = await server.error("GET", CONFIG_MAPS, query=[("resourceVersion", "new")])
    assert error["code"] == 400


async def test_a_revision_from_the_future_is_waited_for_and_then_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.api.watch_cache.FUTURE_SECONDS", 0.05)
    error = await server.error("GET", f"{CONFIG_MAPS}/a", query=[("resourceVersion", "99999")])
    assert (error["code"], error["reason"]) == (504, "Timeout")
    assert error["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_selectors(server: Server) -> None:
    await server.call("POST", PODS, pod("a", labels={"app": "web", "tier": "front"}))
    await server.call("POST", PODS, pod("b", labels={"app": "web"}))
    await server.call("POST", PODS, pod("c"))
    for selector, expected in (
        ("app=web", ["a", "b"]),
        ("app=web,tier", ["a"]),
        ("app!=web", ["c"]),
        ("app in (web, db),tier notin (front)", ["b"]),
        ("!app", ["c"]),
    ):
        assert names(await server.call("GET", PODS, query=[("labelSelector", selector)])) == expected, selector
    for selector, expected in (
        ("metadata.name=b", ["b"]),
        ("metadata.name!=b", ["a", "c"]),
        ("spec.nodeName=", ["a", "b", "c"]),
        ("status.phase=Running", []),
    ):
        assert names(await server.call("GET", PODS, query=[("fieldSelector", selector)])) == expected, selector
    error = await server.error("GET", PODS, query=[("fieldSelector", "spec.colour=red")])
    assert error["code"] == 400
    assert "field label not supported: spec.colour" in error["message"]
    assert (await server.error("GET", PODS, query=[("labelSelector", "a in (")]))["code"] == 400


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "store.db") as server:
        expected = await fill(server, 5)
        await server.call("DELETE", f"{CONFIG_MAPS}/c03")
        before = await server.call("GET", CONFIG_MAPS)
    async with running(tmp_path / "store.db", namespace="") as server:
        after = await server.call("GET", CONFIG_MAPS)
        assert names(after) == [name for name in expected if name != "c03"]
        assert after["items"] == before["items"]
