"""A real master over HTTPS on loopback, asked by our client, by the official one, and by hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kube import kubeconfig, objects, status
from kube.client import Client, PatchType
from kube.models import core_v1, meta_v1
from kube.status import ApiError
from kube.transport import HTTPTransport
from tests.control import master_process
from tests.control.master_process import MasterProcess

CLIENTS = 20
CHANGES = 50


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MasterProcess]:
    found = master_process.start(tmp_path_factory.mktemp("master") / "data")
    yield found
    assert found.stop() == 0


@asynccontextmanager
async def client_of(master: MasterProcess) -> AsyncIterator[Client]:
    transport = HTTPTransport(kubeconfig.connect(master.kubeconfig))
    try:
        yield Client(transport)
    finally:
        await transport.close()


def config_map(name: str, **data: str) -> core_v1.ConfigMap:
    return core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name=name, namespace="default"), data=data)


async def test_concurrent_clients_swap_one_object_and_nothing_is_lost(master: MasterProcess) -> None:
    async with client_of(master) as client:
        await client.create(config_map("counter", n="0"))
        conflicts = 0

        async def count() -> int:
            nonlocal conflicts
            done = 0
            async with client_of(master) as own:
                while done < CHANGES:
                    seen = await own.get(core_v1.ConfigMap, "counter", namespace="default")
                    wanted = objects.copy(seen)
                    wanted.data["n"] = str(int(seen.data["n"]) + 1)
                    try:
                        await own.update(wanted)
                        done += 1
                    except ApiError as error:
                        if not status.is_conflict(error):
                            raise
                        conflicts += 1
            return done

        async with asyncio.TaskGroup() as group:
            counting = [group.create_task(count()) for _ in range(CLIENTS)]
        assert sum(task.result() for task in counting) == CLIENTS * CHANGES
        final = await client.get(core_v1.ConfigMap, "counter", namespace="default")
        assert final.data["n"] == str(CLIENTS * CHANGES)
        assert conflicts > 0


async def test_a_watch_over_the_network(master: MasterProcess) -> None:
    async with client_of(master) as client:
        found = await client.list(core_v1.ConfigMap, namespace="default")
        events = client.watch(core_v1.ConfigMap, namespace="default", resource_version=found.resource_version)
        async with aclosing(events), asyncio.timeout(10):
            waiting = asyncio.create_task(anext(events))
            await asyncio.sleep(0)
            await client.create(config_map("watched"))
            event = await waiting
            assert (event.type, event.object.metadata.name) == ("ADDED", "watched")
            patch = {"data": {"x": "1"}}
            await client.patch(core_v1.ConfigMap, "watched", patch, namespace="default", patch_type=PatchType.MERGE)
            assert (await anext(events)).object.data == {"x": "1"}


async def test_a_watch_that_is_given_up_is_forgotten(master: MasterProcess) -> None:
    async with client_of(master) as client:

        async def eventually_watched(wanted: bool) -> None:
            for _ in range(250):
                text = (await client.raw("GET", "/metrics")).body.decode()
                if ('apiserver_longrunning_requests{resource="secrets"}' in text) is wanted:
                    return
                await asyncio.sleep(0.02)
            raise AssertionError(f"watched is not {wanted}")

        async with aclosing(client.watch(core_v1.Secret)) as events:
            waiting = asyncio.create_task(anext(events))
            await eventually_watched(True)
            waiting.cancel()
            await asyncio.wait([waiting])
        await eventually_watched(False)


async def test_a_body_that_is_too_large_is_refused_without_reading_it(master: MasterProcess) -> None:
    async with client_of(master) as client:
        with pytest.raises(ApiError) as caught:
            await client.create(config_map("large", x="y" * (4 << 20)))
        assert (caught.value.code, caught.value.reason) == (413, "RequestEntityTooLarge")
        assert (await client.get(core_v1.Namespace, "default")).metadata.name == "default"


async def test_credentials(master: MasterProcess) -> None:
    connection = kubeconfig.connect(master.kubeconfig)
    stranger = HTTPTransport(kubeconfig.Connection(connection.server, connection.ca_data))
    with pytest.raises(ApiError) as caught:
        await Client(stranger).list(core_v1.Secret)
    assert (caught.value.code, caught.value.reason) == (403, "Forbidden")
    await stranger.close()
    guesser = HTTPTransport(kubeconfig.Connection(connection.server, connection.ca_data, token="a.b.c"))
    with pytest.raises(ApiError) as caught:
        await Client(guesser).list(core_v1.Secret)
    assert (caught.value.code, caught.value.reason) == (401, "Unauthorized")
    await guesser.close()


async def test_impersonation(master: MasterProcess) -> None:
    async with client_of(master) as client:
        as_scheduler = {"impersonate-user": "system:kube-scheduler"}
        await client.raw("GET", "/api/v1/nodes", headers=as_scheduler)
        with pytest.raises(ApiError) as caught:
            await client.raw("GET", "/api/v1/secrets", headers=as_scheduler)
        assert 'User "system:kube-scheduler" cannot list resource "secrets"' in caught.value.message
        with pytest.raises(ApiError) as caught:
            await client.raw("GET", "/api/v1/nodes", headers={"impersonate-group": "system:masters"})
        assert caught.value.code == 400


async def test_odd_spellings_are_understood(master: MasterProcess) -> None:
    connection = kubeconfig.connect(master.kubeconfig)
    transport = HTTPTransport(connection)
    session = transport.session()
    for target in ("/version/", "/api/v1/namespaces/default/", "//api/v1/namespaces", "/api/v1/configmaps?limit=1"):
        async with session.get(f"{connection.server}{target}") as answer:
            assert answer.status == 200, target
            await answer.read()
    async with session.get(f"{connection.server}/api/v1/configmaps?watch=True&timeoutSeconds=1") as answer:
        assert b'"type":"ADDED"' in await answer.read()
    async with session.head(f"{connection.server}/api/v1/namespaces/default") as answer:
        assert answer.status == 200
        assert await answer.read() == b""
    await transport.close()


KEY = "c29tZSBzaXh0ZWVuIGJ5dA=="


async def test_a_websocket_needs_a_subresource_that_takes_it(master: MasterProcess) -> None:
    connection = kubeconfig.connect(master.kubeconfig)
    transport = HTTPTransport(connection)
    # by hand: a refused `ws_connect` closes its connection in its own time, after the test
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY}
    url = f"{connection.server}/api/v1/namespaces/default/pods/x/exec?command=a"
    async with transport.session().get(url, headers=headers) as answer:
        assert answer.status == 404
        assert (await answer.json())["reason"] == "NotFound"
    await transport.close()


def official(master: MasterProcess) -> Any:
    import kubernetes

    return kubernetes.config.new_client_from_config(str(master.kubeconfig))


def test_the_official_client_creates_changes_and_deletes(master: MasterProcess) -> None:
    import kubernetes

    with official(master) as api:
        core, apps = kubernetes.client.CoreV1Api(api), kubernetes.client.AppsV1Api(api)
        assert kubernetes.client.VersionApi(api).get_code().minor == "32"
        body = {"metadata": {"name": "official"}, "data": {"a": "1"}}
        created = core.create_namespaced_config_map("default", body)
        assert created.data == {"a": "1"}
        core.patch_namespaced_config_map("official", "default", {"data": {"b": "2"}})
        created.data = {"c": "3"}
        with pytest.raises(kubernetes.client.ApiException) as caught:
            core.replace_namespaced_config_map("official", "default", created)
        assert (caught.value.status, caught.value.reason) == (409, "Conflict")
        spec = {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "a", "image": "a:1"}]},
            },
        }
        apps.create_namespaced_deployment("default", {"metadata": {"name": "official"}, "spec": spec})
        scaled = apps.patch_namespaced_deployment_scale("official", "default", {"spec": {"replicas": 4}})
        assert scaled.spec.replicas == 4
        assert apps.read_namespaced_deployment("official", "default").spec.replicas == 4
        listed = core.list_namespaced_config_map("default", label_selector="!x", limit=500)
        assert "official" in [m.metadata.name for m in listed.items]
        assert core.delete_namespaced_config_map("official", "default")["status"] == "Success"
        apps.delete_namespaced_deployment("official", "default", propagation_policy="Background")
        groups = [g.name for g in kubernetes.client.ApisApi(api).get_api_versions().groups]
        assert "apps" in groups


def test_the_official_client_watches(master: MasterProcess) -> None:
    import kubernetes

    with official(master) as api:
        core = kubernetes.client.CoreV1Api(api)
        start = core.list_namespaced_config_map("default").metadata.resource_version

        def write() -> None:
            for n in range(20):
                core.create_namespaced_config_map("default", {"metadata": {"name": f"w{n:02}"}})

        writing = threading.Thread(target=write)
        writing.start()
        found: list[str] = []
        watch = kubernetes.watch.Watch()
        for event in watch.stream(
            core.list_namespaced_config_map, "default", resource_version=start, timeout_seconds=30
        ):
            found.append(f"{event['type']} {event['object'].metadata.name}")
            if len(found) == 20:
                watch.stop()
        writing.join()
        assert found == [f"ADDED w{n:02}" for n in range(20)]


def test_the_official_dynamic_client_discovers(master: MasterProcess, tmp_path: Path) -> None:
    from kubernetes import dynamic

    with official(master) as api:
        client = dynamic.DynamicClient(api, cache_file=str(tmp_path / "cache"))
        deployments = client.resources.get(api_version="apps/v1", kind="Deployment")
        assert (deployments.name, deployments.namespaced) == ("deployments", True)
        assert "scale" in deployments.subresources
        config_maps = client.resources.get(api_version="v1", kind="ConfigMap")
        made = config_maps.create(body={"metadata": {"name": "dynamic"}, "data": {"a": "1"}}, namespace="default")
        assert made.data.a == "1"
        config_maps.delete(name="dynamic", namespace="default")
