"""Taking back everything that an agent made on this machine. Idempotent: what is gone is gone.

Order matters: containers first (they hold mounts and cgroups), then mounts, then files; the record goes last, so that
an interrupted reset can be done again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from agent import record
from agent.options import AgentOptions
from agent.record import LOCK_FILE, RECORD_FILE, AgentRecord
from kube.errors import KtoolError

CGROUPS = Path("/sys/fs/cgroup")
UNMOUNT_SECONDS = 30
# What an agent writes into its data directory; the join file is not its own.
FILES = ("pods", "pki", "kubelet.kubeconfig", "hollow", "proxy.json")

log = logging.getLogger(__name__)


async def reset(options: AgentOptions) -> None:
    """Remove containers, networks, Service rules, routes, mounts, cgroups and files of the agent of `options.data_dir`.

    KtoolError if something resists; then run it again after mending that.
    """
    data_dir = options.data_dir
    if not data_dir.exists():
        log.info("there is no %s: nothing to remove", data_dir)
        return
    with record.exclusive(data_dir):
        known = record.read(data_dir)
        if known is not None:
            if known.runtime == "docker":
                await _remove_containers(known)
            if known.proxy:
                await asyncio.to_thread(_remove_rules, known, data_dir)
            if known.routes:
                await asyncio.to_thread(_remove_routes, known)
        await asyncio.to_thread(_unmount_all, data_dir)
        if known is not None and known.runtime == "docker":
            await asyncio.to_thread(remove_cgroup, known.cgroup_parent)
        await asyncio.to_thread(_remove_files, data_dir)
    if data_dir.is_dir() and not any(data_dir.iterdir()):
        data_dir.rmdir()
    log.info("everything of the agent in %s is removed", data_dir)


async def _remove_containers(known: AgentRecord) -> None:
    from agent.runtime.docker import DockerRuntime

    runtime = DockerRuntime(known.cluster, socket=Path(known.docker_socket), network=known.network, bridge=known.bridge)
    async with runtime:
        removed = await runtime.remove_everything()
    log.info("removed %d pods, %d containers, %d networks", removed.sandboxes, removed.containers, removed.networks)


def _remove_rules(known: AgentRecord, data_dir: Path) -> None:
    from agent.proxy import proxy
    from agent.proxy.service_port import NodeNetwork

    node = NodeNetwork(
        known.node_name, cluster_cidr=known.cluster_cidr, service_cidr=known.service_cidr, bridge=known.bridge
    )
    proxy.remove(node, record=data_dir / "proxy.json")


def _remove_routes(known: AgentRecord) -> None:
    from agent.routes import kernel

    kernel.remove(cluster_cidr=known.cluster_cidr)


def mounts_below(folder: Path, mountinfo: str) -> list[str]:
    """Mount points below a folder, the innermost first; `mountinfo` is the text of /proc/self/mountinfo."""
    prefix = f"{folder}/"
    points = [_unescaped(line.split()[4]) for line in mountinfo.splitlines() if len(line.split()) > 4]
    return sorted((point for point in points if point.startswith(prefix)), key=len, reverse=True)


def _unescaped(text: str) -> str:
    """The kernel writes spaces and the like as octal numbers."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


def _unmount_all(data_dir: Path) -> None:
    for point in mounts_below(data_dir, Path("/proc/self/mountinfo").read_text()):
        done = subprocess.run(["umount", point], capture_output=True, text=True, timeout=UNMOUNT_SECONDS, check=False)
        if done.returncode != 0:
            raise KtoolError(f"cannot unmount {point}", found=done.stderr.strip(), mend="See who uses it: fuser -m")
        log.info("unmounted %s", point)


def remove_cgroup(path: str) -> None:
    """Remove a cgroup that engines made for us and left behind, if nothing is in it any more."""
    name = path.strip("/")
    if not name:
        return
    for top in [CGROUPS, *(_folders(CGROUPS))]:
        group = top / name
        if not group.is_dir() or not (group / "cgroup.procs").exists():
            continue
        for folder in sorted((Path(found) for found, _, _ in os.walk(group)), reverse=True):
            try:
                folder.rmdir()
            except OSError as error:
                log.warning("cgroup %s stays: %s", folder, error.strerror)
                break


def _folders(path: Path) -> Iterable[Path]:
    try:
        return [entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()]
    except OSError:
        return []


def _remove_files(data_dir: Path) -> None:
    for name in (*FILES, RECORD_FILE, LOCK_FILE):
        path = data_dir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
