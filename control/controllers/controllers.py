"""All controllers together, as one process runs them (kube-controller-manager).

They share informers, so each kind is watched once however many controllers look at it. Caches fill from the start;
controllers act only while this process holds the Lease `kube-system/kube-controller-manager`. A controller that fails
is started again after a pause and takes none of the others with it: a degraded service, not an exit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from msgspec.structs import asdict

from control.controllers.certificate_request import control_plane_names
from control.controllers.certificates import CertificatesController
from control.controllers.config import ControllersConfig
from control.controllers.controller import Context, Controller, Recorder
from control.controllers.deployment import DeploymentController
from control.controllers.endpoint_slice import EndpointSliceController
from control.controllers.endpoint_slice_mirroring import EndpointSliceMirroringController
from control.controllers.endpoints import EndpointsController
from control.controllers.garbage_collector import GarbageCollector
from control.controllers.kubernetes_service import NAMESPACES, Address, KubernetesServiceController, cluster_ip
from control.controllers.namespace import NamespaceController
from control.controllers.node_ipam import NodeIPAMController, parse_ranges
from control.controllers.node_lifecycle import NodeLifecycleController
from control.controllers.pod_gc import PodGCController
from control.controllers.replica_set import ReplicaSetController
from control.controllers.root_ca_publisher import RootCAPublisher
from control.controllers.service_account import ServiceAccountController
from control.controllers.taint_eviction import TaintEvictionController
from control.controllers.ttl import EventTTL, TokenCleaner
from kube import pki
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.events import EventRecorder
from kube.informer import InformerFactory
from kube.leader_election import ALONE, LeaderElector, Timing
from kube.models import core_v1, meta_v1
from kube.status import ApiError, is_already_exists

LEASE_NAMESPACE = "kube-system"
LEASE_NAME = "kube-controller-manager"
RESTART_SECONDS = (1.0, 60.0)

log = logging.getLogger(__name__)


class Controllers:
    """All controllers. `factory` must be run by whoever made it; it may be shared with others (the scheduler)."""

    def __init__(
        self,
        client: Client,
        factory: InformerFactory,
        config: ControllersConfig,
        clock: Clock | None = None,
    ) -> None:
        """Reads the CA's files. KtoolError if they are unreadable, ValueError if a range is malformed."""
        self._client = client
        self._config = config
        self._clock = clock or SystemClock()
        self._recorders: dict[str, EventRecorder] = {}
        self._context = Context(client, factory, self._clock, self._recorder)
        self._elector = LeaderElector(
            client,
            namespace=LEASE_NAMESPACE,
            name=LEASE_NAME,
            identity=config.identity,
            timing=Timing() if config.several_masters else ALONE,
            clock=self._clock,
        )
        self.controllers: tuple[Controller, ...] = tuple(make(self._context) for make in self._makers())

    @property
    def is_leader(self) -> bool:
        """Whether the controllers of this process act."""
        return self._elector.is_leader

    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Counters of each controller by name: reconciles, errors, conflicts, restarts, seconds, depth, retries."""
        return {
            c.name: {**asdict(c.metrics), "depth": float(len(c.queue)), "retries": float(c.queue.retries)}
            for c in self.controllers
        }

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, recorder in self._recorders.items():
                group.create_task(recorder.run(), name=f"events of {name}")
            await self._make_lease_namespace()
            await self._elector.run(self._lead)

    async def _lead(self) -> None:
        async with asyncio.TaskGroup() as group:
            for controller in self.controllers:
                group.create_task(self._keep(controller), name=controller.name)

    async def _keep(self, controller: Controller) -> None:
        """Run a controller for ever: one that fails is started again, later each time."""
        shortest, longest = RESTART_SECONDS
        pause = shortest
        while True:
            began = self._clock.monotonic()
            try:
                await controller.run()
            except (ApiError, ConnectionError, TimeoutError) as error:
                log.warning("%s stopped, starting again: %s", controller.name, error)
            except Exception:
                # a fault in one controller must not end the others; its traceback is what there is to mend it by
                log.exception("%s failed, starting it again", controller.name)
            controller.metrics.restarts += 1
            if self._clock.monotonic() - began > longest:
                pause = shortest
            await self._clock.sleep(pause)
            pause = min(pause * 2, longest)

    async def _make_lease_namespace(self) -> None:
        """The Lease needs its namespace before there is anybody to make it: that is the one act without a Lease."""
        assert LEASE_NAMESPACE in NAMESPACES
        wanted = core_v1.Namespace(metadata=meta_v1.ObjectMeta(name=LEASE_NAMESPACE))
        pause = 0.2
        while True:
            try:
                await self._client.create(wanted)
            except ApiError as error:
                if is_already_exists(error):
                    return
                log.warning("cannot make namespace %s yet: %s", LEASE_NAMESPACE, error)
            except (ConnectionError, TimeoutError) as error:
                log.info("the API server does not answer yet: %s", error)
            else:
                return
            await self._clock.sleep(pause)
            pause = min(pause * 2, RESTART_SECONDS[1])

    def _recorder(self, component: str) -> Recorder:
        if component not in self._recorders:
            self._recorders[component] = EventRecorder(self._client, component, clock=self._clock)
        return self._recorders[component]

    def _makers(self) -> list[Callable[[Context], Controller]]:
        config = self._config
        ca = pki.load_cert(config.ca_cert_file)
        key = config.ca_key_file
        pair = pki.load_pair(cert=config.ca_cert_file, key=key) if key is not None else None
        text = pki.cert_pem(ca).decode()
        where = Address(
            addresses=tuple(config.advertise_addresses),
            port=config.secure_port,
            service_cidr=config.service_cidr,
            url=config.server_url,
            ca=text,
            pod_cidr=config.pod_cidr,
            # masters that share a store keep their endpoints themselves: then there are no addresses here
            several=config.several_masters and not config.advertise_addresses,
        )
        ranges = parse_ranges(config.pod_cidr)
        makers: list[Callable[[Context], Controller]] = [
            lambda c: KubernetesServiceController(c, where=where),
            ServiceAccountController,
            lambda c: RootCAPublisher(c, ca=text),
            lambda c: CertificatesController(
                c,
                ca=pair,
                longest_seconds=config.cluster_signing_duration,
                reserved=control_plane_names(cluster_ip(config.service_cidr)),
            ),
            lambda c: NodeIPAMController(c, ranges=ranges),
            lambda c: NodeLifecycleController(
                c, grace_seconds=config.node_monitor_grace, startup_grace_seconds=config.node_startup_grace
            ),
            TaintEvictionController,
            DeploymentController,
            ReplicaSetController,
            EndpointSliceController,
            EndpointsController,
            EndpointSliceMirroringController,
            NamespaceController,
            GarbageCollector,
            lambda c: PodGCController(c, ended_threshold=config.terminated_pod_threshold),
            TokenCleaner,
        ]
        if config.event_ttl is not None:
            seconds = config.event_ttl
            makers.append(lambda c: EventTTL(c, seconds=seconds))
        return makers
