"""Five SSH hosts against one: how well ktool does side by side what hosts can do side by side.

The hosts are nspawn machines. They and the workstation share this machine's cores, real ones have processors of their
own. So it is measured twice:

- *As it is*, each host may use all cores. What five hosts cost in processor time, divided by the cores, is the least
  that it can take, whatever waits for what: the ratio is mostly this machine's.
- *With a share*: each host's control group gets a quarter of a core and no more, with one host as with five. Such a
  host is slow, but as fast beside four others as alone, as long as all shares and the workstation fit into the cores
  (`busy` says whether they did). Then the ratio is ktool's.

What the two cannot show: a network, and disks, which these hosts share too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

import psutil

from bench import ktool_lab
from bench.figure import Figure, amount
from bench.ktool_lab import Made

if TYPE_CHECKING:
    from tests.machines import Host

# Of a core, for each host. Five of them leave two cores 0.75 for the workstation, which needs about 0.3 meanwhile.
SHARE = 0.25
# A quota lets a group run over by a moment per period; much more means that it is not in force.
SLACK = 0.1
# Beyond this part of all cores, the machine's own work or somebody else's was in the way.
FULL = 0.9
TARGET = 1.5
QUIET_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Run:
    """One `ktool lab create` over hosts: how long it took, the processor seconds of each host, and how many of this
    machine's cores were busy meanwhile, with all that ran on it."""

    made: Made
    hosts: tuple[float, ...]
    busy: float

    @property
    def seconds(self) -> float:
        """By the clock."""
        return self.made.seconds

    @property
    def cost(self) -> float:
        """Processor seconds, of hosts and workstation."""
        return sum(self.hosts) + self.made.workstation


@dataclass(frozen=True, slots=True)
class Pair:
    """A run with one host, and one with all of them just after it."""

    one: Run
    together: Run

    @property
    def ratio(self) -> float:
        """How many times as long all took."""
        return self.together.seconds / self.one.seconds


def run(folder: Path, *, hosts: int = 5, rounds: int = 3) -> list[Figure]:
    """All figures of SSH hosts; needs root and the namespace of `make bench`, and writes to `folder`."""
    from provision.bundle.archive import archives
    from provision.lab_state import cache_dir
    from tests import machines

    archives(cache_dir())  # what machines get is built once for a version of ktool, and not measured here
    names = [f"h{number}" for number in range(1, hosts + 1)]
    with machines.machines(names) as there:
        for host in there:
            host.eventually("docker version")
        one, together = folder / "one.yml", folder / "all.yml"
        one.write_text(machines.inventory({"masters": there[:1]}, lab="bench-one"))
        groups = {"masters": there[:1], "workers": there[1:]}
        together.write_text(machines.inventory(groups, lab="bench-all"))

        def pair(share: float | None) -> Pair:
            return Pair(_run(folder, one, there[:1], share), _run(folder, together, there, share))

        _run(folder, together, there, None)  # what is read from disk is in memory from now on
        raw = pair(None)
        limited = [pair(SHARE) for _ in range(rounds)]
        ktool_lab.create(folder, together)
        again = ktool_lab.create(folder, together).seconds
        ktool_lab.destroy(folder, together)
    cores = os.cpu_count() or 1
    return [*shared_cores(raw, cores), *shares(limited, SHARE, cores), nothing_to_do(again, hosts)]


def _run(folder: Path, inventory: Path, hosts: Sequence[Host], share: float | None) -> Run:
    """Make a lab of hosts that have none, and undo it. With a share, RuntimeError if it was not in force."""
    for host in hosts:
        host.processor_share(share)
    try:
        time.sleep(QUIET_SECONDS)
        used, machine = [host.processor_seconds for host in hosts], psutil.cpu_times()
        began = time.monotonic()
        made = ktool_lab.create(folder, inventory)
        elapsed = time.monotonic() - began
        found = Run(
            made,
            tuple(host.processor_seconds - before for host, before in zip(hosts, used, strict=True)),
            busy_seconds(machine, psutil.cpu_times()) / elapsed,
        )
    finally:
        for host in hosts:
            host.processor_share()
    ktool_lab.destroy(folder, inventory)
    if share is not None and (over := exceeding(found.hosts, share, elapsed)):
        raise RuntimeError(f"hosts used more than {share:g} of a core for {elapsed:.1f} s: {over}")
    return found


def busy_seconds(before: psutil._pslinux.scputimes, after: psutil._pslinux.scputimes) -> float:
    """Seconds that cores worked between two looks at a machine's times; a core that waits for a disk does not."""
    spent = [then - now for now, then in zip(before, after, strict=True)]
    fields = dict(zip(before._fields, spent, strict=True))
    # What guests use is counted in `user` and `nice` already.
    return sum(value for name, value in fields.items() if name not in ("idle", "iowait", "guest", "guest_nice"))


def exceeding(hosts: Iterable[float], share: float, seconds: float) -> list[float]:
    """Processor seconds of those hosts that used more than their share of a core over `seconds`."""
    return [used for used in hosts if used > share * seconds * (1 + SLACK)]


def shared_cores(pair: Pair, cores: int) -> list[Figure]:
    """Figures of hosts that may use all cores: bounded by these, whatever waits for what."""
    count = len(pair.together.hosts)
    group = f"SSH hosts ({count} nspawn machines, all on these {cores} cores)"
    least = pair.together.cost / cores
    bound = f"on these cores at least {amount(least / pair.one.seconds)}"
    return [
        Figure(group, "one host to a Ready node", pair.one.seconds, "s", note=_cost(pair.one)),
        Figure(group, f"{count} hosts to Ready nodes", pair.together.seconds, "s", note=_cost(pair.together)),
        Figure(group, f"{count} hosts, the least that these cores allow", least, "s", note="processor time / cores"),
        Figure(group, f"{count} hosts against one", pair.ratio, "×", TARGET, note=bound),
    ]


def shares(pairs: Sequence[Pair], share: float, cores: int) -> list[Figure]:
    """Figures of hosts that have a share of a core each: medians over rounds, beside how far they lie apart."""
    count = len(pairs[0].together.hosts)
    group = f"SSH hosts ({count} nspawn machines, each with {share:g} of a core)"
    ones, all_of_them = [pair.one for pair in pairs], [pair.together for pair in pairs]
    typical = sorted(all_of_them, key=lambda one: one.seconds)[len(all_of_them) // 2]
    master = median(one.hosts[0] for one in all_of_them)
    worker = median(mean(one.hosts[1:]) for one in all_of_them)
    busy = max(one.busy for one in all_of_them)
    return [
        Figure(group, "one host to a Ready node", *_middle([one.seconds for one in ones])),
        Figure(group, f"{count} hosts to Ready nodes", *_middle([one.seconds for one in all_of_them])),
        Figure(
            group,
            f"{count} hosts against one",
            median(pair.ratio for pair in pairs),
            "×",
            TARGET,
            note=f"{len(pairs)} rounds: {', '.join(amount(pair.ratio) for pair in pairs)}{_full(busy, cores)}",
        ),
        *(Figure(group, f"of it: {name}", seconds, "s") for name, seconds in typical.made.phases.items()),
        Figure(group, "processor time of the master; a worker's in the note", master, "s", note=f"{amount(worker)} s"),
        Figure(
            group,
            f"cores busy meanwhile (of {cores}, the most)",
            busy,
            "",
            note=f"the hosts' shares: {amount(count * share)}",
        ),
    ]


def nothing_to_do(seconds: float, count: int) -> Figure:
    """The figure of a second run."""
    return Figure("SSH hosts, run again", f"{count} hosts, nothing to do", seconds, "s", 10.0)


def _middle(seconds: Sequence[float]) -> tuple[float, str, None, bool, str]:
    """A figure's value and what follows it: the median, and how far the others are away."""
    apart = f"{len(seconds)} rounds: {amount(min(seconds))} to {amount(max(seconds))} s"
    return median(seconds), "s", None, False, apart


def _full(busy: float, cores: int) -> str:
    """Says so where the cores were the limit after all."""
    return "" if busy <= FULL * cores else f"; cores were short: {amount(busy)} of {cores} busy"


def _cost(run: Run) -> str:
    return f"{amount(run.cost)} s of processor time, {amount(run.made.workstation)} s of it the workstation's"
