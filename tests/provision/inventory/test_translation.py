"""From hosts with variables to a Lab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.inventory.ansible_source import Host
from provision.inventory.lab import Lab, Machine, NetworkMode, ProviderName, Role, Taint
from provision.inventory.translation import CONTROL_PLANE, Translation, lab_name, proxy_jump, translate

CONTROL_PLANE_TAINT = Taint(key=CONTROL_PLANE)


def host(name: str, *groups: str, **variables: Any) -> Host:
    return Host(name, groups or ("workers",), variables)


def translated(*hosts: Host, path: str = "/inventories/lab.yml") -> Translation:
    return translate(hosts, Path(path))


def lab_of(*hosts: Host, path: str = "/inventories/lab.yml") -> Lab:
    found = translated(*hosts, path=path)
    assert not found.findings, [str(f) for f in found.findings]
    return found.lab


def machine_of(*groups: str, **variables: Any) -> Machine:
    return lab_of(host("m", *groups, **variables)).machines[0]


def test_defaults_of_a_worker() -> None:
    machine = machine_of(ansible_host="192.0.2.1")
    assert machine.roles == {Role.WORKER}
    assert machine.provider is ProviderName.SSH
    assert (machine.ssh.address, machine.ssh.port, machine.ssh.user, machine.ssh.become) == (
        "192.0.2.1",
        22,
        "root",
        True,
    )
    assert (machine.cpus, machine.memory_mib, machine.disk_gib, machine.image.source) == (2, 1024, 10, "debian-12")
    assert not machine.taints
    assert not machine.labels
    assert machine.runs_agent


@pytest.mark.parametrize(
    ("groups", "variables", "workers", "tainted"),
    [
        (("masters",), {}, True, True),
        (("masters",), {}, False, False),  # a lab with no workers: the master takes pods
        (("masters", "workers"), {}, True, False),
        (("masters",), {"ktool_schedulable": True}, True, False),
        (("masters",), {"ktool_schedulable": False}, False, True),
        (("workers",), {"ktool_schedulable": False}, True, True),
        (("workers",), {}, True, False),
    ],
)
def test_which_machines_take_pods(
    groups: tuple[str, ...], variables: dict[str, Any], workers: bool, tainted: bool
) -> None:
    others = [host("w", "workers")] if workers else []
    machine = lab_of(host("m", *groups, **variables), *others).machines[0]
    assert (CONTROL_PLANE_TAINT in machine.taints) is tainted
    assert (CONTROL_PLANE in machine.labels) is ("masters" in groups)


def test_own_taints_and_labels_stay_beside_the_control_planes() -> None:
    first = lab_of(host("m", "masters", ktool_taints=["a:NoExecute"], ktool_labels={"b": "c"}), host("w")).machines[0]
    assert first.taints == (CONTROL_PLANE_TAINT, Taint(key="a", effect="NoExecute"))
    assert first.labels == {CONTROL_PLANE: "", "b": "c"}
    own = lab_of(host("m", "masters", ktool_taints=[f"{CONTROL_PLANE}:NoExecute"]), host("w")).machines[0]
    assert own.taints == (Taint(key=CONTROL_PLANE, effect="NoExecute"),)


def test_a_load_balancer_is_no_node_unless_it_is_a_worker_too() -> None:
    assert not machine_of("load_balancers").runs_agent
    assert machine_of("load_balancers", "workers").runs_agent
    assert machine_of("load_balancers", ktool_agent=True).runs_agent


def test_hosts_in_other_groups_are_not_ours() -> None:
    assert [m.name for m in lab_of(host("a", "workers"), host("b", "databases"), host("c", "ungrouped")).machines] == [
        "a"
    ]


@pytest.mark.parametrize("group", ["master", "worker", "Workers", "load_balancer", "wokers"])
def test_a_misspelt_group_is_an_error(group: str) -> None:
    (finding,) = translated(host("a", group)).findings
    assert finding.hosts == ("a",)
    assert "Did you mean" in finding.mend


def test_a_host_of_a_group_of_ours_may_be_in_a_similar_group_too() -> None:
    assert lab_of(host("a", "workers", "worker")).machines


@pytest.mark.parametrize(
    ("variables", "provider"),
    [
        ({"ansible_connection": "local"}, ProviderName.LOCAL),
        ({"ansible_connection": "ssh"}, ProviderName.SSH),
        ({"ktool_provider": "nspawn"}, ProviderName.NSPAWN),
        ({"ktool_provider": "libvirt", "ansible_connection": "local"}, ProviderName.LIBVIRT),
    ],
)
def test_where_a_machine_comes_from(variables: dict[str, Any], provider: ProviderName) -> None:
    assert machine_of(**variables).provider is provider


def test_ssh_settings() -> None:
    ssh = machine_of(
        ansible_host="192.0.2.1",
        ansible_port="2222",
        ansible_user="admin",
        ansible_ssh_private_key_file="keys/id",
        ansible_become="no",
        ktool_jump="a,b@c:23",
        ktool_ssh_host_key="ssh-ed25519 AAAA",
    ).ssh
    assert ssh.port == 2222
    assert ssh.user == "admin"
    assert ssh.identity_file == Path("/inventories/keys/id")
    assert ssh.jump == ("a", "b@c:23")
    assert ssh.host_key == "ssh-ed25519 AAAA"
    assert not ssh.become


def test_older_names_of_ansibles_variables() -> None:
    ssh = machine_of(ansible_ssh_host="192.0.2.1", ansible_ssh_user="admin", ansible_private_key_file="/k").ssh
    assert (ssh.address, ssh.user, ssh.identity_file) == ("192.0.2.1", "admin", Path("/k"))


@pytest.mark.parametrize(
    ("arguments", "jump"),
    [
        ("-J a@b:22,c", ("a@b:22", "c")),
        ("-o ProxyJump=a@b", ("a@b",)),
        ("-oProxyJump=b", ("b",)),
        ("-o 'proxyjump=b'", ("b",)),
        ("-o StrictHostKeyChecking=yes", ()),
        ("-J", ()),
        ("'", ()),
        ("", ()),
        ("-J -oProxyCommand=x", ()),
    ],
)
def test_jump_hosts_out_of_sshs_arguments(arguments: str, jump: tuple[str, ...]) -> None:
    assert proxy_jump({"ansible_ssh_common_args": arguments}) == jump


def test_the_network_may_be_a_mapping() -> None:
    given = {"name": "n", "mode": "isolated", "cidr": "10.9.0.0/24"}
    network = lab_of(host("m", ktool_network=given)).network
    assert (network.name, network.mode, network.cidr) == ("n", NetworkMode.ISOLATED, "10.9.0.0/24")
    network = lab_of(host("m", ktool_network="n", ktool_network_mode="existing", ktool_network_bridge="br0")).network
    assert (network.name, network.mode, network.bridge) == ("n", NetworkMode.EXISTING, "br0")


def test_an_unknown_key_of_the_network() -> None:
    (finding,) = translated(host("m", ktool_network={"crid": "10.9.0.0/24"})).findings
    assert finding.variable == "ktool_network"
    assert finding.mend == "Did you mean cidr?"


def test_values_of_the_whole_lab() -> None:
    lab = lab_of(
        host("m", "masters", ktool_lab="x", ktool_pod_cidr="10.1.0.0/16", ktool_service_cidr="10.2.0.0/16"),
        host("w", ktool_api_port=7443, ktool_forks="3", ktool_libvirt_uri="qemu:///session"),
    )
    assert (lab.name, lab.pod_cidr, lab.service_cidr) == ("x", "10.1.0.0/16", "10.2.0.0/16")
    assert (lab.api_port, lab.forks, lab.libvirt_uri) == (7443, 3, "qemu:///session")


def test_hosts_that_disagree_on_what_concerns_the_whole_lab() -> None:
    (finding,) = translated(host("a", ktool_forks=1), host("b", ktool_forks=2)).findings
    assert finding.variable == "ktool_forks"
    assert finding.found == "2, and 1 for a"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/lab.yml", "lab"),
        ("/x/My_Lab.prod.ini", "my-lab"),
        ("/x/hosts", "hosts"),
        ("/x/__.yml", ""),
        (f"/x/{'a' * 80}.yml", "a" * 40),
    ],
)
def test_the_labs_name_is_the_files(path: str, name: str) -> None:
    assert lab_name(Path(path)) == name


def test_a_folder_gives_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "Rack.7"
    folder.mkdir()
    assert lab_name(folder) == "rack-7"


def test_relative_files_are_beside_the_inventory() -> None:
    machine = machine_of(ktool_provider="redfish", ktool_image="../disk.qcow2", ktool_redfish_ca_file="ca.crt")
    assert machine.image.source == "/disk.qcow2"
    assert machine.redfish is not None
    assert machine.redfish.ca_file == Path("/inventories/ca.crt")


def test_redfish() -> None:
    machine = machine_of(
        ktool_provider="redfish", ktool_redfish_url="https://bmc", ktool_redfish_user="u", ktool_redfish_password="p",
        ktool_redfish_verify=False, ktool_redfish_disk="/dev/sdb", ktool_redfish_system="1",
    )  # fmt: skip
    assert machine.redfish is not None
    assert (machine.redfish.url, machine.redfish.user, machine.redfish.verify) == ("https://bmc", "u", False)
    assert (machine.redfish.disk, machine.redfish.system) == ("/dev/sdb", "1")
    assert machine.variables["ktool_redfish_password"] == "p"
    assert "ktool_redfish_password" not in repr(machine)
    assert machine_of(ansible_host="192.0.2.1").redfish is None


@pytest.mark.parametrize(
    ("name", "mend"),
    [("ktool_memory", "ktool_memory_mib"), ("ktool_cpu", "ktool_cpus"), ("ktool_zzz", "docs/inventories.md")],
)
def test_unknown_variables_are_errors(name: str, mend: str) -> None:
    (finding,) = translated(host("m", **{name: 1})).findings
    assert finding.variable == name
    assert mend in finding.mend


def test_other_variables_are_ansibles_own() -> None:
    machine = machine_of(http_port=80, ansible_python_interpreter="/usr/bin/python3")
    assert machine.variables == {"http_port": 80, "ansible_python_interpreter": "/usr/bin/python3"}


def test_a_variable_without_a_value_is_absent() -> None:
    assert machine_of(ktool_cpus=None).cpus == 2


def test_secrets_are_never_shown() -> None:
    plain = translated(host("m", ktool_redfish_password=["hunter2"])).findings
    vaulted = translated(Host("m", ("workers",), {"ktool_cpus": "hunter2"}, secret=("ktool_cpus",))).findings
    for findings in (plain, vaulted):
        assert len(findings) == 1
        assert "hunter2" not in str(findings[0])


def test_templates_that_failed_count_only_where_ktool_needs_them() -> None:
    found = translated(Host("m", ("workers",), {}, unresolved={"ktool_cpus": "'x' is undefined", "motd": "no"}))
    (finding,) = found.findings
    assert finding.variable == "ktool_cpus"
    assert "'x' is undefined" in finding.found


def test_a_long_value_is_cut() -> None:
    (finding,) = translated(host("m", ktool_cpus="x" * 500)).findings
    assert len(finding.found) <= 60
