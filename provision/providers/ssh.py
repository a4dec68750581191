"""Machines that exist and answer SSH: physical ones, or those that somebody else made.

Who we are to them and by what way they are reached say the inventory first, then the user's own SSH configuration.
Their host keys are pinned by the inventory, or known from the lab's or the user's known_hosts. One that sleeps may be
woken over the network (`ktool_wake_on_lan`).
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kube.errors import KtoolError
from provision.inventory.lab import Machine, ProviderName
from provision.providers import wake_on_lan
from provision.providers.existing import ExistingMachines
from provision.providers.provider import Found, MachineState, Report
from provision.ssh import config, known_hosts, parallel
from provision.ssh.destination import Destination
from provision.ssh.endpoint import Endpoint

LOOK_SECONDS = 2.0
WAKE_SECONDS = 180.0
# A machine that switches on may have missed the first packet: its network card was not ready yet.
WAKE_AGAIN_SECONDS = 15.0
# Ansible's names of what Machine.ssh does not keep, or keeps with a default that hides whether anything was said.
USER = ("ansible_user", "ansible_ssh_user")
PORT = ("ansible_port", "ansible_ssh_port")
PASSWORD = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
BECOME_PASSWORD = ("ansible_become_password", "ansible_become_pass", "ansible_sudo_pass")


class SSHProvider(ExistingMachines):
    """Provider of machines that exist."""

    name = ProviderName.SSH

    def find(self) -> list[Found]:
        """They are there. Those that can be woken are looked at: who does not answer is taken for asleep."""
        found = {one.name: one for one in super().find()}
        sleepers = {machine.name: machine for machine in self._machines if machine.wake_on_lan}
        awake = parallel.each(sleepers, lambda name, machine: self._answers(machine), limit=self._lab.forks).results
        return [
            replace(one, state=MachineState.STOPPED) if awake.get(name) is False else one for name, one in found.items()
        ]

    def create(self, machine: Machine, report: Report) -> bool:
        """Wake the machine if it can be woken and does not answer; KtoolError if it does not wake up."""
        if not machine.wake_on_lan or self._answers(machine):
            return False
        target = broadcast(machine)
        began = time.monotonic()
        sent = -WAKE_AGAIN_SECONDS
        while time.monotonic() - began < WAKE_SECONDS:
            if time.monotonic() - began - sent >= WAKE_AGAIN_SECONDS:
                sent = time.monotonic() - began
                wake_on_lan.wake(machine.mac, broadcast=target)
                report(f"woken by a packet for {machine.mac} to {target}; waiting for SSH")
            if self._answers(machine):
                return True
            time.sleep(1)
        raise KtoolError(
            f"{machine.name} does not wake up",
            found=f"no SSH within {WAKE_SECONDS:g} s after packets for {machine.mac} to {target}",
            wanted="a machine that switches on when its network card is told to",
            mend="allow Wake-on-LAN in its firmware and by `ethtool -s DEVICE wol g`; it must be on this network, or "
            "ktool_wake_on_lan_broadcast name its network's broadcast address",
        )

    def endpoint(self, machine: Machine, report: Report, *, timeout: float) -> Endpoint:
        """See Provider; nothing has to be waited for."""
        return endpoint(machine, labs_known_hosts=self._state.known_hosts)

    def diagnose(self, machine: Machine) -> str:
        """Whether anything listens at the machine's SSH port."""
        where = endpoint(machine, labs_known_hosts=self._state.known_hosts)
        at = f"{where.address}:{where.port}"
        if where.jump is not None:
            return f"reached through {where.jump.name}; from there: nc -vz {where.address} {where.port}"
        return f"something listens at {at}" if self._answers(machine) else f"nothing answers at {at}"

    def _answers(self, machine: Machine) -> bool:
        where = endpoint(machine, labs_known_hosts=self._state.known_hosts)
        if where.jump is not None:
            return True  # not to be seen from here
        try:
            socket.create_connection((where.address, where.port), timeout=LOOK_SECONDS).close()
        except OSError:
            return False
        return True


def endpoint(machine: Machine, *, labs_known_hosts: Path) -> Endpoint:
    """How a machine that exists is reached."""
    ssh = machine.ssh
    variables = machine.variables
    made = config.endpoint(
        machine.name,
        Destination(
            ssh.address or machine.name,
            # Defaults of the inventory's must not win over the user's configuration, what it says does.
            user=ssh.user if _said(variables, USER) or not variables else "",
            port=ssh.port if _said(variables, PORT) or not variables else 0,
        ),
        user=ssh.user,
        jump=ssh.jump or None,
    )
    own = (ssh.identity_file,) if ssh.identity_file is not None else ()
    return replace(
        made,
        identity_files=(*own, *(path for path in made.identity_files if path not in own)),
        host_keys=(ssh.host_key,) if ssh.host_key else (),
        known_hosts=(labs_known_hosts, *(made.known_hosts or known_hosts.USERS_FILES)),
        become=ssh.become,
        password=_said(variables, PASSWORD),
        become_password=_said(variables, BECOME_PASSWORD),
    )


def broadcast(machine: Machine) -> str:
    """Where a packet for a sleeping machine goes: the variable, or everybody on this machine's own network."""
    said = _said(machine.variables, ("ktool_wake_on_lan_broadcast",)) or "255.255.255.255"
    try:
        return str(ipaddress.IPv4Address(said))
    except ValueError:
        raise KtoolError(
            f"{machine.name}: ktool_wake_on_lan_broadcast is no address",
            found=said,
            wanted="an IPv4 broadcast address, such as 192.0.2.255",
        ) from None


def _said(variables: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these variables that has a value."""
    return next((str(variables[name]) for name in names if variables.get(name) not in (None, "")), "")
