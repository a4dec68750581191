"""Can the machines reach each other's ports? Tried for real, before anything is installed that would listen there.

On each machine that others must reach, a listener is started that lives for some seconds; the others connect to it,
all at once. So two short commands a machine show what a firewall, a wrong address or an isolated network does to the
cluster. Where ktool's own service listens already, nothing is tried: that it works is seen by the node being Ready.
Nor on a machine that has been set up before: after a boot its services are on their way up, and a listener would take
their ports from them.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from kube.errors import KtoolError
from provision.etcd.membership import CLIENT_PORT, PEER_PORT
from provision.facts.facts import RemoteFacts
from provision.inventory.lab import Lab, Machine, Role
from provision.preflight import connector, listener
from provision.ssh import parallel
from provision.ssh.shell import Shell

START_SECONDS = 30.0
CONNECT_SECONDS = 4.0
LISTEN_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A connection that must work: from one machine to a port of another. `error` says why it did not."""

    source: str
    target: str
    address: str
    port: int
    purpose: str
    error: str = ""


def wanted(lab: Lab, facts: Mapping[str, RemoteFacts]) -> list[Attempt]:
    """The connections to try: nodes to each API server, masters to each kubelet; without those whose target serves
    already or has been set up before, and those of machines that nothing is known of."""
    there = [machine for machine in lab.machines if machine.name in facts]
    found: list[Attempt] = []
    for target in there:
        seen = facts[target.name]
        address = seen.address(target.address)
        if not address or seen.applied:
            continue
        nodes, masters = [m for m in there if m.runs_agent], [m for m in there if m.is_master]
        etcd = target.is_master and len(lab.masters) > 1
        for serves, service, port, purpose, sources in (
            (target.is_master, "master", lab.api_port, "API server", [*nodes, *lab_balancers(lab, facts)]),
            (target.runs_agent, "agent", lab.kubelet_port, "kubelet", masters),
            (etcd, "etcd", CLIENT_PORT, "etcd", masters),
            (etcd, "etcd", PEER_PORT, "etcd peers'", masters),
            (Role.LOAD_BALANCER in target.roles, "haproxy", lab.api_port, "load balancer's", nodes),
        ):
            if not serves or seen.services.get(service) or any(one.port == port for one in seen.listeners):
                continue  # ours works, and another's is a finding of its own
            found += [
                Attempt(source.name, target.name, address, port, purpose)
                for source in sources
                if source.name != target.name
            ]
    return found


def lab_balancers(lab: Lab, facts: Mapping[str, RemoteFacts]) -> list[Machine]:
    """The lab's load balancers that something is known of, as far as they are no nodes as well."""
    return [machine for machine in lab.balancers if machine.name in facts and not machine.runs_agent]


def attempt(shells: Mapping[str, Shell], attempts: list[Attempt], *, limit: int) -> list[Attempt]:
    """Try them; each with its `error` (empty: it works). One that could not be tried is left out, as is one that came
    when the listener had ended: emulated machines that share two processors may take longer to connect."""
    attempts = [one for one in attempts if one.source in shells and one.target in shells]
    if not attempts:
        return []
    targets = {name: [one for one in attempts if one.target == name] for name in {one.target for one in attempts}}
    with ThreadPoolExecutor(max_workers=len(targets), thread_name_prefix="listeners") as pool:
        listeners = {name: _Listener(shells[name], expected) for name, expected in targets.items()}
        futures = {name: pool.submit(one.run) for name, one in listeners.items()}
        try:
            for name, one in listeners.items():
                one.wait(futures[name])
            attempts = [one for one in attempts if listeners[one.target].ready]
            sources = {name: [one for one in attempts if one.source == name] for name in {a.source for a in attempts}}
            answers = parallel.each(sources, lambda name, own: _connect(shells[name], own), limit=limit)
            ended = {name for name, future in futures.items() if future.done()}
        finally:
            for name, one in listeners.items():
                one.end(futures[name])
    order = {(one.source, one.target, one.port): number for number, one in enumerate(attempts)}
    tried = [one for several in answers.results.values() for one in several]
    tried = [one for one in tried if not (one.error and one.target in ended)]
    return sorted(tried, key=lambda one: order[one.source, one.target, one.port])


class _Listener:
    """The short-lived listener on one machine."""

    def __init__(self, shell: Shell, expected: list[Attempt]) -> None:
        self._shell = shell
        self._expected = expected
        self._told = threading.Event()
        self._pid = 0

    @property
    def ready(self) -> bool:
        """Whether it listens (or did)."""
        return self._pid != 0

    def run(self) -> None:
        """Start it, and stay until it ends."""
        want = {"ports": sorted({one.port for one in self._expected}), "seconds": LISTEN_SECONDS}
        self._shell.run(
            ["python3", "-IS", "-", json.dumps(want | {"connections": len(self._expected)})],
            stdin=inspect.getsource(listener).encode(),
            timeout=LISTEN_SECONDS + START_SECONDS,
            sudo=False,
            on_line=self._hear,
        )

    def _hear(self, line: str) -> None:
        word, _, pid = line.partition(" ")
        if word == "listening" and pid.isdigit():
            self._pid = int(pid)
            self._told.set()

    def wait(self, future: Future[None]) -> None:
        """Until it listens; if it cannot, nothing is tried with it."""
        future.add_done_callback(lambda ended: self._told.set())
        self._told.wait(START_SECONDS)

    def end(self, future: Future[None]) -> None:
        """End it if somebody it waits for did not come."""
        if self.ready and not future.done():
            try:
                future.result(0.5)
            except TimeoutError:
                self._shell.run(["kill", str(self._pid)], sudo=False, check=False)
            except KtoolError:
                pass  # looked at by whoever uses the connection next


def _connect(shell: Shell, attempts: list[Attempt]) -> list[Attempt]:
    want = {"targets": [[one.address, one.port] for one in attempts], "seconds": CONNECT_SECONDS}
    result = shell.run(
        ["python3", "-IS", "-", json.dumps(want)],
        stdin=inspect.getsource(connector).encode(),
        timeout=START_SECONDS,
        sudo=False,
    )
    said = json.loads(result.stdout)
    return [replace(one, error=str(error)) for one, error in zip(attempts, said, strict=True)]
