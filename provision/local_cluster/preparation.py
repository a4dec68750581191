"""Before `join` and `up`: what a machine can do while nobody can invite it, or even knows what it will be.

`prepare`, as its master is only being made:

    preflight → data directory, kernel settings → Docker Engine → an agent that waits for its join file

To load an agent takes a slow machine seconds; done here, it costs no time of its own. `join` finds all of it in place
and writes the file that the agent waits for. Where that never comes, the agent ends after some minutes and is started
anew; `down` removes it like any other.

`preload`, where not even its name is known, for all machines that will go on from its memory:

    data directory, kernel settings → agent, master: loaded, waiting for their arguments (kube.late_arguments)

Nothing is imported that talks to an API server: there is none yet.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from kube.errors import KtoolError
from kube.late_arguments import waiting_file
from provision import lock
from provision.journal import Journal
from provision.local_cluster import steps
from provision.local_cluster.config import AGENT, MASTER, LocalClusterConfig
from provision.progress import Progress, step
from provision.services.detect import detect
from provision.services.service import tail

# An emulated machine takes half a minute for both programs side by side.
LOAD_SECONDS = 300.0
POLL_SECONDS = 0.5


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
            agent = config.agent(node_address=address)
            doing.changed = await asyncio.to_thread(steps.run_service, supervisor, agent)
            doing.result = "waits for its join file"
    return address


async def preload(config: LocalClusterConfig, progress: Progress = lambda event: None) -> bool:
    """Have the programs of `config.roles` loaded, each waiting for its arguments. One that has them is left as it is;
    a machine that is part of a cluster, or was, is left alone altogether (False).

    KtoolError where one does not get that far.
    """
    supervisor = detect(config.data_dir, wanted=config.supervisor)
    if any(steps.in_use(config, name) for name in (MASTER, AGENT)):
        return False
    with lock.held(config.data_dir):
        await steps.prepare(config, supervisor, Journal(config.journal_file), progress)
        programs = [config.program(name) for name in (MASTER, AGENT) if name in config.roles]
        async with step(progress, "preload", " and ".join(p.spec.name for p in programs).capitalize()) as doing:
            for program in programs:
                await asyncio.to_thread(steps.start_ahead, supervisor, program)
            end = time.monotonic() + LOAD_SECONDS
            while missing := [p for p in programs if not p.told and not waiting_file(p.arguments_file).exists()]:
                if time.monotonic() > end:
                    log = missing[0].spec.log_path
                    raise KtoolError(
                        f"the {missing[0].spec.name} does not get loaded",
                        found=tail(log, lines=3) or "nothing in its log",
                        wanted=f"loaded within {LOAD_SECONDS:g} s",
                        mend=f"see {log}",
                    )
                await asyncio.sleep(POLL_SECONDS)
            doing.result = "loaded; waiting for what to do"
    return True


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
