"""What becomes of measured runs over SSH hosts."""

from __future__ import annotations

import psutil
import pytest

from bench.figure import Figure
from bench.ktool_lab import Made
from bench.ssh_hosts import Pair, Run, busy_seconds, exceeding, shared_cores, shares

WORKER = 3.0


def run(seconds: float, *, hosts: int = 1, busy: float = 1.4) -> Run:
    made = Made(seconds, {"install": seconds - 1, "ready": 1.0}, workstation=6.0)
    return Run(made, (6.0, *[WORKER] * (hosts - 1)), busy)


def pair(one: float, together: float, *, busy: float = 1.4) -> Pair:
    return Pair(run(one), run(together, hosts=5, busy=busy))


def named(figures: list[Figure], name: str) -> Figure:
    (found,) = (figure for figure in figures if name in figure.name)
    return found


def test_hosts_on_shared_cores_are_told_with_what_the_cores_allow() -> None:
    figures = shared_cores(pair(5.0, 13.0), cores=2)
    assert [figure.value for figure in figures] == [5.0, 13.0, 12.0, 2.6]  # (6 + 4 × 3 + 6) / 2 cores
    ratio = named(figures, "against one")
    assert (ratio.target, ratio.verdict, ratio.note) == (1.5, "missed", "on these cores at least 2.40")
    assert named(figures, "5 hosts to Ready").note == "24.0 s of processor time, 6.00 s of it the workstation's"


def test_hosts_with_a_share_are_told_by_the_median_of_their_rounds() -> None:
    figures = shares([pair(20.0, 30.0), pair(21.0, 28.0), pair(40.0, 44.0)], 0.25, cores=2)
    assert named(figures, "one host").shown == "21.0 s"
    assert named(figures, "one host").note == "3 rounds: 20.0 to 40.0 s"
    assert named(figures, "5 hosts to Ready").shown == "30.0 s"
    assert named(figures, "of it: install").shown == "29.0 s"  # of the round in the middle
    ratio = named(figures, "against one")
    assert ratio.value == pytest.approx(4 / 3)  # each round's own, not that of the medians
    assert (ratio.verdict, ratio.note) == ("ok", "3 rounds: 1.50, 1.33, 1.10")
    assert named(figures, "processor time of the master").note == "3.00 s"


@pytest.mark.parametrize(("busy", "short"), [(1.8, False), (1.81, True)])
def test_cores_that_were_the_limit_after_all_are_told(busy: float, short: bool) -> None:
    figures = shares([pair(20.0, 30.0, busy=busy)], 0.25, cores=2)
    assert ("cores were short" in named(figures, "against one").note) is short


@pytest.mark.parametrize(
    ("used", "over"),
    [
        ([], []),
        ([5.0, 4.9], []),  # all of it
        ([5.4], []),  # a period's overrun
        ([5.6, 4.0, 20.0], [5.6, 20.0]),
    ],
)
def test_a_host_that_used_more_than_its_share_had_none(used: list[float], over: list[float]) -> None:
    assert exceeding(used, 0.25, 20.0) == over


def test_cores_are_busy_with_all_but_waiting_and_guests_count_once() -> None:
    before = psutil.cpu_times()
    none = dict.fromkeys(before._fields, 0.0)
    spent = {"user": 4.0, "system": 2.0, "softirq": 0.5, "idle": 9.0, "iowait": 3.0, "guest": 2.0}
    assert busy_seconds(type(before)(**none), type(before)(**(none | spent))) == 6.5
