"""Before `join`: what a machine can do while nobody can invite it, as its master is only being made.

    preflight → data directory, kernel settings → Docker Engine → an agent that waits for its join file

To load an agent takes a slow machine seconds; done here, it costs no time of its own. `join` finds all of it in place
and writes the file that the agent waits for. Where that never comes, the agent ends after some minutes and is started
anew; `down` removes it like any other.

Nothing is imported that talks to an API server: there is none yet.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from provision import lock
from provision.journal import Journal
from provision.local_cluster import steps
from provision.local_cluster.config import AGENT, LocalClusterConfig
from provision.progress import Progress, step
from provision.services.detect import detect


async def prepare(config: LocalClusterConfig, progress: Progress = lambda event: None) -> str:
    """Have this machine ready to join, as a node with these settings; its address. One that has joined, or was invited,
    is left as it is.

    `pod_cidr` and `service_cidr` are those that the cluster will have; where it has others, `join` starts the agent
    anew. Raises JoinError where the machine is a master, PreflightFailed with the machine untouched, KtoolError where a
    later step fails.
    """
    config = replace(config, roles=frozenset({AGENT}))
    config.check()
    check_no_master(config)
    supervisor = detect(config.data_dir, wanted=config.supervisor)
    address = await steps.check_machine(config, supervisor, progress, [])
    if config.join_file.exists() or config.agent_certificate.exists():
        return address
    with lock.held(config.data_dir):
        journal = Journal(config.journal_file)
        await steps.prepare(config, supervisor, journal, progress)
        await steps.start_engine(config, supervisor, journal, progress)
        async with step(progress, AGENT, "Agent (waits for its join file)") as doing:
            spec = config.agent_spec(node_address=address)
            doing.changed = await asyncio.to_thread(steps.run_service, supervisor, spec)
            doing.result = "waits for its join file"
    return address


def check_no_master(config: LocalClusterConfig) -> None:
    """JoinError where this machine has a master, whose node it is."""
    if config.kubeconfig.exists() or config.ca_certificate.exists():
        from kube.cluster_info import JoinError

        raise JoinError(
            "this machine has a master of its own",
            found=f"a cluster's certificates in {config.data_dir}",
            wanted="a machine without a cluster",
            mend="remove that cluster first (ktool down), or join with another --data-dir",
        )
