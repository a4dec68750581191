"""`up`: from whatever state this machine is in to a running cluster. A second run finds everything in place.

    preflight → data directory, kernel settings → Docker Engine ┐
                                        master → join file ─────┴→ agent → node Ready

Docker Engine and the master start at the same time; neither needs the other. Each step looks first, changes only
what differs, and then checks. Interrupted or failed, the machine is left as it is at that moment: the next `up` goes
on from there, and `down` removes what there is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kube import join, kubeconfig, objects, pki, times
from kube.client import Client
from kube.clock import SystemClock
from kube.errors import KtoolError
from kube.models import core_v1
from kube.status import ApiError
from kube.transport import HTTPTransport
from provision import bootstrap_token, data_dir, docker_engine, lock, machine, preflight, processes, sysctl
from provision.docker_engine import Engine
from provision.journal import ChangeKind, Journal
from provision.local_cluster.config import AGENT, MASTER, POD_BRIDGES, SYSCTLS, LocalCluster, LocalClusterConfig
from provision.progress import Progress, Step, step
from provision.services.detect import detect
from provision.services.service import ServiceSpec, ServiceSupervisor, tail

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
# A service that died this often on its way up will not come up.
RESTARTS_TO_GIVE_UP = 3


async def up(config: LocalClusterConfig, progress: Progress = lambda event: None) -> LocalCluster:
    """Have the cluster running and this machine's node Ready.

    Raises PreflightFailed with the machine untouched, and KtoolError where a step fails (the message says which part
    of the log matters).
    """
    config.check()
    warnings: list[str] = []
    supervisor = detect(config.data_dir, wanted=config.supervisor)
    async with step(progress, "preflight", "Checking this machine") as doing:
        address, findings = await asyncio.to_thread(_preflight, config, supervisor)
        for finding in findings:
            warnings.append(f"{finding.what} (found: {finding.found}; wanted: {finding.wanted})")
            doing.warning(warnings[-1])
        doing.unchanged(f"{os.cpu_count()} CPUs, node address {address}")
    with lock.held(config.data_dir):
        journal = Journal(config.journal_file)
        async with step(progress, "state", "Preparing the data directory and the kernel") as doing:
            await asyncio.to_thread(_prepare, config, supervisor, journal, doing)
        with _first_of_group():
            async with asyncio.TaskGroup() as group:
                engine_task = group.create_task(_docker(config, supervisor, journal, progress))
                group.create_task(_master(config, supervisor, address, progress))
        engine = engine_task.result()
        transport = HTTPTransport(kubeconfig.connect(config.kubeconfig))
        try:
            await _agent(config, supervisor, address, Client(transport, user_agent="ktool-up"), progress)
        finally:
            await transport.close()
    return LocalCluster(
        kubeconfig=config.kubeconfig,
        server=config.server,
        node_name=config.node_name,
        node_address=address,
        docker_version=engine.version,
        docker_origin=engine.origin,
        supervisor=supervisor.name,
        warnings=tuple(warnings),
    )


# ---- steps


def _preflight(config: LocalClusterConfig, supervisor: ServiceSupervisor) -> tuple[str, list[preflight.Finding]]:
    facts = machine.gather(config.data_dir, docker_socket=config.docker.socket)
    services = [supervisor.status(name) for name in supervisor.names()]
    running = {status.name: status.pid for status in services if status.running and status.pid is not None}
    own_pids = frozenset(pid for root in running.values() for pid in processes.descendants(root))
    wanted = preflight.Wanted(
        ports={config.api_port: "the API server", config.kubelet_port: "the kubelet"},
        pod_cidr=config.pod_cidr,
        service_cidr=config.service_cidr,
        data_dir=config.data_dir,
        ktool_version=config.ktool_version,
        own_pids=own_pids,
        # Routes to the pods of an earlier `up` are no clash.
        own_interfaces=POD_BRIDGES if config.agent_dir.exists() else frozenset(),
        # A cluster that runs already has taken its share.
        memory_available=0 if MASTER in running else preflight.MEMORY_AVAILABLE,
    )
    findings = preflight.require(preflight.check(facts, wanted))
    address = config.node_address or machine.node_address()
    if not address:
        raise KtoolError(
            "this machine has no address that others could reach",
            found="loopback only",
            wanted="an IPv4 address on some interface",
            mend="connect it to a network, or name an address with --node-address",
        )
    return address, findings


def _prepare(config: LocalClusterConfig, supervisor: ServiceSupervisor, journal: Journal, doing: Step) -> None:
    known = (config.data_dir / data_dir.VERSION_FILE).exists()
    if not known:
        journal.record(ChangeKind.DIRECTORY, str(config.data_dir))
    data_dir.create(config.data_dir, ktool_version=config.ktool_version)
    changed = [name for name, value in SYSCTLS.items() if sysctl.ensure(journal, name, value)]
    orphans = supervisor.recover()
    doing.changed = not known or bool(changed) or bool(orphans)
    done = [f"set {', '.join(changed)}"] if changed else []
    done += [f"{supervisor.name} was gone, {', '.join(orphans)} will be started anew"] if orphans else []
    doing.result = "; ".join([str(config.data_dir), *done])


async def _docker(
    config: LocalClusterConfig, supervisor: ServiceSupervisor, journal: Journal, progress: Progress
) -> Engine:
    async with step(progress, "docker", "Docker Engine") as doing:
        known = journal.find(ChangeKind.DOCKER, str(config.docker.socket))
        engine = await asyncio.to_thread(
            docker_engine.ensure,
            config.docker,
            supervisor=supervisor,
            journal=journal,
            log_path=config.log_path(docker_engine.SERVICE),
            dockerd=machine.find_command("dockerd"),
            report=doing.detail,
        )
        started = known is None and engine.origin is not docker_engine.EngineOrigin.EXISTING
        doing.changed = started
        doing.result = f"{engine.version}, {'started' if started else 'answers'} on {engine.socket}"
        return engine


async def _master(config: LocalClusterConfig, supervisor: ServiceSupervisor, address: str, progress: Progress) -> None:
    async with step(progress, "master", "Master (store, API server, scheduler, controllers)") as doing:
        started = await asyncio.to_thread(_run_service, supervisor, config.master_spec(node_address=address))
        await _wait_for_api(config, supervisor)
        doing.changed = started
        doing.result = f"{config.server} is ready"


async def _agent(
    config: LocalClusterConfig, supervisor: ServiceSupervisor, address: str, client: Client, progress: Progress
) -> None:
    spec = config.agent_spec(node_address=address)
    status = await asyncio.to_thread(supervisor.status, AGENT)
    joined = config.join_file.exists() and await _node(client, config.node_name) is not None
    if not joined:
        async with step(progress, "join", "Join token for this machine") as doing:
            token = await _create_token(client, config.node_name)
            ca = pki.parse_cert(config.ca_certificate.read_bytes(), source=str(config.ca_certificate))
            config.agent_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            join.write(
                config.join_file,
                join.JoinConfig(
                    server=config.server,
                    token=token.text,
                    ca_cert_hashes=(pki.ca_pin(ca),),
                    node_name=config.node_name,
                ),
            )
            doing.result = f"{token.id}, valid for {bootstrap_token.LIFETIME_SECONDS / 60:.0f} minutes"
    async with step(progress, "agent", "Agent (runtime, kubelet, proxy)") as doing:
        began = time.time()
        started = await asyncio.to_thread(_run_service, supervisor, spec, restart=status.running and not joined)
        await _wait_for_node(config, supervisor, client, doing, since=began if started else 0.0)
        doing.changed = started
        doing.result = f"node {config.node_name} is Ready"


def _run_service(supervisor: ServiceSupervisor, spec: ServiceSpec, *, restart: bool = False) -> bool:
    """Have the service running as `spec` says; True if it had to be started."""
    changed = supervisor.install(spec)
    running = supervisor.status(spec.name).running
    if running and not changed and not restart:
        return False
    if running:
        supervisor.stop(spec.name)
    supervisor.start(spec.name)
    return True


# ---- waiting


async def _wait_for_api(config: LocalClusterConfig, supervisor: ServiceSupervisor) -> None:
    deadline = time.monotonic() + config.ready_timeout
    found = "no kubeconfig yet"
    transport: HTTPTransport | None = None
    try:
        while True:
            if transport is None and config.kubeconfig.exists():
                transport = HTTPTransport(kubeconfig.connect(config.kubeconfig))
            if transport is not None:
                ready, found = await _is_ready(Client(transport, user_agent="ktool-up"))
                if ready:
                    return
            await _still_hopeful(config, supervisor, MASTER, deadline=deadline, found=found)
    finally:
        if transport is not None:
            await transport.close()


async def _is_ready(client: Client) -> tuple[bool, str]:
    try:
        async with asyncio.timeout(5):
            response = await client.raw("GET", "/readyz")
    except ApiError as error:
        return False, f"/readyz: {error.message}"
    except (ConnectionError, TimeoutError) as error:
        return False, f"no connection: {error}"
    return response.status == 200, f"/readyz answers {response.status}"


async def _wait_for_node(
    config: LocalClusterConfig, supervisor: ServiceSupervisor, client: Client, doing: Step, *, since: float
) -> None:
    deadline = time.monotonic() + config.ready_timeout
    last = ""
    while True:
        ready, found = readiness(await _node(client, config.node_name), since=since)
        if ready:
            return
        if found != last:
            doing.detail(found)
            last = found
        await _still_hopeful(config, supervisor, AGENT, deadline=deadline, found=found)


async def _node(client: Client, name: str) -> core_v1.Node | None:
    try:
        return await client.get(core_v1.Node, name)
    except ApiError as error:
        if error.code == 404:
            return None
        raise


def readiness(node: core_v1.Node | None, *, since: float = 0.0) -> tuple[bool, str]:
    """(Ready, what is known) of a Node that may not have registered yet.

    What it said before `since` (epoch seconds) does not count: a kept Node still says what it said before `down`.
    """
    if node is None:
        return False, "the node has not registered yet"
    ready = objects.condition(node.status.conditions if node.status else (), "Ready")
    if ready is None:
        return False, "the node has registered"
    if ready.lastHeartbeatTime and times.parse(ready.lastHeartbeatTime) < int(since):
        return False, "the node has not reported since its agent was started"
    return ready.status == "True", f"the node is not ready: {ready.message or ready.reason}"


async def _still_hopeful(
    config: LocalClusterConfig, supervisor: ServiceSupervisor, service: str, *, deadline: float, found: str
) -> None:
    """Wait a moment; KtoolError if the service dies again and again, or the time is up."""
    status = await asyncio.to_thread(supervisor.status, service)
    if status.restarts < RESTARTS_TO_GIVE_UP and time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        return
    lines = tail(config.log_path(service), lines=3)
    why = f"it ended {status.restarts} times" if status.restarts >= RESTARTS_TO_GIVE_UP else found
    raise KtoolError(
        f"the {service} does not become ready",
        found=f"{why}; its log ends: {lines}" if lines else why,
        wanted=f"ready within {config.ready_timeout:g} s",
        mend=f"see {config.log_path(service)}",
    )


async def _create_token(client: Client, node_name: str) -> bootstrap_token.BootstrapToken:
    """A token; a master that has just started may not have made kube-system yet."""
    for attempt in range(100):
        try:
            return await bootstrap_token.create(
                client, clock=SystemClock(), description=f"for {node_name}, made by ktool up"
            )
        except ApiError as error:
            if error.code != 404 or attempt == 99:
                raise
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError("unreachable: the last attempt returns or raises")


@contextmanager
def _first_of_group() -> Iterator[None]:
    """Raise the first error of a TaskGroup by itself: two steps side by side fail like two in a row."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from group
