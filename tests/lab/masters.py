"""A lab with three masters behind a load balancer, on nspawn machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from provision.inventory.lab import ImageSettings, ProviderName
from provision.inventory.read import read
from provision.lab_state import LabState
from provision.providers.factory import providers_for
from provision.providers.nspawn.provider import NspawnProvider
from tests.lab.lab_under_test import CHECKOUT, LabUnderTest

MASTERS = ("master-1", "master-2", "master-3")
IMAGE = ImageSettings(packages=("etcd-server", "haproxy"))


def inventory(name: str, *, workers: Sequence[str]) -> dict[str, Any]:
    """The one that ktool ships, with nspawn machines."""
    found: dict[str, Any] = yaml.safe_load((CHECKOUT / "inventories" / "three-masters.yml").read_text())
    found["all"]["vars"] |= {
        "ktool_lab": name,
        "ktool_provider": "nspawn",
        "ktool_network": {"mode": "isolated", "cidr": "192.168.152.0/24"},
        "ktool_cpus": 2,
    }
    found["all"]["children"]["workers"]["hosts"] = dict.fromkeys(workers)
    return found


def members(lab: LabUnderTest, on: str) -> dict[str, bool]:
    """Who is in etcd, and whether it is well, as a master sees it."""
    said = lab.node("ssh", on, "ktool etcd members -o json", check=False).stdout
    return {one["name"]: one["healthy"] and not one["learner"] for one in json.loads(said)}


def provider(lab: LabUnderTest) -> NspawnProvider:
    """What makes the lab's machines, for what no command does: cutting cables and power."""
    found = providers_for(read(lab.inventory), LabState(lab.state))[ProviderName.NSPAWN]
    assert isinstance(found, NspawnProvider)
    return found
