"""`ktool inventory` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from ktool.cli import cli
from provision.inventory.lab import Lab, ProviderName
from provision.lab_state import LABS_VARIABLE, LabState
from provision.providers import factory
from provision.providers.provider import Found, MachineState

LAB = """
all:
  vars: {ktool_provider: nspawn, ktool_redfish_password: hunter2}
  children:
    masters: {hosts: {m1: {ktool_address: 192.168.150.10}}}
    workers: {hosts: {w1: {ktool_labels: {disk: ssd}, ktool_taints: ["a=b:NoSchedule"]}}}
"""


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LABS_VARIABLE, str(tmp_path / "labs"))
    path = tmp_path / "lab.yml"
    path.write_text(LAB)
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["inventory", *map(str, arguments)], prog_name="ktool")


def test_show(inventory: Path) -> None:
    found = invoke("show", "-i", inventory)
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[0] == "lab lab: network lab (nat, 192.168.150.0/24), pods 10.244.0.0/16, services 10.96.0.0/16"
    assert lines[1].split() == [
        "NAME", "ROLES", "PROVIDER", "ADDRESS", "CPUS", "MEMORY", "DISK", "LABELS", "TAINTS",
    ]  # fmt: skip
    assert lines[3].split() == [
        "w1", "worker", "nspawn", "-", "2", "1024", "MiB", "10", "GiB", "disk=ssd", "a=b:NoSchedule",
    ]  # fmt: skip


def test_show_as_data_without_secrets(inventory: Path) -> None:
    found = invoke("show", "-i", inventory, "-o", "json")
    data = json.loads(found.output)
    assert data["name"] == "lab"
    assert data["source"] == str(inventory)
    assert [machine["name"] for machine in data["machines"]] == ["m1", "w1"]
    assert data["machines"][0]["roles"] == ["master"]
    assert "hunter2" not in found.output
    assert yaml.safe_load(invoke("show", "-i", inventory, "-o", "yaml").output) == data


def test_check(inventory: Path) -> None:
    assert invoke("check", "-i", inventory).output == f"{inventory} is right: lab lab, 2 machines\n"
    inventory.write_text(LAB.replace("disk: ssd", "disk: 1").replace("192.168.150.10", "10.0.0.1"))
    found = invoke("check", "-i", inventory)
    assert found.exit_code == 1
    assert f"error: {inventory} has 2 errors:" in found.output
    assert f"{inventory}:5: host m1: ktool_address: found 10.0.0.1; wanted an address out of" in found.output
    assert 'Put it into quotes: disk: "1".' in found.output


class Machines:
    """Finds what it is told."""

    def __init__(self, found: Sequence[Found]) -> None:
        self._found = list(found)

    def find(self) -> list[Found]:
        return self._found


def test_diff_tells_drift_and_its_status(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real inventory, no cluster yet; what a provider finds is given (the providers' own tests look at real ones)."""
    running = [Found(name="m1", state=MachineState.RUNNING), Found(name="w1", state=MachineState.STOPPED)]

    def providers_for(lab: Lab, state: LabState) -> dict[ProviderName, Machines]:
        assert state == LabState.of("lab")
        return {ProviderName.NSPAWN: Machines(running)}

    monkeypatch.setattr(factory, "providers_for", providers_for)
    found = invoke("diff", "-i", inventory)
    assert found.exit_code == 1
    assert found.output.splitlines()[1].split() == ["w1", "nspawn", "state", "stopped", "running"]
    data = json.loads(invoke("diff", "-i", inventory, "-o", "json").output)
    assert data[0] == {"machine": "w1", "side": "nspawn", "field": "state", "found": "stopped", "wanted": "running"}
    assert data[1]["found"] == "no cluster"


def test_script_wants_one_question(inventory: Path) -> None:
    assert invoke("script", "--list", "--host", "a").exit_code == 2


def test_the_plugins_folder_has_the_plugin() -> None:
    assert (Path(invoke("plugins").output.strip()) / "ktool.py").is_file()
