"""Machines that exist: how the inventory and the user's configuration make an endpoint; waking; this machine."""

from __future__ import annotations

import dataclasses
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine, ProviderName, Role, SSHSettings
from provision.lab_state import LabState
from provision.providers import ssh, wake_on_lan
from provision.providers.local import LocalProvider
from provision.providers.provider import MachineState, Provider
from provision.providers.ssh import SSHProvider
from provision.ssh import config, known_hosts
from provision.ssh.reach import reach
from tests.ports import free_port
from tests.sshd import missing, sshd

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ+pbtdUkJ5UYPkXkIcQ0ZtHNmGrJzTjz3oMLLs0Tw0Z"


@pytest.fixture(autouse=True)
def users_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("Host web1\n  HostName 192.0.2.11\n  User alice\n  Port 2222\n")
    monkeypatch.setattr(config.settings, "__defaults__", ((tmp_path / "config",),))
    monkeypatch.setattr(
        config.endpoint, "__kwdefaults__", config.endpoint.__kwdefaults__ | {"files": (tmp_path / "config",)}
    )


def machine(name: str = "web1", provider: ProviderName = ProviderName.SSH, **changes: Any) -> Machine:
    variables = {"ktool_provider": "ssh"}
    made = Machine(name=name, provider=provider, roles=frozenset({Role.WORKER}), variables=variables)
    return dataclasses.replace(made, **changes)


def lab(*machines: Machine) -> Lab:
    return Lab(name="lab", source=Path("lab.yml"), machines=machines)


def test_the_inventory_says_nothing_so_the_users_configuration_does(tmp_path: Path) -> None:
    found = ssh.endpoint(machine(), labs_known_hosts=tmp_path / "known")
    assert (found.name, found.address, found.user, found.port) == ("web1", "192.0.2.11", "alice", 2222)
    assert found.known_hosts == (tmp_path / "known", *known_hosts.USERS_FILES)
    other = ssh.endpoint(machine("web2"), labs_known_hosts=tmp_path / "known")
    assert (other.address, other.user, other.port, other.host_keys) == ("web2", "root", 22, ())


def test_the_inventory_counts_first(tmp_path: Path) -> None:
    settings = SSHSettings(
        address="web1",
        port=22,
        user="bob",
        identity_file=tmp_path / "key",
        jump=("carol@gate:2200",),
        host_key=KEY,
        become=False,
    )
    variables = {
        "ansible_user": "bob",
        "ansible_port": 22,
        "ansible_password": "word1",
        "ansible_become_password": "word2",
    }
    found = ssh.endpoint(machine("m", ssh=settings, variables=variables), labs_known_hosts=tmp_path / "known")
    assert (found.name, found.address, found.user, found.port) == ("m", "192.0.2.11", "bob", 22)
    assert (found.identity_files, found.host_keys, found.become) == ((tmp_path / "key",), (KEY,), False)
    assert (found.password, found.become_password) == ("word1", "word2")
    assert "word" not in repr(found).replace("password", "")
    assert found.jump is not None
    assert (found.jump.user, found.jump.address, found.jump.port) == ("carol", "gate", 2200)


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_a_machine_of_an_inventory_is_reached(tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd") as server:
        settings = SSHSettings(address="127.0.0.1", port=server.port, identity_file=server.identity)
        one = machine("one", ssh=settings, variables={"ansible_port": server.port})
        state = LabState(tmp_path / "lab")
        provider: Provider = SSHProvider(lab(one), state)
        known_hosts.pin(state.known_hosts, "one", [server.host_key])
        with reach(provider.endpoint(one, print, timeout=5), timeout=10) as shell:
            assert shell.run(["echo", "there"]).stdout == "there\n"
        assert provider.diagnose(one) == f"something listens at 127.0.0.1:{server.port}"
    assert [(found.name, found.state, found.address) for found in provider.find()] == [
        ("one", MachineState.RUNNING, "127.0.0.1")
    ]
    assert not provider.create(one, print)
    assert not provider.remove("one", print)
    with pytest.raises(KtoolError, match="no snapshots"):
        provider.snapshot(one, "now", print)


def test_magic_packets() -> None:
    packet = wake_on_lan.magic_packet("52:54:00:12:34:56")
    assert packet == b"\xff" * 6 + bytes.fromhex("525400123456") * 16
    assert packet == wake_on_lan.magic_packet("5254.0012.3456") == wake_on_lan.magic_packet("52-54-00-12-34-56")
    for wrong in ("", "52:54:00:12:34", "52:54:00:12:34:5g"):
        with pytest.raises(KtoolError, match="ktool_mac"):
            wake_on_lan.magic_packet(wrong)


def test_a_sleeping_machine_is_woken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It "wakes" when a packet for it comes: then something listens at its SSH port."""
    port = free_port()
    awake: list[socket.socket] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        card.bind(("127.0.0.1", 0))
        card.settimeout(10)
        monkeypatch.setattr(wake_on_lan.wake, "__kwdefaults__", {"broadcast": "", "port": card.getsockname()[1]})

        def sleep() -> None:
            if card.recv(1024) == wake_on_lan.magic_packet("52:54:00:00:00:01"):
                awake.append(socket.create_server(("127.0.0.1", port)))

        sleeper = threading.Thread(target=sleep)
        sleeper.start()
        settings = SSHSettings(address="127.0.0.1", port=port)
        variables = {"ansible_port": port, "ktool_wake_on_lan_broadcast": "127.0.0.1"}
        one = machine("one", ssh=settings, wake_on_lan=True, mac="52:54:00:00:00:01", variables=variables)
        provider = SSHProvider(lab(one), LabState(tmp_path))
        assert [found.state for found in provider.find()] == [MachineState.STOPPED]
        told: list[str] = []
        assert provider.create(one, told.append)
        sleeper.join()
    assert told == ["woken by a packet for 52:54:00:00:00:01 to 127.0.0.1; waiting for SSH"]
    assert [found.state for found in provider.find()] == [MachineState.RUNNING]
    assert not provider.create(one, told.append)
    for listener in awake:
        listener.close()
    wrong = dataclasses.replace(one, variables=variables | {"ktool_wake_on_lan_broadcast": "everybody"})
    with pytest.raises(KtoolError, match="no address"):
        provider.create(wrong, told.append)


def test_this_machine(tmp_path: Path) -> None:
    here = machine("here", provider=ProviderName.LOCAL)
    provider: Provider = LocalProvider(lab(here), LabState(tmp_path))
    endpoint = provider.endpoint(here, print, timeout=1)
    assert endpoint.local
    assert provider.find()[0].state is MachineState.RUNNING
    with reach(endpoint, timeout=1) as shell:
        assert shell.run(["hostname"]).stdout.strip() == socket.gethostname()
