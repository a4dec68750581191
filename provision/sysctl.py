"""Kernel settings: set through /proc/sys, with the journal remembering what they were."""

from __future__ import annotations

from pathlib import Path

from provision.command import Runner, attempt, run
from provision.journal import Change, ChangeKind, Journal

ROOT = Path("/proc/sys")


def ensure(journal: Journal, name: str, value: str, *, root: Path = ROOT, runner: Runner = run) -> bool:
    """Have the setting `name` (`net.ipv4.ip_forward`) at `value`; True if it was changed.

    A setting that this kernel does not have, even after its module was asked for, is left out: then there is nothing
    to switch.
    """
    path = root.joinpath(*name.split("."))
    if not path.exists() and name.startswith("net.bridge."):
        attempt(runner, ["modprobe", "br_netfilter"])
    if not path.exists():
        return False
    found = path.read_text().strip()
    if found == value:
        return False
    journal.record(ChangeKind.SYSCTL, name, before=found, after=value)
    path.write_text(value)
    return True


def restore(change: Change, *, root: Path = ROOT) -> bool:
    """Put a journalled setting back; False if somebody has set it to something else since (then it is his)."""
    path = root.joinpath(*change.target.split("."))
    if not path.exists():
        return True
    found = path.read_text().strip()
    if found == change.before:
        return True
    if found != change.after:
        return False
    path.write_text(str(change.before))
    return True
