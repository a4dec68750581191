"""Nodes as hosts of a dynamic inventory, and how Ansible gets into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kube import objects
from kube.errors import KtoolError
from kube.models import core_v1
from provision.inventory.cluster_hosts import ClusterHost, group_name, hosts, listing
from provision.inventory.lab import Lab, Machine, ProviderName, Role, SSHSettings
from provision.inventory.node_access import access, find_lab, with_access
from provision.lab_state import LABS_VARIABLE, LabState


def node(name: str, *, labels: dict[str, str] | None = None, ready: str = "True", **spec: Any) -> core_v1.Node:
    data: dict[str, Any] = {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": spec,
        "status": {
            "capacity": {"cpu": "1500m", "memory": "1048576Ki", "pods": "110"},
            "conditions": [{"type": "Ready", "status": ready}, {"type": "MemoryPressure", "status": "False"}],
            "addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "fd00::1"},
            ],
            "nodeInfo": {
                "kernelVersion": "6.1.0", "osImage": "Debian", "architecture": "amd64", "machineID": "abc",
                "containerRuntimeVersion": "docker://27.0", "kubeletVersion": "v1.32.0",
            },
        },
    }  # fmt: skip
    return objects.from_dict(data, core_v1.Node)


def host(*arguments: Any, **more: Any) -> ClusterHost:
    return hosts([node(*arguments, **more)])[0]


@pytest.mark.parametrize(
    ("labels", "ready", "spec", "groups"),
    [
        ({}, "True", {}, ("workers", "ready")),
        ({}, "False", {}, ("workers", "not_ready")),
        ({}, "Unknown", {"unschedulable": True}, ("workers", "not_ready", "unschedulable")),
        (
            {"node-role.kubernetes.io/control-plane": ""},
            "True",
            {},
            ("masters", "ready", "role_control_plane", "label_node_role_kubernetes_io_control_plane"),
        ),
        (
            {"node-role.kubernetes.io/gpu": "", "example.com/disk": "ssd-1.5"},
            "True",
            {},
            ("workers", "ready", "role_gpu", "label_example_com_disk_ssd_1_5", "label_node_role_kubernetes_io_gpu"),
        ),
    ],
)
def test_groups(labels: dict[str, str], ready: str, spec: dict[str, Any], groups: tuple[str, ...]) -> None:
    assert host("m", labels=labels, ready=ready, **spec).groups == groups


def test_groups_of_labels_can_be_left_out() -> None:
    assert hosts([node("m", labels={"a": "b"})], label_groups=False)[0].groups == ("workers", "ready")


def test_names_of_groups_are_ansibles() -> None:
    assert group_name("label", "a.b/c-d", "e") == "label_a_b_c_d_e"


def test_facts() -> None:
    taints = [{"key": "a", "effect": "NoSchedule"}, {"key": "b", "value": "c", "effect": "NoExecute"}]
    assert host("m", labels={"a": "b"}, podCIDR="10.244.1.0/24", taints=taints).variables == {
        "ansible_host": "192.0.2.1",
        "node_addresses": ["192.0.2.1", "fd00::1"],
        "node_roles": [],
        "node_labels": {"kubernetes.io/hostname": "m", "a": "b"},
        "node_taints": ["a:NoSchedule", "b=c:NoExecute"],
        "node_conditions": {"Ready": "True", "MemoryPressure": "False"},
        "node_cpus": 1.5,
        "node_memory_mib": 1024,
        "node_pods": 110,
        "node_pod_cidr": "10.244.1.0/24",
        "node_kernel": "6.1.0",
        "node_os_image": "Debian",
        "node_architecture": "amd64",
        "node_runtime": "docker://27.0",
        "node_kubelet_version": "v1.32.0",
        "node_machine_id": "abc",
        "node_ready": True,
        "node_unschedulable": False,
    }


def test_a_node_without_a_status_yet() -> None:
    bare = core_v1.Node()
    bare.metadata.name = "m"
    found = hosts([bare])[0]
    assert found.groups == ("workers", "not_ready")
    assert "ansible_host" not in found.variables


def test_what_a_node_says_of_itself_is_no_template() -> None:
    evil = node("m")
    assert evil.status is not None
    assert evil.status.nodeInfo is not None
    evil.status.nodeInfo.kernelVersion = "{{ lookup('pipe', 'id') }} {% x %} {# y #} {{{{"
    kernel = hosts([evil])[0].variables["node_kernel"]
    assert not any(mark in kernel for mark in ("{{", "{%", "{#"))


def test_the_scripts_listing() -> None:
    found = listing(hosts([node("b"), node("a", ready="False")]))
    assert found["workers"] == {"hosts": ["a", "b"]}
    assert found["ready"] == {"hosts": ["b"]}
    assert found["masters"] == {"hosts": []}
    assert set(found["_meta"]["hostvars"]) == {"a", "b"}
    assert found["all"]["children"][0] == "ungrouped"
    assert {"masters", "workers", "ready", "not_ready", "unschedulable"} <= set(found["all"]["children"])


def machine(provider: ProviderName = ProviderName.SSH, **ssh: Any) -> Machine:
    return Machine(name="m", provider=provider, roles=frozenset({Role.WORKER}), ssh=SSHSettings(**ssh))


def test_access_to_machines_that_ktool_made(tmp_path: Path) -> None:
    state = LabState(tmp_path)
    state.identity.parent.mkdir()
    state.identity.touch()
    for known in (machine(ProviderName.LIBVIRT), None):
        assert access("m", known, state, pinned=True) == {
            "ansible_user": "root",
            "ansible_port": 22,
            "ansible_become": False,
            "ansible_ssh_private_key_file": str(state.identity),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={state.known_hosts} -o HostKeyAlias=m"
            " -o StrictHostKeyChecking=yes",
        }


def test_access_to_machines_that_exist(tmp_path: Path) -> None:
    reached = machine(address="192.0.2.9", port=2222, user="admin", identity_file=Path("/k"), jump=("a@b:1", "c"))
    assert access("m", reached, LabState(tmp_path), pinned=False) == {
        "ansible_host": "192.0.2.9",
        "ansible_user": "admin",
        "ansible_port": 2222,
        "ansible_become": True,
        "ansible_ssh_private_key_file": "/k",
        "ansible_ssh_common_args": "-o ProxyJump=a@b:1,c",
    }
    assert access("m", machine(ProviderName.LOCAL), LabState(tmp_path), pinned=False) == {"ansible_connection": "local"}


def test_a_key_that_the_inventory_pins_comes_before_all_others(tmp_path: Path) -> None:
    reached = access("m", machine(host_key="ssh-ed25519 AAAA"), LabState(tmp_path), pinned=True)
    assert reached["ansible_ssh_common_args"] == (
        "-o 'KnownHostsCommand=/bin/echo m ssh-ed25519 AAAA' -o UserKnownHostsFile=none -o GlobalKnownHostsFile=none"
        " -o HostKeyAlias=m -o StrictHostKeyChecking=yes"
    )


def test_only_pinned_machines_get_the_labs_known_hosts(tmp_path: Path) -> None:
    state = LabState(tmp_path)
    state.known_hosts.parent.mkdir()
    state.known_hosts.write_text("# keys\na ssh-ed25519 AAAA\n")
    lab = Lab(name="lab", source=Path("x"), machines=(machine(),))
    found = with_access([ClusterHost("a", ()), ClusterHost("m", (), {"node_ready": True})], state, lab)
    assert "HostKeyAlias=a" in found[0].variables["ansible_ssh_common_args"]
    assert "ansible_ssh_common_args" not in found[1].variables
    assert found[1].variables["node_ready"]


def test_which_lab_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LABS_VARIABLE, str(tmp_path / "labs"))
    with pytest.raises(KtoolError, match="no lab 'x'"):
        find_lab("x", tmp_path)
    made = LabState.of("y")
    made.create()
    made.kubeconfig.touch()
    assert find_lab("y", tmp_path) == (made, None)
    with pytest.raises(KtoolError) as raised:
        find_lab("x", tmp_path)
    assert raised.value.found == "labs: y"
    (tmp_path / "y.ini").write_text("[masters]\nm ansible_host=192.0.2.1\n")
    state, lab = find_lab("y.ini", tmp_path)
    assert state == made
    assert lab is not None
    assert lab.machines[0].name == "m"
