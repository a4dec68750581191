"""The variables of an inventory that mean something to ktool, each with what its value may be.

docs/inventories.md describes the same list for users; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from provision.inventory import values
from provision.inventory.lab import NetworkMode, ProviderName, Store

PREFIX = "ktool_"
RUNTIMES = ("docker",)


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable. `parse` gives the value or raises Refused; `of_lab` is True if all hosts must agree on it.

    A secret's value is never shown.
    """

    name: str
    parse: Callable[[Any], Any]
    of_lab: bool = False
    secret: bool = False


class Supervisor(StrEnum):
    """What keeps ktool's services running on a machine."""

    AUTO = "auto"
    SYSTEMD = "systemd"
    SUPERVISORD = "supervisord"


_LAB = (
    Variable("ktool_lab", values.dns_label, of_lab=True),
    Variable("ktool_libvirt_uri", values.libvirt_uri, of_lab=True),
    Variable("ktool_network", values.network_name, of_lab=True),
    Variable("ktool_network_mode", values.one_of(NetworkMode), of_lab=True),
    Variable("ktool_network_cidr", values.cidr(29), of_lab=True),
    Variable("ktool_network_bridge", values.bridge, of_lab=True),
    Variable("ktool_pod_cidr", values.cidr(24), of_lab=True),
    Variable("ktool_service_cidr", values.cidr(28), of_lab=True),
    Variable("ktool_api_port", values.whole_number(1, 65535), of_lab=True),
    Variable("ktool_kubelet_port", values.whole_number(1, 65535), of_lab=True),
    Variable("ktool_store", values.one_of(Store), of_lab=True),
    Variable("ktool_forks", values.whole_number(1, 1000), of_lab=True),
)

_MACHINE = (
    Variable("ktool_provider", values.one_of(ProviderName)),
    Variable("ktool_image", values.image),
    Variable("ktool_image_checksum", values.checksum),
    Variable("ktool_image_packages", values.packages),
    Variable("ktool_cpus", values.whole_number(1, 1024)),
    Variable("ktool_memory_mib", values.whole_number(1)),
    Variable("ktool_disk_gib", values.whole_number(1)),
    Variable("ktool_address", values.ipv4_address),
    Variable("ktool_mac", values.mac),
    Variable("ktool_autostart", values.boolean),
    Variable("ktool_warm_start", values.boolean),
    Variable("ktool_labels", values.labels),
    Variable("ktool_taints", values.taints),
    Variable("ktool_runtime", values.one_of(RUNTIMES)),
    Variable("ktool_schedulable", values.boolean),
    Variable("ktool_agent", values.boolean),
    Variable("ktool_ssh_host_key", values.host_key),
    Variable("ktool_jump", values.jumps),
    Variable("ktool_wake_on_lan", values.boolean),
    Variable("ktool_redfish_url", values.http_url),
    Variable("ktool_redfish_system", values.text),
    Variable("ktool_redfish_user", values.user),
    Variable("ktool_redfish_password", values.text, secret=True),
    Variable("ktool_redfish_verify", values.boolean),
    Variable("ktool_redfish_ca_file", values.path),
    Variable("ktool_redfish_disk", values.text),
    Variable("ktool_redfish_proxy_dhcp", values.boolean),
)

# For the roles alone (docs/ansible.md): they go there as they are.
_ROLES = (
    Variable("ktool_packages", values.anything),
    Variable("ktool_remove_packages", values.boolean),
    Variable("ktool_supervisor", values.one_of(Supervisor)),
    Variable("ktool_ready_timeout", values.whole_number(1, 86400)),
)

# Ansible's own, as far as they say how a machine is reached; the others stay Ansible's.
_CONNECTION = (
    Variable("ansible_host", values.text),
    Variable("ansible_port", values.whole_number(1, 65535)),
    Variable("ansible_user", values.user),
    Variable("ansible_ssh_private_key_file", values.path),
    Variable("ansible_become", values.boolean),
    Variable("ansible_connection", values.text),
    Variable("ansible_password", values.text, secret=True),
    Variable("ansible_become_password", values.text, secret=True),
)

# Older spellings that Ansible still reads, and what they are today.
ALIASES = {
    "ansible_ssh_host": "ansible_host",
    "ansible_ssh_port": "ansible_port",
    "ansible_ssh_user": "ansible_user",
    "ansible_private_key_file": "ansible_ssh_private_key_file",
    "ansible_ssh_pass": "ansible_password",
    "ansible_ssh_password": "ansible_password",
    "ansible_become_pass": "ansible_become_password",
}

# `ktool_network` may be a mapping; its keys are these variables.
NETWORK_KEYS = {
    "name": "ktool_network",
    "mode": "ktool_network_mode",
    "cidr": "ktool_network_cidr",
    "bridge": "ktool_network_bridge",
}

VARIABLES = {variable.name: variable for variable in (*_LAB, *_MACHINE, *_ROLES, *_CONNECTION)}


def unknown(name: str) -> bool:
    """Whether a variable looks like ktool's without being one."""
    return name.startswith(PREFIX) and name not in VARIABLES


def suggestion(name: str) -> str:
    """The variable that a misspelt one was meant to be, as a sentence; or where to look."""
    near = values.closest(name, (n for n in VARIABLES if n.startswith(PREFIX)))
    return near or "docs/inventories.md lists the variables."
