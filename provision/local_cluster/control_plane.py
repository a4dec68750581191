"""`join --control-plane`: this machine becomes one more master of a cluster, and a node of it (kubeadm's of that name).

    cluster found, pin and token checked → keys of the cluster → member of etcd → then as `up`: master, agent, Ready

The keys come in the join file and nowhere else. From the moment at which they are written until the machine has its
vote in etcd, a note says that it is joining: `up` on such a machine would begin a second cluster under the same CA, and
refuses. A second `join` goes on wherever the first one was killed.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from kube import pki
from kube.clock import SystemClock
from kube.cluster_info import JoinError
from kube.errors import KtoolError
from kube.files import write_atomic, write_secret
from kube.join import CONTROL_PLANE_FILES, ControlPlane, JoinConfig
from provision.journal import Journal
from provision.local_cluster import enrolment, etcd, start
from provision.local_cluster.config import ETCD, LocalCluster, LocalClusterConfig
from provision.progress import Progress, step
from provision.services.service import ServiceSupervisor

logger = logging.getLogger(__name__)


async def join(
    config: LocalClusterConfig, invitation: JoinConfig, progress: Progress = lambda event: None
) -> LocalCluster:
    """Have this machine a master, and a node if `config.roles` says so.

    Raises JoinError (wrong pin, refused token, another cluster, no keys in the join file) and PreflightFailed with the
    machine untouched, KtoolError where a later step fails.
    """
    keys = invitation.control_plane
    if keys is None:
        raise JoinError(
            "this join file is for a node, not for a master",
            found="no controlPlane in it",
            wanted="a file with the cluster's keys",
            mend="on a master: ktool token create --control-plane --join-file FILE",
        )
    check(config, invitation, keys)
    async with step(progress, "cluster", f"The cluster at {invitation.server}") as doing:
        member = enrolment.membership(config, clock=SystemClock())
        networks = (await enrolment.look(invitation, member)).networks
        doing.unchanged(f"pods {networks.pod_cidr}, Services {networks.service_cidr}")
    config = replace(config, store=ETCD, pod_cidr=networks.pod_cidr, service_cidr=networks.service_cidr)

    async def store(config: LocalClusterConfig, supervisor: ServiceSupervisor, journal: Journal, address: str) -> None:
        write_atomic(config.joining_file, b"")
        write_keys(config, keys)
        await etcd.join(config, supervisor, journal, address, keys.etcd_endpoints, progress)
        config.joining_file.unlink()

    return await start.up(config, progress, store=store)


def check(config: LocalClusterConfig, invitation: JoinConfig, keys: ControlPlane) -> None:
    """JoinError where this machine is something else than a master, or a node, of that cluster."""
    offered = pki.ca_pin(pki.parse_cert(keys.files["ca.crt"].encode(), source="the join file"))
    if offered not in invitation.ca_cert_hashes:
        raise JoinError(
            "the join file contradicts itself",
            found=f"keys of the cluster with the CA {offered}",
            wanted=" or ".join(invitation.ca_cert_hashes),
            mend="write a new one: ktool token create --control-plane --join-file FILE",
        )
    for path in (config.ca_certificate, config.agent_ca_certificate):
        if not path.exists():
            continue
        pin = pki.ca_pin(pki.load_cert(path))
        if pin != offered:
            raise JoinError(
                "this machine is part of another cluster",
                found=f"the CA {pin} in {path}",
                wanted=f"{invitation.server}, with the CA {offered}",
                mend="take it out of that cluster first: ktool down",
            )
    if config.store_there not in ("", ETCD):
        raise JoinError(
            "this machine has a master with a store of its own",
            found=f"{config.store_there} in {config.data_dir}",
            wanted="a machine without one, or a master of that cluster",
            mend="remove that cluster first (ktool down)",
        )


def write_keys(config: LocalClusterConfig, keys: ControlPlane) -> None:
    """The cluster's keys and certificates, into their places: keys for root alone."""
    for name in CONTROL_PLANE_FILES:
        path = config.data_dir / "pki" / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = keys.files[name].encode()
        if path.exists() and path.read_bytes() == content:
            continue
        (write_secret if name.endswith(".key") else write_atomic)(path, content)


async def invitation_of(config: LocalClusterConfig) -> ControlPlane:
    """What a further master needs, from this master's files. KtoolError where there is no master, or one with SQLite,
    which nobody else can use."""
    if config.store_there != ETCD:
        raise KtoolError(
            "this master's cluster cannot have another one",
            found=f"its store is {config.store_there}" if config.store_there else f"no master in {config.data_dir}",
            wanted="a master whose store is etcd, which several share",
            mend="begin the cluster with: ktool up --store etcd",
        )
    files = {}
    for name in CONTROL_PLANE_FILES:
        path = config.data_dir / "pki" / name
        try:
            files[name] = path.read_text()
        except OSError as error:
            raise KtoolError(
                "the cluster's keys cannot be read",
                found=f"{path}: {error.strerror or error}",
                wanted="the files of a master, and the right to read them",
                mend="run it as root on a master",
            ) from error
    found, _ = await etcd.members(config)
    return ControlPlane(files=files, etcd_endpoints=etcd.endpoints(found))
