"""`down`: takes away what `up` and the running cluster made on this machine, and nothing else.

    agent stopped → agent's reset (containers, networks, firewall rules, mounts) → master stopped → etcd's member taken
    out of the cluster of the other masters, and stopped → Docker Engine, if it is ours → supervisor → kernel settings →
    data directory → look whether anything is left

Works on any half-made state, and again after a `down` that could not finish: what is gone already is skipped. What
cannot be removed does not keep the rest from being removed; it is reported, each with what to do about it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from kube.clock import SystemClock
from kube.errors import KtoolError
from provision import data_dir, docker_engine, images, lock, mounts, processes, sysctl
from provision.command import CommandFailed, run
from provision.journal import Change, ChangeKind, Journal
from provision.local_cluster import enrolment
from provision.local_cluster.config import AGENT, ETCD, MASTER, LocalClusterConfig
from provision.progress import Progress, Step, step
from provision.services.detect import detect
from provision.services.service import ServiceSupervisor

logger = logging.getLogger(__name__)

RESET_SECONDS = 180.0


@dataclass(slots=True)
class Removal:
    """What `down` did. `removed` in words; `remaining` are findings that need a person, empty after a full removal;
    `kept` is what was left on purpose. `node_name` is set where the machine was a node of a cluster that goes on
    without it: its Node there is the administrator's to delete."""

    removed: list[str] = field(default_factory=list)
    remaining: list[KtoolError] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    node_name: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing of the cluster is left (but what was kept on purpose)."""
        return not self.remaining


async def down(
    config: LocalClusterConfig,
    *,
    keep_data: bool = False,
    leave: bool = True,
    progress: Progress = lambda event: None,
) -> Removal:
    """Remove the cluster from this machine. `keep_data` leaves the cluster's state and the engine's images for a later
    `up`. One of several masters is taken out of their etcd first, unless it keeps its data, or not `leave`: the whole
    cluster goes.

    Raises KtoolError only where nothing could be tried: not ours, another `up` or `down` at work, or other masters that
    could not go on.
    """
    removal = Removal()
    state = data_dir.read_state(config.data_dir)
    supervisor = detect(config.data_dir, wanted=config.supervisor)
    if not state.exists and not supervisor.names():
        return removal
    if state.exists and not state.empty and state.version is None and not config.journal_file.exists():
        raise KtoolError(
            f"{config.data_dir} holds something that is not ktool's",
            found="neither a version.json nor a journal",
            wanted="a directory that `ktool up` made",
            mend="name the right one with --data-dir",
        )
    if state.version is not None and state.version.layout != data_dir.LAYOUT:
        raise KtoolError(
            f"{config.data_dir} holds the state of another version of ktool",
            found=f"layout {state.version.layout}, written by ktool {state.version.ktool}",
            wanted=f"layout {data_dir.LAYOUT}",
            mend=f"run `ktool down` of ktool {state.version.ktool}",
        )
    removal.node_name = _joined_as(config)
    with lock.held(config.data_dir):
        journal = Journal(config.journal_file)
        member = leave and not keep_data and ETCD in supervisor.names()
        if member:
            from provision.local_cluster import etcd

            await etcd.require_leave(config, supervisor)
        of_etcd: list[tuple[str, str, Callable[[_Job], list[str]]]] = []  # none for a master with SQLite
        if member:
            of_etcd = [("etcd", "Leaving etcd, and stopping it", _leave_etcd)]
        elif ETCD in supervisor.names() or any(c.kind is ChangeKind.UNIT for c in journal.open_changes()):
            of_etcd = [("etcd", "Stopping etcd", _remove_etcd)]
        for name, title, work in (
            ("agent", "Removing pods, networks and firewall rules", _remove_agent),
            ("master", "Stopping the master", _remove_master),
            *of_etcd,
            ("docker", "Releasing Docker Engine", _release_docker),
            ("supervisor", "Stopping the supervisor", _stop_supervisor),
            ("machine", "Restoring kernel settings", _restore_machine),
            ("data", "Removing files", _remove_files),
        ):
            job = _Job(config, supervisor, journal, removal, keep_data=keep_data)
            async with step(progress, name, title) as doing:
                await asyncio.to_thread(job.run, work, doing)
    if removal.complete:
        removal.remaining += await asyncio.to_thread(leftovers, config)
    return removal


def _joined_as(config: LocalClusterConfig) -> str:
    """The name under which this machine is a node of somebody else's cluster; empty if it is not, or cannot tell."""
    if config.kubeconfig.exists():
        return ""
    try:
        member = enrolment.membership(config, clock=SystemClock())
    except KtoolError as error:  # half-made or damaged: it goes all the same
        logger.debug("the membership cannot be read: %s", error)
        return ""
    return member.node_name if member else ""


@dataclass(slots=True)
class _Job:
    config: LocalClusterConfig
    supervisor: ServiceSupervisor
    journal: Journal
    removal: Removal
    keep_data: bool

    def run(self, work: Callable[[_Job], list[str]], doing: Step) -> None:
        """Do one step; what it cannot do is noted, for the steps after it must be tried all the same."""
        try:
            done = work(self)
        except KtoolError as error:
            logger.debug("step %s", doing.name, exc_info=True)
            self.removal.remaining.append(error)
            doing.warning(str(error))
            doing.result = "not all could be removed"
            return
        self.removal.removed += done
        if done:
            doing.result = "; ".join(done)
        else:
            doing.unchanged("nothing to do")

    @property
    def member_stays(self) -> bool:
        """Whether this machine's etcd could not be taken out of the others': it serves on until a next `down` can."""
        return bool(self.removal.remaining) and ETCD in self.supervisor.names()

    @property
    def engine_stays(self) -> bool:
        """Whether our supervisor still looks after a Docker Engine (that others use by now)."""
        return docker_engine.SERVICE in self.supervisor.names()


def _remove_agent(job: _Job) -> list[str]:
    config = job.config
    done = _remove_service(job, AGENT)
    # One that waited for its invitation in vain has made nothing, and there may be no engine to ask.
    if not config.join_file.exists() and not config.agent_kubeconfig.exists():
        return done
    _revive_engine(job)
    try:
        run(config.agent_reset(), timeout=RESET_SECONDS)
    except CommandFailed as failed:
        raise KtoolError(
            "the agent could not remove everything that it made",
            found=failed.found,
            wanted="no container, network, firewall rule or mount of this cluster",
            mend="ktool down again; -v shows what it did",
        ) from failed
    return [*done, "pods, networks, firewall rules and mounts of the agent"]


def _revive_engine(job: _Job) -> None:
    """Containers can be removed only through the engine: if ours died, it is started once more."""
    if job.engine_stays and not job.supervisor.status(docker_engine.SERVICE).running:
        docker_engine.ensure(
            job.config.docker,
            supervisor=job.supervisor,
            journal=job.journal,
            log_path=job.config.log_path(docker_engine.SERVICE),
            dockerd="dockerd",
        )


def _remove_master(job: _Job) -> list[str]:
    return _remove_service(job, MASTER)


def _leave_etcd(job: _Job) -> list[str]:
    from provision.local_cluster import etcd

    # A thread of its own, so a loop of its own.
    left = asyncio.run(etcd.leave(job.config, job.supervisor))
    return [*left, *_remove_etcd(job)]


def _remove_etcd(job: _Job) -> list[str]:
    done = _remove_service(job, ETCD)
    for change in job.journal.open_changes():
        if change.kind is ChangeKind.UNIT:
            from provision.etcd import packaged_service

            done += packaged_service.put_back(job.journal, change)
    return done


def _remove_service(job: _Job, name: str) -> list[str]:
    if name not in job.supervisor.names():
        return []
    job.supervisor.remove(name)
    return [f"service {name}"]


def _release_docker(job: _Job) -> list[str]:
    if job.removal.remaining:
        return []  # what the agent could not remove can only be removed through the engine
    done = [] if job.keep_data else _remove_images(job)
    return done + docker_engine.release(
        job.config.docker, supervisor=job.supervisor, journal=job.journal, keep_data=job.keep_data
    )


def _remove_images(job: _Job) -> list[str]:
    try:
        docker_engine.version(job.config.docker.socket)
    except docker_engine.NotReachable as error:  # gone, and its images with it or out of reach
        logger.debug("no images are removed: %s", error.found)
        return []
    return images.remove_loaded(job.journal, socket=job.config.docker.socket)


def _stop_supervisor(job: _Job) -> list[str]:
    if job.engine_stays or job.member_stays:
        return []  # and so does who restarts it
    had = job.supervisor.names() or (job.config.data_dir / "services").exists()
    job.supervisor.shutdown()
    return [job.supervisor.name] if had else []


def _restore_machine(job: _Job) -> list[str]:
    done = []
    for change in job.journal.open_changes():
        if change.kind is ChangeKind.SYSCTL:
            done += _restore_sysctl(job, change)
    return done


def _restore_sysctl(job: _Job, change: Change) -> list[str]:
    restored = sysctl.restore(change)
    job.journal.close(change)
    if restored:
        return [f"{change.target} = {change.before}"]
    job.removal.kept.append(f"{change.target}: set by somebody else since")
    return []


def _remove_files(job: _Job) -> list[str]:
    directory = job.config.data_dir
    if not directory.exists():
        return []
    if job.removal.remaining:
        job.removal.kept.append(f"{directory}, for the next `ktool down` to finish")
        return []
    # The directory itself may be a file system of its own, which whoever mounted it keeps.
    remaining = mounts.unmount_below(directory, itself=False)
    if remaining:
        raise KtoolError(
            f"{directory} cannot be removed",
            found=f"mounted below it: {', '.join(remaining)}",
            wanted="no mounts, for removing would empty what is mounted",
            mend=f"umount {remaining[0]}, then ktool down again",
        )
    if job.keep_data:
        kept = [directory / name for name in data_dir.KEPT if (directory / name).exists()]
        for path in sorted(set(directory.iterdir()) - set(kept)):
            if path != job.journal.path and path.name not in data_dir.NOBODYS:
                mounts.remove_tree(path)
        job.removal.kept += map(str, kept)
        return [f"everything in {directory} but the cluster's state"]
    made = job.journal.find(ChangeKind.DIRECTORY, str(directory))
    content = [path for path in directory.iterdir() if path.name not in data_dir.NOBODYS]
    for path in sorted(content, key=lambda path: path == job.journal.path):
        mounts.remove_tree(path)  # the journal last: an interrupted removal can go on
    if made is not None and not directory.is_mount():
        directory.rmdir()
    return [str(directory)] if content or made is not None else []


def leftovers(config: LocalClusterConfig) -> list[KtoolError]:
    """What is still there of a cluster that `down` has removed: looked for on the machine, not in the journal."""
    found = []
    running = [
        pid
        for pid in processes.all_pids()
        if processes.is_alive(pid)
        and processes.has_mark_prefix(pid, f"KTOOL_SERVICE={config.data_dir}:")
        # A lab's nspawn machines have clusters of their own, in folders of the same name.
        and processes.is_in_own_pid_namespace(pid)
    ]
    if running:
        found.append(
            KtoolError(
                "processes of the cluster are left",
                found=", ".join(f"{pid} {processes.command_line(pid).split(chr(0))[0]}" for pid in running),
                wanted="none",
                mend=f"kill -9 {' '.join(map(str, running))}",
            )
        )
    mounted = mounts.mounted_below(config.data_dir, itself=False)
    if mounted:
        found.append(
            KtoolError("mounts are left", found=", ".join(mounted), wanted="none", mend=f"umount {' '.join(mounted)}")
        )
    return found
