"""The master: store, API server, scheduler and controllers, put together and kept running.

    store ← watch cache ← API (pipeline) ← HTTPS            ← kubectl, agents
                                         ← local transport  ← scheduler, controllers

By default all roles share one process and one set of informers. A role without the API server reaches it over HTTPS,
with a certificate of its own. A scheduler or controller that fails is started again and shows in `/readyz?verbose`;
the API goes on serving. Only what the API itself cannot live without (the store, its cache, the port) ends the
process.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct

from control import bootstrap, memory
from control.api.address_claims import AddressClaims
from control.api.admission import plugins
from control.api.attributes import UserInfo
from control.api.authentication.bootstrap_token import BootstrapTokenAuthenticator
from control.api.authentication.chain import AuthenticatorChain, CertificateAuthenticator
from control.api.authentication.service_account import ServiceAccountTokens
from control.api.authorization.chain import MASTERS, AuthorizerChain
from control.api.authorization.node import NodeAuthorizer
from control.api.authorization.rbac import RBACAuthorizer
from control.api.environment import Environment
from control.api.local import LocalTransport
from control.api.object_reader import CacheReader
from control.api.pipeline import Api
from control.api.registry import ResourceRegistry
from control.api.server import Server, server_ssl
from control.api.storage import Storage
from control.api.subresource import ServerAssets
from control.api.watch_cache import WatchCache
from control.certificates import CLUSTER_DOMAIN, Addresses, Certificates
from control.compaction import compact_in_turn, compact_periodically
from control.data_dir import DataDir
from control.etcd_store import open_etcd, watch_health
from control.scheduler import standby
from control.store.errors import StoreUnavailableError
from control.store.etcd.config import EtcdConfig
from control.store.sqlite import SqliteStore
from control.store.sqlite.lock import StoreLock
from control.store.store import Store
from kube import collector, kubeconfig, pki
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.errors import KtoolError
from kube.etcd_certificates import EtcdCertificates
from kube.informer import InformerFactory
from kube.leader_election import LeaderElector
from kube.transport import HTTPTransport, Transport

API = "api"
SCHEDULER = "scheduler"
CONTROLLERS = "controllers"
ROLES = (API, SCHEDULER, CONTROLLERS)

SERVICE_ACCOUNT_ISSUER = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"
USERS = {
    SCHEDULER: UserInfo("system:kube-scheduler"),
    CONTROLLERS: UserInfo("system:kube-controller-manager"),
}
SCHEDULER_LEASE = ("kube-system", "kube-scheduler")
BOOTSTRAP_USER = UserInfo("system:apiserver", groups=(MASTERS,))

RESTART_SECONDS = (1.0, 30.0)
RENEWAL_CHECK_SECONDS = 12 * 3600.0

log = logging.getLogger(__name__)


class MasterConfig(Struct, frozen=True, kw_only=True):
    """How a master runs. `advertise_address` is the one that other machines and pods reach it at; `tls_sans` are more
    names and addresses for its certificate. With `etcd` it is one of several masters that share that store."""

    data_dir: Path
    bind_address: str = "0.0.0.0"  # noqa: S104 (other machines are to reach it)
    port: int = 6443
    advertise_address: str = "127.0.0.1"
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    cluster_name: str = "ktool"
    roles: tuple[str, ...] = ROLES
    tls_sans: tuple[str, ...] = ()
    etcd: EtcdConfig | None = None


class Master:
    """One master process: `run` serves until `stop`."""

    def __init__(self, config: MasterConfig, *, clock: Clock | None = None) -> None:
        self.config = config
        self._clock = clock or SystemClock()
        self._dir = DataDir(config.data_dir)
        self._addresses = Addresses(config.bind_address, config.advertise_address, config.port)
        self._certificates = Certificates(
            self._dir,
            self._addresses,
            service_cidr=config.service_cidr,
            cluster=config.cluster_name,
            clock=self._clock,
            more_names=config.tls_sans,
        )
        # unique among all processes that stand for election at the same time
        self._identity = f"{socket.gethostname()}_{uuid.uuid4()}"
        self._stopping = asyncio.Event()
        self._bootstrapped = asyncio.Event()
        # what is wrong with a part at the moment; None: nothing
        self._state: dict[str, str | None] = {}
        self.server: Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._kubelet_tls: ssl.SSLContext | None = None
        self._claims: AddressClaims | None = None
        self._lost: BaseException | None = None

    def stop(self) -> None:
        """Ask `run` to finish what is under way and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`. KtoolError if the data directory, the port or another master stands in the way."""
        begun = time.perf_counter()
        self._dir.prepare()
        async with AsyncExitStack() as stack:
            transports = await self._api(stack) if API in self.config.roles else self._remote()
            for transport in transports.values():
                stack.push_async_callback(transport.close)
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(part, name="master") for part in self._parts(transports)]
                if self.server is not None:
                    log.info("serving %s after %.2f s", self._addresses.local_url, time.perf_counter() - begun)
                await self._stopping.wait()
                log.info("stopping")
                for part in parts:
                    part.cancel()
        if self._lost is not None:
            raise KtoolError("the store is lost", found=str(self._lost), mend="The log tells why") from self._lost

    async def _api(self, stack: AsyncExitStack) -> dict[str, Transport]:
        """Open the store and serve the API; transports of the other roles by name."""
        store = await self._open_store(stack)
        # after the store: a lock has made sure that no other master works in this directory
        self._certificates.ensure()
        cache = WatchCache(store, clock=self._clock)
        try:
            await cache.start()
        except StoreUnavailableError as error:
            if self.config.etcd is None:
                raise
            # an etcd may come later: until then /readyz says what is missing
            log.error("serving nothing but health for now: %s", error)
        follow = asyncio.create_task(cache.run(), name="watch-cache")
        stack.push_async_callback(_cancelled, follow)
        follow.add_done_callback(self._lost_store)
        api = Api(self._environment(store, cache))
        self._tls = server_ssl(
            cert=self._certificates.server_cert,
            key=self._certificates.server_key,
            client_ca=self._certificates.ca_cert,
        )
        self.server = Server(api, address=self.config.bind_address, port=self.config.port, tls=self._tls)
        await self.server.start()
        stack.push_async_callback(self.server.close)
        self._follow = follow
        self._store, self._api_server = store, api
        self._add_checks(api)
        return {role: LocalTransport(api, user) for role, user in USERS.items() if role in self.config.roles}

    async def _open_store(self, stack: AsyncExitStack) -> Store:
        store: Store
        if self.config.etcd is None:
            store = await SqliteStore.open(self._dir.store, clock=self._clock)
        else:
            stack.callback(StoreLock(self._dir.root / "run" / "master").release)
            store = await open_etcd(self.config.etcd, self._clock)
        stack.push_async_callback(store.close)
        return store

    def _environment(self, store: Store, cache: WatchCache) -> Environment:
        registry = ResourceRegistry.builtin()
        reader = CacheReader(cache, registry)
        tokens = ServiceAccountTokens(
            pki.load_key(self._certificates.service_account_key), SERVICE_ACCOUNT_ISSUER, reader, self._clock
        )
        if self.config.etcd is not None:
            self._claims = AddressClaims(store, cache.fresh, self._clock)
        authorizer = AuthorizerChain((NodeAuthorizer(reader), RBACAuthorizer(reader)))
        return Environment(
            registry=registry,
            cache=cache,
            storage=Storage(store, cache, clock=self._clock),
            reader=reader,
            authenticator=AuthenticatorChain(
                (CertificateAuthenticator(reader), tokens, BootstrapTokenAuthenticator(reader, self._clock))
            ),
            authorizer=authorizer,
            admission=plugins(
                reader, authorizer, service_cidr=self.config.service_cidr, clock=self._clock, claims=self._claims
            ),
            assets=ServerAssets(
                kubelet_ssl=self._kubelet_ssl,
                service_account_key=self._certificates.service_account_key,
                service_account_issuer=SERVICE_ACCOUNT_ISSUER,
                ca_certificate=self._certificates.ca_cert.read_bytes(),
            ),
            clock=self._clock,
        )

    def _kubelet_ssl(self) -> ssl.SSLContext:
        """TLS towards kubelets; made on first use, and again after the certificate was renewed."""
        if self._kubelet_tls is None:
            context = ssl.create_default_context(cafile=str(self._certificates.ca_cert))
            context.load_cert_chain(self._certificates.kubelet_client_cert, self._certificates.kubelet_client_key)
            self._kubelet_tls = context
        return self._kubelet_tls

    def _add_checks(self, api: Api) -> None:
        server = self.server
        assert server is not None
        api.nonresource.address = f"{self.config.advertise_address}:{self.config.port}"
        api.nonresource.live["store"] = lambda: "the store is closed" if self._follow.done() else None
        api.nonresource.ready["shutdown"] = lambda: "shutting down" if server.closing else None
        if self.config.etcd is not None:
            self._state["etcd"] = "not reached yet"
            api.nonresource.ready["etcd"] = lambda: self._state["etcd"]
            loaded = api.environment.cache.loaded
            api.nonresource.ready["watch-cache"] = lambda: None if loaded.is_set() else "not loaded yet"
        self._state["bootstrap"] = "not finished"
        for role in self.config.roles:
            if role != API:
                self._state[role] = "not started"
        for name in [name for name in self._state if name != "etcd"]:
            # the names that kube-apiserver gives to what it does after its start
            api.nonresource.ready[f"poststarthook/{name}"] = lambda name=name: self._state[name]  # type: ignore[misc]

    def _lost_store(self, follow: asyncio.Task[None]) -> None:
        if not follow.cancelled() and follow.exception() is not None:
            self._lost = follow.exception()
            self.stop()

    def _remote(self) -> dict[str, Transport]:
        """Transports to an API server in another process on this machine."""
        found: dict[str, Transport] = {}
        for role, user in USERS.items():
            if role in self.config.roles:
                found[role] = HTTPTransport(kubeconfig.connect(self._certificates.ensure_component(user.name)))
        return found

    def _parts(self, transports: dict[str, Transport]) -> list[Coroutine[Any, Any, None]]:
        """What runs besides the API server."""
        parts: list[Coroutine[Any, Any, None]] = [
            memory.trim_periodically(self._clock),
            collector.settle_later(self._clock),
        ]
        if API in self.config.roles:
            parts += [self._bootstrap(), self._renew_certificates()]
            if self.config.etcd is None:
                parts.append(compact_periodically(self._store, self._clock))
            else:
                parts += [
                    compact_in_turn(self._store, self._clock),
                    watch_health(self._store, self._clock, lambda wrong: self._state.update(etcd=wrong)),
                    self._keep_endpoints(),
                ]
                if self._claims is not None:
                    parts.append(self._claims.run())
        clients = {role: Client(t, user_agent=f"ktool-{role}") for role, t in transports.items()}
        if clients:
            reader = clients.get(CONTROLLERS) or clients[SCHEDULER]
            parts.append(self._control(clients, InformerFactory(reader)))
        return parts

    async def _control(self, clients: dict[str, Client], factory: InformerFactory) -> None:
        """Run scheduler and controllers over one set of informers."""
        if API in self.config.roles:
            await self._bootstrapped.wait()  # before it they would be forbidden everything
        async with asyncio.TaskGroup() as group:
            group.create_task(factory.run(), name="informers")
            for role, client in clients.items():
                start = self._scheduler if role == SCHEDULER else self._controllers
                group.create_task(self._keep_running(role, start, client, factory), name=role)

    def _controllers(self, client: Client, factory: InformerFactory) -> Coroutine[Any, Any, None]:
        from control.controllers.config import ControllersConfig
        from control.controllers.controllers import Controllers

        # With the store in this process, whose lock admits one master, a restarted one is the same as before and need
        # not wait for the Lease of the one that was killed.
        alone = API in self.config.roles and self.config.etcd is None
        config = ControllersConfig(
            identity=socket.gethostname() if alone else self._identity,
            several_masters=not alone,
            ca_cert_file=self._certificates.ca_cert,
            ca_key_file=self._certificates.ca_key,
            server_url=self._addresses.url,
            # of several masters each keeps its own endpoints
            advertise_addresses=(self.config.advertise_address,) if self.config.etcd is None else (),
            secure_port=self.config.port,
            service_cidr=self.config.service_cidr,
            pod_cidr=self.config.pod_cidr,
        )
        return Controllers(client, factory, config, clock=self._clock).run()

    def _scheduler(self, client: Client, factory: InformerFactory) -> Coroutine[Any, Any, None]:
        async def schedule() -> None:
            await standby.load_when_needed(factory, self._clock)
            from control.scheduler.scheduler import Scheduler

            await Scheduler(client, factory, clock=self._clock).run()

        if self.config.etcd is None:
            return schedule()
        elector = LeaderElector(
            client,
            namespace=SCHEDULER_LEASE[0],
            name=SCHEDULER_LEASE[1],
            identity=self._identity,
            clock=self._clock,
        )
        return elector.run(schedule)

    async def _keep_endpoints(self) -> None:
        """Keep this master among the endpoints of the Service `kubernetes`."""
        from control.controllers.kubernetes_service import Address
        from control.endpoint_reconciler import EndpointReconciler

        await self._bootstrapped.wait()
        where = Address(
            addresses=(self.config.advertise_address,),
            port=self.config.port,
            service_cidr=self.config.service_cidr,
            url=self._addresses.url,
            ca="",
        )
        client = Client(LocalTransport(self._api_server, BOOTSTRAP_USER))
        await EndpointReconciler(self._store, client, where, clock=self._clock).run()

    async def _keep_running(
        self,
        name: str,
        start: Callable[[Client, InformerFactory], Coroutine[Any, Any, None]],
        client: Client,
        factory: InformerFactory,
    ) -> None:
        """Run a part, again whenever it fails: the master is then degraded and not gone."""
        delay = RESTART_SECONDS[0]
        while True:
            started = self._clock.monotonic()
            try:
                self._state[name] = None
                await start(client, factory)
                self._state[name] = "ended"
            except Exception as error:
                # whatever it was, the API and the other parts must go on
                log.exception("%s failed and is started again in %.0f s", name, delay)
                self._state[name] = f"{type(error).__name__}: {error}"
            if self._clock.monotonic() - started > 10 * RESTART_SECONDS[1]:
                delay = RESTART_SECONDS[0]
            await self._clock.sleep(delay)
            delay = min(2 * delay, RESTART_SECONDS[1])

    async def _bootstrap(self) -> None:
        """See to the objects that a cluster begins with; again until all are there."""
        client = Client(LocalTransport(self._api_server, BOOTSTRAP_USER))
        await self._api_server.environment.cache.loaded.wait()
        delay = RESTART_SECONDS[0]
        while failures := await bootstrap.ensure_objects(client):
            for failure in failures:
                log.error("bootstrap: %s", failure)
            self._state["bootstrap"] = failures[0]
            await self._clock.sleep(delay)
            delay = min(2 * delay, RESTART_SECONDS[1])
        self._state["bootstrap"] = None
        self._bootstrapped.set()

    async def _renew_certificates(self) -> None:
        """Renew what is about to end, also in a master that runs for years."""
        while True:
            await self._clock.sleep(RENEWAL_CHECK_SECONDS)
            try:
                if self._certificates.ensure() and self._tls is not None:
                    self._tls.load_cert_chain(self._certificates.server_cert, self._certificates.server_key)
                    self._kubelet_tls = None
                if self.config.etcd is not None and EtcdCertificates(self._dir.pki).renew(self._clock):
                    # etcd reads its own anew by itself; a gRPC channel keeps what it was made with
                    log.warning("etcd's certificates were renewed: ending, to be started with the new ones")
                    self.stop()
            except (pki.PKIError, OSError) as error:
                log.error("certificates cannot be renewed: %s", error)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
