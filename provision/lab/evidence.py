"""What `node why` goes by: a machine as seen by its provider, over SSH and by the cluster (provision.lab.why says
what it means)."""

from __future__ import annotations

import asyncio

from kube.errors import KtoolError
from kube.models import core_v1
from kube.status import ApiError
from provision.inventory.lab import Lab, Machine, Store
from provision.lab import cluster, etcd
from provision.lab.open_lab import LOOK_SECONDS, NO_PASSWORDS, OpenLab, Passwords, opened
from provision.lab.why import Condition, Evidence
from provision.lab_state import LabState
from provision.providers.provider import Found, MachineState

AGENT_LOG = "/var/lib/ktool/log/agent.log"
LOG_LINES = 40


async def gather(lab: Lab, state: LabState, machine: Machine, passwords: Passwords = NO_PASSWORDS) -> Evidence:
    """Look at one machine from all sides. Reads only; what cannot be looked at is part of the evidence."""
    async with opened(lab, state, passwords=passwords) as open_lab:
        found = (await open_lab.find()).get(machine.name) or Found(name=machine.name, state=MachineState.ABSENT)
        unreached: KtoolError | None = None
        if found.state is MachineState.RUNNING:
            try:
                await open_lab.reach(machine, lambda line: None, timeout=LOOK_SECONDS)
            except KtoolError as error:
                unreached = error
        diagnosis = ""
        if unreached is not None or found.state is not MachineState.RUNNING:
            diagnosis = await asyncio.to_thread(open_lab.provider(machine).diagnose, machine)
        conditions, unschedulable, api_problem = await _node(open_lab, machine.name)
        facts = open_lab.facts.get(machine.name)
        return Evidence(
            machine=machine,
            found=found,
            diagnosis=diagnosis,
            unreached=unreached,
            runtime=facts.runtime_key if facts else "",
            services=facts.services if facts else None,
            docker=facts.docker.version if facts else "",
            agent_log=await _agent_log(open_lab, machine.name),
            conditions=conditions,
            api_problem=api_problem,
            unschedulable=unschedulable,
            etcd=machine.is_master and lab.store is Store.ETCD,
            membership=await _membership(open_lab, machine),
        )


async def _membership(open_lab: OpenLab, machine: Machine) -> str:
    """What is not well with a master's member of etcd, as far as the masters can say it."""
    if open_lab.lab.store is not Store.ETCD or not machine.is_master:
        return ""
    try:
        return etcd.trouble(await etcd.members(open_lab), machine.name)
    except KtoolError as error:
        return f"shares a store that does not answer: {error}"


async def _agent_log(open_lab: OpenLab, name: str) -> str:
    connection = open_lab.connections.get(name)
    if connection is None:
        return ""
    said = await asyncio.to_thread(connection.run, ["tail", "-n", str(LOG_LINES), AGENT_LOG], check=False, timeout=15)
    return said.stdout if said.status == 0 else ""


async def _node(open_lab: OpenLab, name: str) -> tuple[tuple[Condition, ...] | None, bool, str]:
    """(conditions or None, cordoned, why the cluster could not be asked)"""
    if not open_lab.state.kubeconfig.exists():
        return None, False, "there is no cluster yet"
    try:
        master = await open_lab.master_connection()
        async with cluster.connected(open_lab.state, master, port=open_lab.lab.api_port) as client:
            node = await client.get(core_v1.Node, name)
    except ApiError as error:
        return None, False, "" if error.code == 404 else error.message
    except (KtoolError, ConnectionError, TimeoutError) as error:
        return None, False, str(error)
    conditions = tuple(
        Condition(c.type or "", c.status or "", c.reason or "", c.message or "")
        for c in (node.status.conditions if node.status else None) or ()
    )
    return conditions, bool(node.spec and node.spec.unschedulable), ""
