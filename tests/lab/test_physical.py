"""Machines that exist, over SSH: five of them, three with something wrong, which is told and mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import machines
from tests.lab.lab_under_test import LabUnderTest, told

NAMES = ("p1", "p2", "p3", "p4", "p5")


@pytest.mark.machines
@pytest.mark.cluster
def test_five_hosts_of_which_three_have_something_wrong(
    make_lab: Callable[[dict[str, Any] | str], LabUnderTest],
) -> None:
    with machines.machines(NAMES, user="operator") as hosts:
        unplugged, clock, foreign = hosts[2:]
        unplugged.unplug()
        clock.wrong_clock(3600)
        foreign.foreign_cluster("k3s")
        lab = make_lab(
            machines.inventory(
                {"masters": hosts[:1], "workers": hosts[1:]}, lab="physical-test", ktool_schedulable=True
            )
        )

        first = lab.lab("create", "--boot-timeout", "20", check=False)
        assert first.returncode == 1, told(first)
        assert "2 of 5 machines are as they should be" in first.stdout, told(first)
        assert lab.nodes() == {"p1": "True", "p2": "True"}
        said = blocks(first.stderr)
        assert said.keys() == {"p3", "p4", "p5"}, told(first)
        assert "SSH" in said["p3"] or "reach" in said["p3"]
        assert "clock" in said["p4"]
        assert "k3s" in said["p5"]
        for block in said.values():
            assert "found:" in block
            assert "mend:" in block

        unplugged.plug()
        clock.right_clock()
        foreign.no_foreign_cluster("k3s")
        second = lab.lab("create")
        assert "is up" in second.stdout, told(second)
        assert lab.nodes() == dict.fromkeys(NAMES, "True")

        third = lab.lab("create")
        assert "nothing to do" in third.stdout, told(third)

        ended = lab.lab("destroy", "--yes")
        assert "Nothing of the lab physical-test is left." in ended.stdout, told(ended)
        for host in hosts:
            left = host.output(
                "ls -d /opt/ktool /var/lib/ktool /usr/local/bin/ktool 2>/dev/null; nft list tables; true"
            )
            assert "ktool" not in left, left


def blocks(stderr: str) -> dict[str, str]:
    """What is told at the end of each machine that is not as it should be."""
    found: dict[str, str] = {}
    name = ""
    for line in stderr.splitlines():
        if line.startswith("✗ ") and line.endswith(")") and " (" in line and " s)" not in line:
            name = line.split()[1]
            found[name] = ""
        elif name and line.startswith("  "):
            found[name] += line + "\n"
        elif not line.strip():
            continue
        else:
            name = ""
    return found
