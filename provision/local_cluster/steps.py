"""The steps that every machine of a cluster takes, master or not: preflight, state, Docker Engine, a service.

Each looks first, changes only what differs, and then checks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

from kube.errors import KtoolError
from kube.late_arguments import waiting_file
from provision import data_dir, docker_engine, machine, preflight, processes, sysctl
from provision.docker_engine import Engine
from provision.journal import ChangeKind, Journal
from provision.local_cluster.config import AGENT, ETCD, MASTER, POD_BRIDGES, SQLITE, SYSCTLS, LocalClusterConfig
from provision.local_cluster.program import Program
from provision.progress import Progress, Step, step
from provision.services.service import ServiceSpec, ServiceSupervisor

# What only a node needs.
_FINDINGS_OF_NODES = frozenset({"docker", "commands", "cgroups"})


def chosen_store(config: LocalClusterConfig) -> str:
    """The engine of this machine's store. KtoolError if it has another one than is wanted."""
    there = config.store_there
    if config.store and there and config.store != there:
        raise KtoolError(
            "the engine of the store cannot be changed on a machine that has data",
            found=f"the state of a cluster in {there} ({config.data_dir})",
            wanted=f"a machine without data for {config.store}",
            mend=f"go on with {there}, or begin a new cluster: ktool down, then ktool up --store {config.store}",
        )
    return config.store or there or SQLITE


async def check_machine(
    config: LocalClusterConfig, supervisor: ServiceSupervisor, progress: Progress, warnings: list[str]
) -> str:
    """Preflight; the node's address. What is only a warning is added to `warnings`.

    Raises PreflightFailed.
    """
    async with step(progress, "preflight", "Checking this machine") as doing:
        address, findings = await asyncio.to_thread(_preflight, config, supervisor)
        for finding in findings:
            warnings.append(f"{finding.what} (found: {finding.found}; wanted: {finding.wanted})")
            doing.warning(warnings[-1])
        doing.unchanged(f"{os.cpu_count()} CPUs, node address {address}")
        return address


def _preflight(config: LocalClusterConfig, supervisor: ServiceSupervisor) -> tuple[str, list[preflight.Finding]]:
    facts = machine.gather(config.data_dir, docker_socket=config.docker.socket)
    services = [supervisor.status(name) for name in supervisor.names()]
    running = {status.name: status.pid for status in services if status.running and status.pid is not None}
    own_pids = frozenset(pid for root in running.values() for pid in processes.descendants(root))
    ports = {MASTER: (config.api_port, "the API server"), AGENT: (config.kubelet_port, "the kubelet")}
    wanted_ports = dict(ports[role] for role in sorted(config.roles))
    if MASTER in config.roles and config.store == ETCD:
        from provision.etcd import membership, packaged_service

        if not machine.find_command("etcd"):
            raise missing_etcd()
        wanted_ports |= {membership.CLIENT_PORT: "etcd's clients", membership.PEER_PORT: "etcd's other members"}
        # Debian's own, which nobody has used, makes room.
        own_pids |= {pid for pid in (packaged_service.pid_if_empty(),) if pid is not None}
    wanted = preflight.Wanted(
        ports=wanted_ports,
        pod_cidr=config.pod_cidr,
        service_cidr=config.service_cidr,
        data_dir=config.data_dir,
        ktool_version=config.ktool_version,
        own_pids=own_pids,
        # Routes to the pods of an earlier `up` are no clash.
        own_interfaces=POD_BRIDGES if config.agent_dir.exists() else frozenset(),
        # A cluster that runs already has taken its share.
        memory_available=0 if config.roles & running.keys() else preflight.MEMORY_AVAILABLE,
    )
    findings = preflight.check(facts, wanted)
    if AGENT not in config.roles:
        findings = [finding for finding in findings if finding.name not in _FINDINGS_OF_NODES]
    warnings = preflight.require(findings)
    address = config.node_address or machine.node_address()
    if not address:
        raise KtoolError(
            "this machine has no address that others could reach",
            found="loopback only",
            wanted="an IPv4 address on some interface",
            mend="connect it to a network, or name an address with --node-address",
        )
    return address, warnings


def missing_etcd() -> KtoolError:
    """What is said where etcd is not installed."""
    return KtoolError(
        "etcd is not installed", found="no command etcd", wanted="etcd 3.4", mend="apt-get install etcd-server"
    )


async def prepare(
    config: LocalClusterConfig, supervisor: ServiceSupervisor, journal: Journal, progress: Progress
) -> None:
    """The data directory and the kernel's settings; a supervisor that was killed is there again."""
    async with step(progress, "state", "Preparing the data directory and the kernel") as doing:
        await asyncio.to_thread(_prepare, config, supervisor, journal, doing)


def _prepare(config: LocalClusterConfig, supervisor: ServiceSupervisor, journal: Journal, doing: Step) -> None:
    known = (config.data_dir / data_dir.VERSION_FILE).exists()
    if not known:
        journal.record(ChangeKind.DIRECTORY, str(config.data_dir))
    data_dir.create(config.data_dir, ktool_version=config.ktool_version)
    settings = SYSCTLS if AGENT in config.roles else {}
    changed = [name for name, value in settings.items() if sysctl.ensure(journal, name, value)]
    orphans = supervisor.recover()
    ahead = [name for name in (MASTER, AGENT) if name not in config.roles and waits(config, supervisor, name)]
    for name in ahead:
        supervisor.remove(name)
    doing.changed = not known or bool(changed) or bool(orphans) or bool(ahead)
    done = [f"set {', '.join(changed)}"] if changed else []
    done += [f"removed what was started ahead: {', '.join(ahead)}"] if ahead else []
    done += [f"{supervisor.name} was gone, {', '.join(orphans)} will be started anew"] if orphans else []
    doing.result = "; ".join([str(config.data_dir), *done])


async def start_engine(
    config: LocalClusterConfig, supervisor: ServiceSupervisor, journal: Journal, progress: Progress
) -> Engine:
    """Docker Engine, used or started."""
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


def run_service(supervisor: ServiceSupervisor, service: ServiceSpec | Program, *, restart: bool = False) -> bool:
    """Have the service running as wanted; True if it had to be started. A program that was started ahead of its
    arguments goes on with them: that counts, and it is not started anew."""
    spec, program = (service.spec, service) if isinstance(service, Program) else (service, None)
    status = supervisor.status(spec.name)
    running = status.running
    waits = running and program is not None and not program.told
    differs = supervisor.differs(spec) or (program is not None and program.differs())
    if waits and status.restarts:
        # One that ended while it waited would be taken for one that cannot start.
        differs = True
    if running and (differs or (restart and not waits)):
        # Before its settings change: a run that ends in between would leave a process of the old ones beside the new
        # ones, and the next run take it for theirs.
        supervisor.stop(spec.name)
        running = waits = False
    if program is not None:
        program.tell()
    supervisor.install(spec)
    if running:
        return waits
    supervisor.start(spec.name)
    return True


def start_ahead(supervisor: ServiceSupervisor, program: Program) -> None:
    """Have the program's process running, which waits for its arguments. One that has them is left as it is."""
    if program.told:
        return
    running = supervisor.status(program.spec.name).running
    if running and not supervisor.differs(program.spec):
        return
    if running:  # of another runtime
        supervisor.stop(program.spec.name)
    waiting_file(program.arguments_file).unlink(missing_ok=True)  # of one that was killed
    supervisor.install(program.spec)
    supervisor.start(program.spec.name)


def waits(config: LocalClusterConfig, supervisor: ServiceSupervisor, name: str) -> bool:
    """Whether the master or the agent is a service that was started ahead, and that nobody has told anything."""
    if name not in supervisor.names() or config.program(name).told:
        return False
    # One of an earlier version of ktool has its arguments in its command line, and is in use.
    return not supervisor.differs(config.program(name).spec) or not in_use(config, name)


def in_use(config: LocalClusterConfig, name: str) -> bool:
    """Whether this machine has become a master, or a node (or was invited to be one)."""
    if name == MASTER:
        return config.ca_certificate.exists() or bool(config.store_there)
    return config.join_file.exists() or config.agent_certificate.exists()


@contextmanager
def first_of_group() -> Iterator[None]:
    """Raise the first error of a TaskGroup by itself: two steps side by side fail like two in a row."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from group
