"""The provider against a Redfish service of fake machines: what it sees, what it leaves alone, what it remembers.

Installations, and what is behind a host key, are in test_bare_metal.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine, ProviderName, Role
from provision.lab_state import LabState
from provision.providers.provider import MachineState
from provision.providers.redfish.actions import Phase
from provision.providers.redfish.bmc import Bmc, Power
from provision.providers.redfish.installation import Installations, begun
from provision.providers.redfish.provider import RedfishProvider
from provision.ssh import known_hosts
from tests.provision.redfish.redfish_service import FAKE, PASSWORD, RedfishService, redfish_service

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMXcJQgnSRX8d4aN19wyIDxU6K76kvWUGABUqNB8nGYe"
ADDRESS = "127.0.0.1"
CLOSED_PORT = 9  # nobody answers SSH there


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedfishService]:
    with redfish_service(tmp_path_factory.mktemp("bmc"), FAKE) as running:
        yield running


@pytest.fixture
def state(tmp_path: Path) -> LabState:
    return LabState(tmp_path / "state")


@pytest.fixture
def lab(service: RedfishService, tmp_path: Path) -> Iterator[Lab]:
    machines = tuple(machine(f"metal-{number}", service) for number in (1, 2))
    yield Lab(name="metal", source=tmp_path, machines=machines)
    for one in machines:
        bmc(one).power_off(force=True)
        assert bmc(one).wait_power(Power.OFF, timeout=30)


def machine(name: str, service: RedfishService) -> Machine:
    made = Machine(
        name=name,
        provider=ProviderName.REDFISH,
        roles=frozenset({Role.WORKER}),
        address=ADDRESS,
        redfish=service.settings(name),
        variables={"ktool_redfish_password": PASSWORD},
    )
    return replace(made, ssh=replace(made.ssh, port=CLOSED_PORT))


def bmc(machine: Machine) -> Bmc:
    assert machine.redfish is not None
    return Bmc(machine.name, machine.redfish, PASSWORD)


def remember(state: LabState, machine: Machine, phase: Phase) -> None:
    assert machine.redfish is not None
    start = begun(machine, machine.redfish, image="digest")
    kept = msgspec.structs.replace(start, phase=phase, host_key=KEY, address=ADDRESS, disk="/dev/sda")
    Installations(state.provider("redfish")).keep(kept)


def quiet(line: str) -> None:
    pass


def test_blank_machines_are_absent(lab: Lab, state: LabState) -> None:
    found = RedfishProvider(lab, state).find()
    assert [(one.name, one.state, one.differences) for one in found] == [
        ("metal-1", MachineState.ABSENT, ()),
        ("metal-2", MachineState.ABSENT, ()),
    ]
    assert not state.path.exists()  # it only looked


def test_a_machine_that_runs_without_ktool_is_left_alone(lab: Lab, state: LabState) -> None:
    one = lab.machines[0]
    bmc(one).power_on()
    assert bmc(one).wait_power(Power.ON, timeout=30)
    provider = RedfishProvider(Lab(name="m", source=lab.source, machines=(one,)), state)
    assert "not installed it" in provider.find()[0].differences[0]
    with pytest.raises(KtoolError, match="left alone") as raised:
        provider.create(one, quiet)
    assert "switched off" in raised.value.wanted
    assert provider.stop(one, quiet) is False
    assert provider.remove(one.name, quiet) is False
    assert bmc(one).status().power is Power.ON


def test_an_installed_machine_is_only_switched_on(lab: Lab, state: LabState) -> None:
    one = lab.machines[0]
    remember(state, one, Phase.INSTALLED)
    provider = RedfishProvider(lab, state)
    assert provider.find()[0].state is MachineState.STOPPED
    assert provider.create(one, quiet) is True
    assert provider.find()[0].state is MachineState.RUNNING
    assert provider.create(one, quiet) is False
    endpoint = provider.endpoint(one, quiet, timeout=1)
    assert (endpoint.address, endpoint.host_keys, endpoint.agent) == (ADDRESS, (KEY,), False)
    assert provider.stop(one, quiet) is True
    assert provider.stop(one, quiet) is False


def test_what_was_written_is_started_from_disk(lab: Lab, state: LabState) -> None:
    one = lab.machines[0]
    remember(state, one, Phase.WRITTEN)
    provider = RedfishProvider(lab, state)
    assert provider.find()[0].state is MachineState.BROKEN
    assert provider.create(one, quiet) is True
    remembered = Installations(state.provider("redfish")).of(one.name)
    assert remembered is not None
    assert remembered.phase is Phase.INSTALLED


def test_remove_switches_off_and_forgets(lab: Lab, state: LabState) -> None:
    one = lab.machines[0]
    remember(state, one, Phase.INSTALLED)
    known_hosts.pin(state.known_hosts, one.name, [KEY])
    provider = RedfishProvider(lab, state)
    provider.create(one, quiet)
    said: list[str] = []
    assert provider.remove(one.name, said.append) is True
    assert "stays on /dev/sda" in said[-1]
    assert bmc(one).status().power is Power.OFF
    assert known_hosts.pinned(state.known_hosts, one.name) == ()
    assert provider.remove(one.name, quiet) is False
    provider.cleanup(quiet)
    assert not state.provider("redfish").exists()


def test_a_machine_that_left_the_inventory_can_be_removed(
    lab: Lab, state: LabState, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = lab.machines[0]
    remember(state, one, Phase.INSTALLED)
    provider = RedfishProvider(replace(lab, machines=lab.machines[1:]), state)
    found = provider.find()
    assert [(one.name, one.known) for one in found] == [("metal-2", True), ("metal-1", False)]
    assert provider.cleanup(quiet) == []
    monkeypatch.setenv("KTOOL_REDFISH_PASSWORD", PASSWORD)
    assert provider.remove(one.name, quiet) is True


def test_a_bmc_that_does_not_answer_is_told_and_stops_no_other(lab: Lab, state: LabState) -> None:
    one = lab.machines[0]
    assert one.redfish is not None
    lost = replace(one, redfish=replace(one.redfish, system="metal-9"))
    found = RedfishProvider(replace(lab, machines=(lost, lab.machines[1])), state).find()
    assert "which of its systems" in found[0].differences[0]
    assert found[1].differences == ()
    assert "which of its systems" in RedfishProvider(replace(lab, machines=(lost,)), state).diagnose(lost)


def test_without_an_installation_there_is_no_endpoint(lab: Lab, state: LabState) -> None:
    provider = RedfishProvider(lab, state)
    with pytest.raises(KtoolError, match="not installed"):
        provider.endpoint(lab.machines[0], quiet, timeout=1)


def test_bare_metal_has_no_snapshots(lab: Lab, state: LabState) -> None:
    provider = RedfishProvider(lab, state)
    assert provider.snapshots(lab.machines[0]) == []
    for act in (provider.snapshot, provider.restore):
        with pytest.raises(KtoolError, match="no snapshots"):
            act(lab.machines[0], "name", quiet)


def test_without_a_bmc_there_is_another_way(lab: Lab, state: LabState) -> None:
    bare = replace(lab.machines[0], redfish=None)
    with pytest.raises(KtoolError, match="no BMC") as raised:
        RedfishProvider(replace(lab, machines=(bare,)), state).create(bare, quiet)
    assert "ktool_wake_on_lan" in raised.value.mend


def test_memory_holds_no_secret(lab: Lab, state: LabState) -> None:
    remember(state, lab.machines[0], Phase.INSTALLED)
    (file,) = state.provider("redfish").rglob("*.json")
    assert PASSWORD not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
