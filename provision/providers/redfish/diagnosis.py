"""What can be seen of a machine from outside, in words for who has to find out why it does not come."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from provision.providers.redfish.actions import Phase
from provision.providers.redfish.bmc import BmcStatus
from provision.providers.redfish.installation import Installation

LOG_LINES = 12


def diagnosis(
    installation: Installation | None, *, bmc: str, address: str, installer: Sequence[str], dnsmasq: Sequence[str]
) -> str:
    """The whole, a line each: how far the installation is, the BMC's word, the ends of two logs."""
    phase = installation.phase if installation else Phase.NEW
    where = f", on {installation.disk}, address {address}" if installation and installation.host_key else ""
    lines = [f"installation: {phase.value}{where}", f"BMC: {bmc}"]
    lines += _section("the installer said:", installer)
    lines += _section("dnsmasq saw:", without_secrets(dnsmasq))
    return "\n".join(lines)


def told(status: BmcStatus) -> str:
    """A BMC's status in words."""
    parts = [f"power {status.power.value}", f"next boot {status.boot.value}"]
    parts += [f"health {status.health}"] if status.health else []
    parts += [status.model] if status.model else []
    return ", ".join(parts)


def without_secrets(lines: Sequence[str]) -> list[str]:
    """dnsmasq's log without what only the machine itself is told."""
    return [re.sub(r"(http://[^/\s]+/)[^/\s]+", r"\1...", line) for line in lines]


def last_lines(path: Path, *, containing: str = "") -> list[str]:
    """The end of a log, if there is one: of its lines with this text."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if containing in line.lower()][-LOG_LINES:]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines)] if lines else []
