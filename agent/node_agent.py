"""One node: its identity, client, informers and the roles that run on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from agent import certificates, join, masters, record
from agent.certificates import Renewal
from agent.join import Identity
from agent.kubelet import dns, machine
from agent.kubelet.context import KubeletContext, Volumes
from agent.kubelet.environment import resolve
from agent.kubelet.handlers import Handlers, RealHandlers
from agent.kubelet.images import ImagePuller
from agent.kubelet.kubelet import Kubelet
from agent.kubelet.machine import Hardware
from agent.kubelet.node import NodeKeeper, NodeSettings
from agent.kubelet.pod_status import Host
from agent.kubelet.references import References
from agent.kubelet.status import StatusWriter
from agent.options import AgentOptions
from agent.runtime.runtime import Runtime
from agent.switch_transport import SwitchTransport
from kube import collector, pki
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.events import EventRecorder
from kube.informer import InformerFactory
from kube.models import core_v1

if TYPE_CHECKING:
    from agent.proxy.proxy import Proxy
    from agent.routes.routes import PodRoutes

FLUSH_SECONDS = 2.0

log = logging.getLogger(__name__)


class Place(Struct, frozen=True):
    """Where a node agent lives: its name, its directory, the machine under it."""

    name: str
    data_dir: Path
    hardware: Hardware
    address: str


class NetworkParts(Struct, frozen=True):
    """The roles that look after the node's network, as far as they run here; the kubelet reports how they do."""

    proxy: Proxy | None = None
    routes: PodRoutes | None = None

    def proxy_problem(self) -> str | None:
        """What is wrong with the proxy (empty: nothing); None where it does not run."""
        return None if self.proxy is None else self.proxy.status.error or self.proxy.status.host_error

    def pod_changed(self, pod: core_v1.Pod, status: core_v1.PodStatus | None) -> None:
        """Tell the proxy of a pod of this node, or that it is gone (None)."""
        if self.proxy is not None:
            self.proxy.pod_changed(pod, status)

    def routes_problem(self) -> str | None:
        """What is wrong with the routes to other nodes (empty: nothing); None where the role does not run."""
        return None if self.routes is None else self.routes.status.problem


async def run_node(options: AgentOptions, place: Place) -> None:
    """Be one node until cancelled; its pods run on then.

    Raises KtoolError when the node cannot join.
    """
    clock = SystemClock()
    import_roles(options)
    identity = await join.identify(place.data_dir, join=options.join, node_name=place.name, clock=clock)
    _write_record(options, place, identity)
    transport = SwitchTransport(identity.connection, masters.noted(place.data_dir))
    client = Client(transport, user_agent="ktool-agent")
    recorder = EventRecorder(client, "kubelet", identity.node_name, clock=clock)
    runtime = _runtime(options, identity)
    handlers = _handlers(options, runtime)
    try:
        async with runtime, asyncio.TaskGroup() as group:
            group.create_task(_client_renewal(client, identity, transport, clock).run(), name="certificate")
            factory = InformerFactory(client)
            proxies = "proxy" in options.roles and options.runtime != "hollow"
            masters.follow(factory, transport, place.data_dir, all_known=proxies)
            proxy = None
            if proxies:
                proxy = _start_proxy(group, options, place, factory, clock)
            routes = None
            if "routes" in options.roles and options.runtime != "hollow":
                routes = _start_routes(group, options, identity, factory, clock)
            if "kubelet" in options.roles:
                network = NetworkParts(proxy, routes)
                _start_kubelet(
                    group, options, place, identity, client, factory, runtime, handlers, recorder, clock, network
                )
            group.create_task(factory.run(), name="informers")
            if options.runtime != "hollow":
                group.create_task(collector.settle_later(clock), name="collector")
    finally:
        await recorder.flush(FLUSH_SECONDS)
        await handlers.close()
        await transport.close()


def import_roles(options: AgentOptions) -> None:
    """Import what this agent will need: while it waits for its join file, the processor has nothing better to do."""
    if options.runtime == "hollow":
        return
    import agent.runtime.docker
    from agent.kubelet import server, volumes  # noqa: F401

    if "proxy" in options.roles:
        import agent.proxy.proxy
    if "routes" in options.roles:
        import agent.routes.routes  # noqa: F401


def _write_record(options: AgentOptions, place: Place, identity: Identity) -> None:
    record.write(
        place.data_dir,
        record.AgentRecord(
            cluster=engine_label(identity),
            node_name=identity.node_name,
            runtime=options.runtime,
            docker_socket=str(options.docker_socket),
            network=options.network,
            bridge=options.bridge,
            cluster_cidr=options.cluster_cidr,
            service_cidr=options.service_cidr,
            cgroup_parent=options.cgroup_parent,
            proxy="proxy" in options.roles and options.runtime != "hollow",
            routes="routes" in options.roles and options.runtime != "hollow",
        ),
    )


def engine_label(identity: Identity) -> str:
    """Whose containers these are, on an engine that several nodes or clusters may share."""
    return f"{identity.pin.removeprefix(pki.PIN_PREFIX)[:16]}.{identity.node_name}"


def _runtime(options: AgentOptions, identity: Identity) -> Runtime:
    if options.runtime == "hollow":
        from agent.runtime.hollow import HollowRuntime

        return HollowRuntime()
    from agent.runtime.docker import DockerRuntime

    return DockerRuntime(
        engine_label(identity),
        socket=options.docker_socket,
        network=options.network,
        bridge=options.bridge,
        # the proxy does it better: it leaves other nodes' pods out
        masquerade=options.masquerade and "proxy" not in options.roles,
    )


def _handlers(options: AgentOptions, runtime: Runtime) -> Handlers:
    if options.runtime == "hollow":
        from agent.kubelet.handlers import HollowHandlers

        return HollowHandlers()
    return RealHandlers(runtime)


def _volumes(
    options: AgentOptions, client: Client, pods_dir: Path, references: References, keeper: NodeKeeper, clock: Clock
) -> Volumes:
    if options.runtime == "hollow":
        from agent.kubelet.volumes.hollow import HollowVolumes

        return HollowVolumes()
    from agent.kubelet.volumes import VolumeSet, mount_table

    return VolumeSet(
        pods_dir,
        client=client,
        references=references,
        node=lambda: keeper.node,
        clock=clock,
        in_memory=mount_table.seen_by(options.docker_socket),
    )


def _start_kubelet(
    group: asyncio.TaskGroup,
    options: AgentOptions,
    place: Place,
    identity: Identity,
    client: Client,
    factory: InformerFactory,
    runtime: Runtime,
    handlers: Handlers,
    recorder: EventRecorder,
    clock: Clock,
    network: NetworkParts,
) -> None:
    name = identity.node_name
    hollow = options.runtime == "hollow"
    port = 0 if hollow else options.kubelet_port
    keeper = NodeKeeper(
        client,
        factory.informer(core_v1.Node, field_selector=f"metadata.name={name}"),
        runtime,
        NodeSettings(
            name=name,
            addresses=(place.address,),
            kubelet_port=port,
            labels=dict(options.labels),
            taints=[core_v1.Taint(key=k, value=v or None, effect=effect) for k, v, effect in options.taints],
            max_pods=options.max_pods,
            agent_version=options.version,
            pod_cidr=options.pod_cidr,
        ),
        place.hardware,
        data_dir=place.data_dir,
        recorder=recorder,
        clock=clock,
        proxy_problem=network.proxy_problem,
        routes_problem=network.routes_problem,
    )
    # A hollow node's containers have no use for variables about Services, and a thousand nodes would list them all.
    services = None if hollow else factory.informer(core_v1.Service)
    references = References(client, clock=clock)
    pods_dir = place.data_dir / "pods"
    context = KubeletContext(
        runtime=runtime,
        volumes=_volumes(options, client, pods_dir, references, keeper, clock),
        resolve=resolve,
        images=ImagePuller(runtime, references, clock),
        handlers=handlers,
        references=references,
        statuses=StatusWriter(client, clock=clock, tell=network.pod_changed),
        recorder=recorder,
        clock=clock,
        host=Host((place.address,), options.runtime),
        pods_dir=None if hollow else pods_dir,
        node=lambda: keeper.node,
        services=lambda: _none() if services is None else services.list(),
        node_hostname=place.hardware.hostname,
        node_memory=place.hardware.memory,
        node_dns=dns.node_dns(),
        cluster_dns=options.cluster_dns,
        cluster_domain=options.cluster_domain,
        cgroup_parent=options.cgroup_parent,
    )
    pods = factory.informer(core_v1.Pod, field_selector=f"spec.nodeName={name}")
    kubelet = Kubelet(name, client, context, keeper, pods)
    group.create_task(kubelet.run(), name="kubelet")
    if port:
        group.create_task(_serve(options, place, identity, client, kubelet, runtime, clock), name="kubelet-server")


async def _serve(
    options: AgentOptions,
    place: Place,
    identity: Identity,
    client: Client,
    kubelet: Kubelet,
    runtime: Runtime,
    clock: Clock,
) -> None:
    """The kubelet's server, once it has a certificate; a renewed one takes effect while it runs."""
    from agent.kubelet.server import KubeletServer
    from agent.kubelet.server.authentication import Authentication
    from agent.kubelet.server.authorization import Authorization
    from agent.kubelet.server.serving_certificate import ServingCertificate
    from agent.kubelet.server.usage import UsageReader

    name, files = identity.node_name, identity.serving
    request = certificates.serving_request(name, (place.address,))
    renewal = Renewal(client, request, files, clock=clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(renewal.run(), name="serving-certificate")
        await renewal.first()
        server = KubeletServer(
            kubelet,
            runtime,
            UsageReader(runtime, clock, data_dir=place.data_dir),
            node_name=name,
            address=options.kubelet_address,
            certificate=ServingCertificate(cert=files.certificate, key=files.key, client_ca=identity.ca),
            authentication=Authentication(client, clock),
            authorization=Authorization(client, clock, node_name=name),
            port=options.kubelet_port,
            clock=clock,
        )
        async with server:
            await asyncio.Event().wait()


def _client_renewal(client: Client, identity: Identity, transport: SwitchTransport, clock: Clock) -> Renewal:
    """Keeps the node's own certificate fresh: on disk, and in the connections that are in use."""

    async def renewed(pair: pki.KeyPair) -> None:
        join.save_kubeconfig(identity.kubeconfig, identity.connection, pair, identity.node_name)
        await transport.switch(replace(identity.connection, client_cert=pair.cert_pem, client_key=pair.key_pem))

    request = certificates.client_request(identity.node_name)
    return Renewal(client, request, identity.client, clock=clock, renewed=renewed)


def _start_proxy(
    group: asyncio.TaskGroup, options: AgentOptions, place: Place, factory: InformerFactory, clock: Clock
) -> Proxy:
    from agent.proxy.proxy import Proxy
    from agent.proxy.service_port import NodeNetwork

    node = NodeNetwork(
        place.name,
        ips=(place.address,),
        cluster_cidr=options.cluster_cidr,
        service_cidr=options.service_cidr,
        bridge=options.bridge,
        masquerade_pods=options.masquerade,
    )
    proxy = Proxy(factory, node, record=place.data_dir / "proxy.json", clock=clock)
    group.create_task(proxy.run(), name="proxy")
    return proxy


def _start_routes(
    group: asyncio.TaskGroup, options: AgentOptions, identity: Identity, factory: InformerFactory, clock: Clock
) -> PodRoutes:
    from agent.routes.routes import PodRoutes

    routes = PodRoutes(factory, identity.node_name, cluster_cidr=options.cluster_cidr, clock=clock)
    group.create_task(routes.run(), name="routes")
    return routes


def _none() -> Sequence[core_v1.Service]:
    return ()


def place_of(options: AgentOptions) -> Place:
    """This machine as one node."""
    hardware = machine.hardware(options.data_dir)
    return Place(options.node_name, options.data_dir, hardware, options.node_ip or machine.node_ip())


def hollow_places(options: AgentOptions) -> list[Place]:
    """The hollow nodes of one agent, each with a directory (and an identity) of its own."""
    one = place_of(options)
    base = options.name
    names = [f"{base}-{number}" for number in range(options.hollow_nodes)]
    return [structs.replace(one, name=name, data_dir=options.data_dir / "hollow" / name) for name in names]
