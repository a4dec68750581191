from __future__ import annotations

import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from provision.ansible import hosts
from provision.ansible.hosts import Host, SSHFiles
from provision.inventory.lab import Lab, Machine, ProviderName, Role, Taint
from provision.ssh.endpoint import Endpoint

FILES = SSHFiles(Path("/run/x/ssh_config"), Path("/run/x/known_hosts"))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA"


def _options(arguments: str) -> dict[str, list[str]]:
    words = shlex.split(arguments)
    found: dict[str, list[str]] = {}
    for name, value in (word.split("=", 1) for flag, word in pairwise(words) if flag == "-o"):
        found.setdefault(name, []).append(value)
    return found


def test_a_pinned_machine() -> None:
    endpoint = Endpoint(
        name="a",
        address="10.0.0.1",
        port=2222,
        user="op",
        host_keys=(KEY,),
        identity_files=(Path("/k 1"),),
        agent=False,
    )
    variables = hosts.host_variables(Host(name="a", endpoint=endpoint), FILES)
    assert variables["ansible_host"] == "10.0.0.1"
    assert (variables["ansible_port"], variables["ansible_user"], variables["ansible_become"]) == (2222, "op", True)
    options = _options(variables["ansible_ssh_common_args"])
    assert options["StrictHostKeyChecking"] == ["yes"]
    assert options["UserKnownHostsFile"] == ["/run/x/known_hosts"]
    assert options["HostKeyAlias"] == ["a"]
    assert options["IdentityFile"] == ["/k 1"]
    assert options["IdentitiesOnly"] == ["yes"]
    assert "ansible_password" not in variables
    assert hosts.known_hosts([Host(name="a", endpoint=endpoint)]) == f"a {KEY}\n"


def test_a_machine_that_the_user_knows() -> None:
    known = Endpoint(name="a", address="10.0.0.1", known_hosts=(Path("/home/me/.ssh/known_hosts"),))
    options = _options(hosts.host_variables(Host(name="a", endpoint=known), FILES)["ansible_ssh_common_args"])
    assert options["UserKnownHostsFile"] == ["/home/me/.ssh/known_hosts"]
    assert "HostKeyAlias" not in options
    assert options["StrictHostKeyChecking"] == ["yes"]
    bare = Endpoint(name="a", address="10.0.0.1")
    options = _options(hosts.host_variables(Host(name="a", endpoint=bare), FILES)["ansible_ssh_common_args"])
    assert "UserKnownHostsFile" not in options
    assert options["StrictHostKeyChecking"] == ["yes"]


@pytest.mark.parametrize(("user", "become"), [("root", False), ("op", True)])
def test_root_needs_no_sudo(user: str, become: bool) -> None:
    endpoint = Endpoint(name="a", address="10.0.0.1", user=user)
    assert hosts.host_variables(Host(name="a", endpoint=endpoint), FILES)["ansible_become"] is become


def test_the_inventory_does_not_override_the_way_to_a_machine() -> None:
    said = {
        "ansible_host": "10.9.9.9",
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no",
        "ansible_ssh_pass": "x",
        "ansible_python_interpreter": "/usr/bin/python3.12",
        "mine": 1,
    }
    endpoint = Endpoint(name="a", address="10.0.0.1", host_keys=(KEY,))
    variables = hosts.host_variables(Host(name="a", endpoint=endpoint, variables=said), FILES)
    assert variables["ansible_host"] == "10.0.0.1"
    assert "StrictHostKeyChecking=no" not in variables["ansible_ssh_common_args"]
    assert "ansible_ssh_pass" not in variables
    assert variables["ansible_python_interpreter"] == "/usr/bin/python3.12"
    assert variables["mine"] == 1


def test_this_machine() -> None:
    variables = hosts.host_variables(Host(name="here", endpoint=None), FILES)
    assert variables["ansible_connection"] == "local"
    assert hosts.known_hosts([Host(name="here", endpoint=None)]) == ""


@pytest.mark.parametrize(("user", "become", "wanted"), [("root", True, False), ("", True, True), ("", False, False)])
def test_root_on_this_machine(monkeypatch: pytest.MonkeyPatch, user: str, become: bool, wanted: bool) -> None:
    monkeypatch.setattr(hosts, "here", lambda: user)
    endpoint = Endpoint(
        name="here", address="10.0.0.1", local=True, become=become, become_password="secret", host_keys=(KEY,)
    )
    host = Host(name="here", endpoint=endpoint)
    variables = hosts.host_variables(host, FILES)
    assert variables["ansible_connection"] == "local"
    assert variables["ansible_become"] is wanted
    assert variables["ansible_become_password"] == "secret"
    assert "ansible_host" not in variables
    assert hosts.known_hosts([host]) == ""


def test_jump_hosts_are_passed_in_order(tmp_path: Path) -> None:
    """As OpenSSH itself understands it."""
    outer = Endpoint(name="gate", address="198.51.100.1", user="me", host_keys=(KEY,), identity_files=(Path("/outer"),))
    inner = Endpoint(name="inner", address="10.0.0.2", port=2200, user="you", jump=outer, known_hosts=(Path("/known"),))
    target = Endpoint(name="a", address="10.0.0.3", jump=inner, host_keys=(KEY,))
    machine = Host(name="a", endpoint=target)
    files = SSHFiles(tmp_path / "config", tmp_path / "known_hosts")
    files.config.write_text(hosts.ssh_config([machine], files))

    def settings(name: str, *arguments: str) -> dict[str, str]:
        done = subprocess.run(["ssh", "-G", *arguments, name], capture_output=True, text=True, check=True)
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)

    first = settings("10.0.0.3", *hosts.ssh_arguments("a", target, files))
    assert first["proxyjump"] == "ktool-jump-0.a"
    second = settings(first["proxyjump"], "-F", str(files.config))
    assert (second["hostname"], second["port"], second["user"]) == ("10.0.0.2", "2200", "you")
    assert (second["userknownhostsfile"], second["proxyjump"]) == ("/known", "ktool-jump-1.a")
    third = settings(second["proxyjump"], "-F", str(files.config))
    assert (third["hostname"], third["user"], third["identityfile"]) == ("198.51.100.1", "me", "/outer")
    assert third["hostkeyalias"] == "ktool-jump-1.a"
    assert third["stricthostkeychecking"] in ("true", "yes")
    assert "proxyjump" not in third
    assert hosts.known_hosts([machine]) == f"a {KEY}\nktool-jump-1.a {KEY}\n"


def test_passwords_are_variables_only() -> None:
    endpoint = Endpoint(
        name="a", address="10.0.0.1", user="op", password="first-secret", become_password="second-secret"
    )
    machine = Host(name="a", endpoint=endpoint)
    variables = hosts.host_variables(machine, FILES)
    assert (variables["ansible_password"], variables["ansible_become_password"]) == ("first-secret", "second-secret")
    for text in (variables["ansible_ssh_common_args"], hosts.ssh_config([machine], FILES), repr(machine)):
        assert "secret" not in text


def test_groups() -> None:
    machines = [
        Host(name="m", endpoint=None, groups=("all", "masters")),
        Host(name="w", endpoint=None, groups=("all", "workers", "rack_a")),
    ]
    found = hosts.inventory(machines, FILES)["all"]
    assert set(found["hosts"]) == {"m", "w"}
    assert {name: list(group["hosts"]) for name, group in found["children"].items()} == {
        "load_balancers": [],
        "masters": ["m"],
        "rack_a": ["w"],
        "workers": ["w"],
    }


def test_a_labs_machine() -> None:
    machine = Machine(
        name="m1",
        provider=ProviderName.SSH,
        roles=frozenset({Role.MASTER}),
        groups=("masters",),
        labels={"tier": "one"},
        taints=(Taint(key=hosts.CONTROL_PLANE), Taint(key="gpu", value="yes", effect="NoExecute")),
        variables={"ktool_labels": "tier=other", "mine": 1},
    )
    lab = Lab(name="x", source=Path("/x"), machines=(machine,), api_port=7443)
    host = hosts.of_machine(lab, machine, None, address="10.0.0.1", tls_sans=["lb.example"])
    assert host.variables["ktool_labels"] == {"tier": "one"}
    assert host.variables["ktool_taints"] == [f"{hosts.CONTROL_PLANE}:NoSchedule", "gpu=yes:NoExecute"]
    assert host.variables["ktool_schedulable"] is False
    assert host.variables["ktool_node_address"] == "10.0.0.1"
    assert host.variables["ktool_api_port"] == 7443
    assert host.variables["ktool_tls_sans"] == ["lb.example"]
    assert host.variables["mine"] == 1
    assert "ktool_server" not in host.variables, "the roles know the master's address themselves"
