"""Several masters on one etcd, all of them real processes: what holds while they work, die and lose their store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube import join, kubeconfig, objects, pki
from kube.client import Client
from kube.clock import SystemClock
from kube.informer import Delta, Informer
from kube.models import apps_v1, coordination_v1, core_v1, discovery_v1, meta_v1
from kube.status import ApiError, is_conflict
from kube.transport import HTTPTransport
from provision import bootstrap_token
from tests import etcd
from tests.control import master_process
from tests.control.master_process import MasterProcess
from tests.ports import free_port

pytestmark = pytest.mark.skipif(etcd.missing() != "", reason=etcd.missing())

ROLES = "api,scheduler,controllers"
SHARED = ("ca.crt", "ca.key", "sa.key", "sa.pub")  # of the folder pki: the same on all masters
LEADER_LEASES = ("kube-controller-manager", "kube-scheduler")


class Masters:
    """Masters by number, from 1, each with a data directory of its own and the shared files in it."""

    def __init__(self, folder: Path, server: etcd.EtcdServer) -> None:
        self._folder = folder
        self._arguments = ["--store", "etcd", "--etcd-endpoints", server.url, "--etcd-ca", str(server.ca)]
        self._arguments += ["--etcd-cert", str(server.cert), "--etcd-key", str(server.key)]
        self.running: dict[int, MasterProcess] = {}
        self._transports: list[HTTPTransport] = []

    def start(self, number: int, *, ready: bool = True, at_its_address: bool = False) -> MasterProcess:
        """Start one; its pods are told the address 192.0.2.NUMBER, where it is if `at_its_address`."""
        data = self._folder / f"master-{number}"
        first = next(iter(self.running.values()), None)
        if first is not None and not data.exists():
            (data / "pki").mkdir(parents=True)
            for name in SHARED:
                shutil.copy2(first.data_dir / "pki" / name, data / "pki" / name)
        arguments = [*self._arguments, "--advertise-address", f"192.0.2.{number}"]
        if at_its_address:
            arguments += ["--bind-address", f"192.0.2.{number}"]
            self.running[number] = master_process.launch(data, 6443, *arguments, roles=ROLES)
        elif ready:
            self.running[number] = master_process.start(data, *arguments, roles=ROLES)
        else:
            self.running[number] = master_process.launch(data, free_port(), *arguments, roles=ROLES)
        return self.running[number]

    def client(self, number: int) -> Client:
        """A client of the administrator's at one master."""
        transport = HTTPTransport(kubeconfig.connect(self.running[number].kubeconfig))
        self._transports.append(transport)
        return Client(transport)

    def logs(self) -> str:
        return "\n".join(f"--- {n}\n{m.log.read_text()[-3000:]}" for n, m in self.running.items())

    async def close(self) -> None:
        while self._transports:
            await self._transports.pop().close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Masters, etcd.EtcdServer]]:
    """Three masters and their etcd, for the tests after which all are as well as before."""
    folder = tmp_path_factory.mktemp("masters")
    with etcd.etcd(folder / "etcd") as server:
        found = Masters(folder, server)
        try:
            for number in (1, 2, 3):
                found.start(number)
            yield found, server
        finally:
            for master in found.running.values():
                master.stop()


@pytest.fixture
async def three(shared: tuple[Masters, etcd.EtcdServer]) -> AsyncIterator[Masters]:
    masters, _ = shared
    yield masters
    await masters.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[etcd.EtcdServer]:
    with etcd.etcd(tmp_path / "etcd") as found:
        yield found


@pytest.fixture
async def masters(tmp_path: Path, server: etcd.EtcdServer) -> AsyncIterator[Masters]:
    found = Masters(tmp_path, server)
    try:
        yield found
    finally:
        await found.close()
        for master in found.running.values():
            master.stop()


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float, masters: Masters) -> float:
    """How long it took until `check` held. It only reads."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() < begun + seconds:
        with contextlib.suppress(ApiError, ConnectionError, TimeoutError):
            async with asyncio.timeout(5):
                if await check():
                    return loop.time() - begun
        await asyncio.sleep(0.1)
    raise AssertionError(f"not within {seconds} s\n{masters.logs()}")


def config_map(name: str, **data: str) -> core_v1.ConfigMap:
    return core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name=name, namespace="default"), data=data)


async def test_a_write_on_one_is_seen_on_all(three: Masters) -> None:
    one, two, last = (three.client(number) for number in (1, 2, 3))
    seen: list[tuple[str, str]] = []
    informer = Informer(two, core_v1.ConfigMap, namespace="default")
    informer.add_handler(lambda delta: seen.append((delta.type, (delta.object.data or {}).get("n", ""))))
    following = asyncio.create_task(informer.run())
    try:
        await informer.wait_synced(10)
        seen.clear()
        # each step by another master than the one before, at once: none of them may work on what it remembers
        for n in range(30):
            writer, reader, changer = (one, two, last)[n % 3], (two, last, one)[n % 3], (last, one, two)[n % 3]
            name = f"m{n}"
            created = await writer.create(config_map(name, n=str(n)))
            assert await reader.get(core_v1.ConfigMap, name, namespace="default") == created
            mine = objects.copy(created)
            mine.data = {"n": f"{n} again"}
            changed = await changer.update(mine)
            await writer.patch(core_v1.ConfigMap, name, {"data": {"n": f"{n} last"}}, namespace="default")
            with pytest.raises(ApiError) as caught:
                await reader.update(changed)
            assert is_conflict(caught.value)
            await reader.delete(core_v1.ConfigMap, name, namespace="default")
            names = [o.metadata.name for o in (await changer.list(core_v1.ConfigMap, namespace="default")).items]
            assert name not in names

        async def all_seen() -> bool:
            return len(seen) >= 120

        await eventually(all_seen, 20, three)
        expected = []
        for n in range(30):
            expected += [("ADDED", f"{n}"), ("MODIFIED", f"{n} again"), ("MODIFIED", f"{n} last")]
            expected += [("DELETED", f"{n} last")]
        assert seen == expected
        # a namespace of one master takes objects of another at once
        for n in range(5):
            await one.create(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name=f"ns{n}")))
            wanted = config_map("a")
            wanted.metadata.namespace = f"ns{n}"
            await two.create(wanted)
    finally:
        following.cancel()
        await asyncio.wait([following])


async def test_twenty_clients_change_one_object_over_all_masters(three: Masters) -> None:
    await three.client(1).create(config_map("counter", n="0"))
    successes = conflicts = 0

    async def increment(client: Client) -> None:
        nonlocal successes, conflicts
        for _ in range(50):
            found = await client.get(core_v1.ConfigMap, "counter", namespace="default")
            mine = objects.copy(found)
            mine.data = {"n": str(int((found.data or {})["n"]) + 1)}
            try:
                await client.update(mine)
                successes += 1
            except ApiError as error:
                if not is_conflict(error):
                    raise
                conflicts += 1

    async with asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(increment(three.client(1 + n % 3)))
    assert successes + conflicts == 1000
    for number in (1, 2, 3):
        found = await three.client(number).get(core_v1.ConfigMap, "counter", namespace="default")
        assert int((found.data or {})["n"]) == successes > 0


async def test_no_address_is_allotted_twice(three: Masters) -> None:
    """Three masters allot at the same time: one address that all want, and any addresses and ports."""
    clients = [three.client(1 + n % 3) for n in range(6)]

    async def create(n: int, **fields: Any) -> core_v1.Service | ApiError:
        spec = core_v1.ServiceSpec(ports=[core_v1.ServicePort(port=80)], **fields)
        wanted = core_v1.Service(metadata=meta_v1.ObjectMeta(generateName="s-", namespace="default"), spec=spec)
        try:
            return await clients[n].create(wanted)
        except ApiError as error:
            return error

    for address in ("10.96.9.1", "10.96.9.2", "10.96.9.3"):
        results = await asyncio.gather(*(create(n, clusterIP=address) for n in range(6)))
        won = [found for found in results if isinstance(found, core_v1.Service)]
        lost = [found for found in results if isinstance(found, ApiError)]
        assert len(won) == 1, results
        assert {error.code for error in lost} == {422}
        # free again at once, at whichever master
        await clients[1].delete(core_v1.Service, objects.name(won[0]), namespace="default")
        again = await create(2, clusterIP=address)
        assert isinstance(again, core_v1.Service), again
    made = await asyncio.gather(*(create(n % 6, type="NodePort") for n in range(60)))
    assert all(isinstance(found, core_v1.Service) for found in made)
    listed = (await clients[0].list(core_v1.Service, namespace="default")).items
    addresses = [s.spec.clusterIP for s in listed if s.spec]
    ports = [port.nodePort for s in listed if s.spec for port in s.spec.ports or () if port.nodePort]
    assert len(addresses) == len(set(addresses)) == 64
    assert len(ports) == len(set(ports)) == 60


async def test_masters_outlive_their_etcd(three: Masters, shared: tuple[Masters, etcd.EtcdServer]) -> None:
    masters, server = three, shared[1]
    one, two = masters.client(1), masters.client(2)
    seen: list[str] = []
    informer = Informer(two, core_v1.ConfigMap, namespace="default")
    informer.add_handler(lambda delta: seen.append(objects.name(delta.object)))
    following = asyncio.create_task(informer.run())
    written: list[str] = []
    try:
        await informer.wait_synced(10)
        seen.clear()
        for outage in ("kill", "pause"):
            name = f"before-{outage}"
            await one.create(config_map(name))
            written.append(name)
            server.kill() if outage == "kill" else server.pause()
            if outage == "kill":

                async def not_ready() -> bool:
                    status, body = await asyncio.to_thread(masters.running[1].get, "/readyz")
                    return status == 503 and b"[-]etcd failed" in body

                await eventually(not_ready, 12, masters)
                assert masters.running[1].get("/livez")[0] == 200
                await asyncio.to_thread(server.start)
            else:
                await asyncio.sleep(2)
                server.resume()

            async def ready() -> bool:
                answers = [await asyncio.to_thread(master.get, "/readyz") for master in masters.running.values()]
                return all(status == 200 for status, _ in answers)

            await eventually(ready, 15, masters)
            name = f"after-{outage}"
            await one.create(config_map(name))
            written.append(name)

            async def told() -> bool:
                return [name for name in seen if name in written] == written

            await eventually(told, 20, masters)
    finally:
        following.cancel()
        await asyncio.wait([following])


async def endpoints(client: Client) -> tuple[list[str], list[str]]:
    """The addresses of the Service `kubernetes`: of its Endpoints and of its EndpointSlice."""
    found = await client.get(core_v1.Endpoints, "kubernetes", namespace="default")
    endpoint_slice = await client.get(discovery_v1.EndpointSlice, "kubernetes", namespace="default")
    listed = [a.ip for subset in found.subsets or () for a in subset.addresses or ()]
    return listed, [a for endpoint in endpoint_slice.endpoints for a in endpoint.addresses]


async def leaders(client: Client) -> set[str]:
    """Who holds the Leases."""
    leases = [await client.get(coordination_v1.Lease, name, namespace="kube-system") for name in LEADER_LEASES]
    return {(lease.spec.holderIdentity if lease.spec else "") or "" for lease in leases}


async def test_a_leader_that_stops_hands_over_at_once(masters: Masters) -> None:
    masters.start(1)  # alone at first, so it leads
    one = masters.client(1)

    async def led() -> bool:
        found = await leaders(one)
        return len(found) == 1 and "" not in found

    await eventually(led, 20, masters)
    first = await leaders(one)
    masters.start(2)
    two = masters.client(2)
    assert await leaders(two) == first

    async def both() -> bool:
        return await endpoints(one) == await endpoints(two) == (["192.0.2.1", "192.0.2.2"],) * 2

    await eventually(both, 20, masters)
    assert masters.running[1].stop() == 0
    assert await endpoints(two) == (["192.0.2.2"],) * 2

    async def handed_over() -> bool:
        now = await leaders(two)
        return not now & first and "" not in now

    await eventually(handed_over, 10, masters)  # before the Leases would end by themselves


@contextlib.asynccontextmanager
async def hollow_nodes(
    masters: Masters, number: int, folder: Path, count: int, *, host: str = "127.0.0.1"
) -> AsyncIterator[Path]:
    """Agents without containers, at one master; where their data is."""
    client, master = masters.client(number), masters.running[number]
    token = await bootstrap_token.create(client, clock=SystemClock(), description="test")
    ca = pki.parse_cert((master.data_dir / "pki" / "ca.crt").read_bytes(), source="ca.crt")
    path = folder / "join.json"
    url = f"https://{host}:{master.port}"
    join.write(path, join.JoinConfig(server=url, token=token.text, ca_cert_hashes=(pki.ca_pin(ca),)))
    command = [sys.executable, "-m", "agent", "--data-dir", str(folder / "agent"), "--join", str(path)]
    command += ["--node-name", "hollow", "--runtime", "hollow", "--hollow-nodes", str(count)]
    command += ["--node-ip", "127.0.0.1", "--kubelet-port", "0"]
    with (folder / "agent.log").open("wb") as log:
        agent = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)

    async def ready() -> bool:
        nodes = (await client.list(core_v1.Node)).items
        conditions = [objects.condition(node.status.conditions, "Ready") for node in nodes if node.status]
        return len(conditions) == count and all(c is not None and c.status == "True" for c in conditions)

    try:
        await eventually(ready, 30, masters)
        yield folder / "agent"
    finally:
        if agent.returncode is None:
            agent.terminate()
        try:
            async with asyncio.timeout(10):
                await agent.wait()
        except TimeoutError:
            agent.kill()
            await agent.wait()


def deployment(name: str, replicas: int) -> apps_v1.Deployment:
    labels = {"app": name}
    container = core_v1.Container(name="main", image="ktool.test/none:1", imagePullPolicy="IfNotPresent")
    return apps_v1.Deployment(
        metadata=meta_v1.ObjectMeta(name=name, namespace="default"),
        spec=apps_v1.DeploymentSpec(
            replicas=replicas,
            selector=meta_v1.LabelSelector(matchLabels=labels),
            template=core_v1.PodTemplateSpec(
                metadata=meta_v1.ObjectMeta(labels=labels), spec=core_v1.PodSpec(containers=[container])
            ),
        ),
    )


async def test_a_leader_killed_in_a_roll_out_is_replaced(masters: Masters, tmp_path: Path) -> None:
    replicas = 60
    masters.start(1)  # alone at first, so it leads
    masters.start(2)
    client = masters.client(2)
    bound: dict[str, set[str]] = {}
    names: set[str] = set()

    def watch_pod(delta: Delta[core_v1.Pod]) -> None:
        names.add(objects.name(delta.object))
        if delta.object.spec and delta.object.spec.nodeName:
            bound.setdefault(objects.uid(delta.object), set()).add(delta.object.spec.nodeName)

    pods = Informer(client, core_v1.Pod, namespace="default")
    pods.add_handler(watch_pod)
    following = asyncio.create_task(pods.run())
    acknowledged: list[str] = []

    async def write(at: Client, writer: int) -> None:
        for n in range(10_000):
            try:
                await at.create(config_map(f"w{writer}-{n}"))
            except (ApiError, ConnectionError, TimeoutError):
                return
            acknowledged.append(f"w{writer}-{n}")

    async with contextlib.AsyncExitStack() as stack:
        await pods.wait_synced(10)
        await stack.enter_async_context(hollow_nodes(masters, 2, tmp_path, 5))
        writing = [asyncio.create_task(write(masters.client(1), n)) for n in range(2)]
        await client.create(deployment("web", replicas))

        async def some_bound() -> bool:
            return len(bound) >= 3

        await eventually(some_bound, 20, masters)
        masters.running[1].kill()
        at_kill = len(bound)
        await asyncio.wait(writing)

        async def all_running() -> bool:
            running = [p for p in pods.list() if p.status and p.status.phase == "Running"]
            return len(running) == replicas

        took = await eventually(all_running, 15 + 2 + 10, masters)
        assert at_kill < replicas, "the roll-out was over before the leader was killed"
        assert took > 0
        assert [len(nodes) for nodes in bound.values()] == [1] * replicas  # each once, and no pod too many
        assert len(names) == replicas

        async def gone_from_endpoints() -> bool:
            return await endpoints(client) == (["192.0.2.2"],) * 2

        await eventually(gone_from_endpoints, 15 + 5 + 3, masters)
        stored = {o.metadata.name for o in (await client.list(core_v1.ConfigMap, namespace="default")).items}
        assert acknowledged
        assert set(acknowledged) <= stored
    following.cancel()
    await asyncio.wait([following])


@pytest.fixture
def addresses() -> Iterator[None]:
    """The masters' addresses, on this machine."""
    if os.environ.get("KTOOL_NETNS") != "1":
        pytest.skip("runs in the namespace of `make test` (scripts/in-netns)")
    wanted = [f"192.0.2.{number}/32" for number in (1, 2)]
    for address in wanted:
        subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)
    yield
    for address in wanted:
        subprocess.run(["ip", "address", "delete", address, "dev", "lo"], check=True)


async def test_nodes_go_on_with_another_master(addresses: None, masters: Masters, tmp_path: Path) -> None:
    """Without a load balancer: they have joined by one master, and that is killed."""
    for number in (1, 2):
        master = masters.start(number, at_its_address=True)
        for _ in range(200):
            if master.kubeconfig.exists():
                break
            await asyncio.sleep(0.1)
        client = masters.client(number)

        async def ready(client: Client = client) -> bool:
            return (await client.raw("GET", "/readyz")).status == 200

        await eventually(ready, 20, masters)
    async with hollow_nodes(masters, 1, tmp_path, 2, host="192.0.2.1") as agent:

        async def noted() -> bool:
            found = [path.read_text() for path in agent.rglob("masters.json")]
            return found == ['["https://192.0.2.1:6443","https://192.0.2.2:6443"]'] * 2

        await eventually(noted, 15, masters)
        client = masters.client(2)
        before = await renewals(client)
        assert len(before) == 2
        masters.running[1].kill()

        async def renewed() -> bool:
            now = await renewals(client)
            return all(now[name] > stamp for name, stamp in before.items())

        await eventually(renewed, 40, masters)
        # and what is to run on them comes to them
        await client.create(deployment("web", 4))

        async def runs() -> bool:
            pods = (await client.list(core_v1.Pod, namespace="default")).items
            return [p.status.phase for p in pods if p.status] == ["Running"] * 4

        await eventually(runs, 40, masters)


async def renewals(client: Client) -> dict[str, str]:
    """When the nodes have renewed their leases."""
    found = (await client.list(coordination_v1.Lease, namespace="kube-node-lease")).items
    return {objects.name(lease): (lease.spec.renewTime if lease.spec else "") or "" for lease in found}


async def test_a_master_waits_for_its_etcd(masters: Masters, server: etcd.EtcdServer) -> None:
    server.kill()
    master = masters.start(1, ready=False)

    async def says_so() -> bool:
        status, body = await asyncio.to_thread(master.get, "/readyz")
        return status == 503 and b"[-]etcd failed" in body and b"[-]watch-cache failed" in body

    for _ in range(150):
        with contextlib.suppress(OSError):
            if (master.data_dir / "pki" / "ca.crt").exists() and await says_so():
                break
        await asyncio.sleep(0.1)
    assert await says_so(), masters.logs()
    assert (await asyncio.to_thread(master.get, "/api/v1/namespaces"))[0] == 503
    assert (await asyncio.to_thread(master.get, "/livez"))[0] == 200
    await asyncio.to_thread(server.start)

    async def ready() -> bool:
        return (await asyncio.to_thread(master.get, "/readyz"))[0] == 200

    await eventually(ready, 15, masters)
