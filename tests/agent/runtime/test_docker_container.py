"""What is asked of the engine for a sandbox or a container, and how its answers are read: plain tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.runtime import docker_container, docker_labels, docker_sandbox
from agent.runtime.container import (
    ContainerConfig,
    ContainerState,
    Mount,
    MountPropagation,
    Resources,
    Security,
)
from agent.runtime.docker_sandbox import NodeLimits
from agent.runtime.sandbox import DNSConfig, PortMapping, SandboxConfig, SandboxState

SANDBOX = SandboxConfig("web", "default", "u-1", hostname="web", cgroup_parent="/kubepods/podu-1")
CONTAINER = ContainerConfig("main", "web:1")
LIMITS = NodeLimits("cgroupfs", 0)
names = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1)


def sandbox_body(config: SandboxConfig, limits: NodeLimits = LIMITS) -> dict[str, Any]:
    return docker_sandbox.creation(config, cluster="c", network="ktool", limits=limits)


def container_body(config: ContainerConfig, sandbox: SandboxConfig = SANDBOX, **more: Any) -> dict[str, Any]:
    return docker_container.creation("s1", config, sandbox, **{"cluster": "c", "limits": LIMITS, **more})


@pytest.mark.parametrize(
    ("config", "field", "wanted"),
    [
        (SANDBOX, "NetworkMode", "ktool"),
        (SANDBOX, "IpcMode", "shareable"),
        (SANDBOX, "PidMode", ""),
        (SANDBOX, "CgroupParent", "/kubepods/podu-1"),
        (SANDBOX, "PortBindings", {}),
        (replace(SANDBOX, host_network=True), "NetworkMode", "host"),
        (replace(SANDBOX, host_network=True), "UTSMode", "host"),
        (replace(SANDBOX, host_pid=True), "PidMode", "host"),
        (replace(SANDBOX, host_ipc=True), "IpcMode", "host"),
        (replace(SANDBOX, sysctls={"net.core.somaxconn": "9"}), "Sysctls", {"net.core.somaxconn": "9"}),
        (replace(SANDBOX, dns=DNSConfig(("1.2.3.4",), ("a",), ("ndots:5",))), "DnsOptions", ["ndots:5"]),
        (
            replace(SANDBOX, port_mappings=(PortMapping(53, 5353, "UDP", "127.0.0.1"), PortMapping(80, 0))),
            "PortBindings",
            {"53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}]},
        ),
    ],
)
def test_sandbox(config: SandboxConfig, field: str, wanted: object) -> None:
    assert sandbox_body(config)["HostConfig"][field] == wanted


def test_a_sandbox_in_the_hosts_network_publishes_nothing_and_has_no_name_of_its_own() -> None:
    body = sandbox_body(replace(SANDBOX, host_network=True, port_mappings=(PortMapping(80, 80),)))
    assert "PortBindings" not in body["HostConfig"]
    assert (body["Hostname"], body["ExposedPorts"]) == ("", {})


@pytest.mark.parametrize(("lowest", "wanted"), [(-1000, -998), (0, 0), (-500, -500)])
def test_the_sandbox_is_killed_last_as_far_as_the_node_allows(lowest: int, wanted: int) -> None:
    assert sandbox_body(SANDBOX, NodeLimits("cgroupfs", lowest))["HostConfig"]["OomScoreAdj"] == wanted


@pytest.mark.parametrize(
    ("path", "driver", "wanted"),
    [
        ("/kubepods/burstable/pod1-2", "cgroupfs", "/kubepods/burstable/pod1-2"),
        ("/kubepods/burstable/pod1-2", "systemd", "kubepods-burstable-pod1_2.slice"),
        ("/kubepods", "systemd", "kubepods.slice"),
        ("kubepods-pod1.slice", "systemd", "kubepods-pod1.slice"),
        ("", "systemd", ""),
        ("/", "systemd", ""),
        ("", "cgroupfs", ""),
    ],
)
def test_cgroup_parent(path: str, driver: str, wanted: str) -> None:
    assert docker_sandbox.cgroup_parent(path, driver) == wanted


@pytest.mark.parametrize(
    ("config", "sandbox", "field", "wanted"),
    [
        (CONTAINER, SANDBOX, "NetworkMode", "container:s1"),
        (CONTAINER, SANDBOX, "IpcMode", "container:s1"),
        (CONTAINER, SANDBOX, "PidMode", ""),
        (CONTAINER, replace(SANDBOX, share_process_namespace=True), "PidMode", "container:s1"),
        (CONTAINER, replace(SANDBOX, host_pid=True), "PidMode", "host"),
        (CONTAINER, replace(SANDBOX, host_ipc=True), "IpcMode", "host"),
        (CONTAINER, replace(SANDBOX, host_network=True), "NetworkMode", "container:s1"),
        (CONTAINER, replace(SANDBOX, host_network=True), "UTSMode", "host"),
        (CONTAINER, SANDBOX, "RestartPolicy", {"Name": "no"}),
        (replace(CONTAINER, resources=Resources(memory_limit_bytes=9)), SANDBOX, "MemorySwap", 9),
        (replace(CONTAINER, resources=Resources(oom_score_adj=-997)), SANDBOX, "OomScoreAdj", 0),
        (replace(CONTAINER, resources=Resources(oom_score_adj=985)), SANDBOX, "OomScoreAdj", 985),
        (replace(CONTAINER, security=Security(privileged=True)), SANDBOX, "Privileged", True),
        (replace(CONTAINER, security=Security(drop_capabilities=("ALL",))), SANDBOX, "CapDrop", ["ALL"]),
        (replace(CONTAINER, security=Security(supplemental_groups=(7,))), SANDBOX, "GroupAdd", ["7"]),
        (replace(CONTAINER, security=Security(no_new_privileges=True)), SANDBOX, "SecurityOpt", ["no-new-privileges"]),
        (
            replace(CONTAINER, mounts=(Mount("/a", "/b", True, MountPropagation.BIDIRECTIONAL),)),
            SANDBOX,
            "Mounts",
            [
                {
                    "Type": "bind",
                    "Source": "/a",
                    "Target": "/b",
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rshared"},
                }
            ],
        ),
    ],
)
def test_container(config: ContainerConfig, sandbox: SandboxConfig, field: str, wanted: object) -> None:
    assert container_body(config, sandbox)["HostConfig"][field] == wanted


@pytest.mark.parametrize(
    ("security", "image_user", "wanted"),
    [
        (Security(), "app:app", ""),
        (Security(run_as_user=0), "app", "0"),
        (Security(run_as_user=1, run_as_group=2), "app:app", "1:2"),
        (Security(run_as_group=2), "app:app", "app:2"),
        (Security(run_as_group=2), "", "0:2"),
    ],
)
def test_user(security: Security, image_user: str, wanted: str) -> None:
    body = container_body(replace(CONTAINER, security=security), image_user=image_user)
    assert body["User"] == wanted


def test_command_and_arguments_replace_what_the_image_says_only_where_given() -> None:
    assert not {"Entrypoint", "Cmd", "StopSignal"} & container_body(CONTAINER).keys()
    body = container_body(replace(CONTAINER, command=("sh",), args=("-c", "x"), stop_signal="SIGINT"))
    assert (body["Entrypoint"], body["Cmd"], body["StopSignal"]) == (["sh"], ["-c", "x"], "SIGINT")


def inspection(**state: Any) -> dict[str, Any]:
    return {
        "Id": "c1",
        "Created": "2026-01-02T03:04:05.123456789Z",
        "Image": "sha256:1",
        "Config": {"Image": "web:1", "Labels": container_body(replace(CONTAINER, attempt=4))["Labels"]},
        "State": {"StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z", "ExitCode": 0, **state},
    }


STARTED = "2026-01-02T03:04:06.5Z"
FINISHED = "2026-01-02T03:04:07Z"


@pytest.mark.parametrize(("code", "reason"), [(137, "OOMKilled"), (1, "Error"), (0, "Completed")])
def test_out_of_memory_known_from_an_event_only(code: int, reason: str) -> None:
    found = inspection(Status="exited", ExitCode=code, OOMKilled=False)
    assert docker_container.inspected(found, out_of_memory=True).reason == reason


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ({"Status": "created"}, (ContainerState.CREATED, None, "")),
        ({"Status": "running", "StartedAt": STARTED}, (ContainerState.RUNNING, None, "")),
        ({"Status": "paused", "StartedAt": STARTED}, (ContainerState.RUNNING, None, "")),
        ({"Status": "exited", "StartedAt": STARTED}, (ContainerState.EXITED, 0, "Completed")),
        ({"Status": "exited", "ExitCode": 3}, (ContainerState.EXITED, 3, "Error")),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, (ContainerState.EXITED, 137, "OOMKilled")),
        ({"Status": "dead", "ExitCode": 1}, (ContainerState.EXITED, 1, "Error")),
        (
            {"Status": "created", "ExitCode": 127, "Error": "no such file"},
            (ContainerState.EXITED, 127, "ContainerCannotRun"),
        ),
        ({"Status": "removing"}, (ContainerState.UNKNOWN, None, "")),
    ],
)
def test_container_status(state: dict[str, Any], wanted: tuple[object, ...]) -> None:
    status = docker_container.inspected(inspection(**state))
    assert (status.state, status.exit_code, status.reason) == wanted
    assert status.message == state.get("Error", "")
    assert (status.id, status.sandbox_id, status.name, status.attempt) == ("c1", "s1", "main", 4)
    assert status.created_at == datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)


def test_times_of_an_ended_container() -> None:
    status = docker_container.inspected(inspection(Status="exited", StartedAt=STARTED, FinishedAt=FINISHED))
    assert status.started_at == datetime(2026, 1, 2, 3, 4, 6, 500000, UTC)
    assert status.finished_at == datetime(2026, 1, 2, 3, 4, 7, tzinfo=UTC)
    # A container that ran before and runs again has the end of its last run; it has not ended.
    running = docker_container.inspected(inspection(Status="running", StartedAt=STARTED, FinishedAt=FINISHED))
    assert running.finished_at is None


def test_sandbox_status() -> None:
    found = {
        "Id": "s1",
        "Created": "2026-01-02T03:04:05Z",
        "Config": {"Labels": sandbox_body(replace(SANDBOX, attempt=2))["Labels"]},
        "State": {"Status": "running"},
        "HostConfig": {"NetworkMode": "ktool"},
        "NetworkSettings": {"Networks": {"ktool": {"IPAddress": "10.244.0.2"}}},
    }
    status = docker_sandbox.inspected(found, "ktool")
    assert (status.ip, status.state, status.host_network) == ("10.244.0.2", SandboxState.READY, False)
    assert (status.name, status.namespace, status.uid, status.attempt) == ("web", "default", "u-1", 2)
    stopped = docker_sandbox.inspected(
        {**found, "State": {"Status": "exited"}, "HostConfig": {"NetworkMode": "host"}, "NetworkSettings": {}}, "ktool"
    )
    assert (stopped.ip, stopped.state, stopped.host_network) == ("", SandboxState.NOT_READY, True)


@given(st.dictionaries(names, st.text()), st.dictionaries(names, st.text()))
def test_labels_and_annotations_come_back_as_given(labels: dict[str, str], annotations: dict[str, str]) -> None:
    stored = docker_labels.sandbox_labels("c", replace(SANDBOX, labels=labels, annotations=annotations))
    assert docker_labels.given_annotations(stored) == annotations
    given_back = docker_labels.given_labels(stored)
    assert given_back.items() >= labels.items()
    assert all(name.startswith("io.kubernetes.") for name in given_back.keys() - labels.keys())


def test_what_the_kubelet_gives_cannot_claim_another_cluster() -> None:
    stored = docker_labels.sandbox_labels("c", replace(SANDBOX, labels={docker_labels.CLUSTER: "other"}))
    assert stored[docker_labels.CLUSTER] == "c"


def test_log_path_is_remembered_only_where_both_halves_are_given() -> None:
    sandbox = replace(SANDBOX, log_directory="/var/log/pods/x")
    wanted = {docker_labels.LOG_PATH: "/var/log/pods/x/main/0.log"}
    config = replace(CONTAINER, log_path="main/0.log")
    assert docker_labels.container_labels("c", "s1", config, sandbox).items() >= wanted.items()
    assert docker_labels.LOG_PATH not in docker_labels.container_labels("c", "s1", config, SANDBOX)
    assert docker_labels.LOG_PATH not in docker_labels.container_labels("c", "s1", CONTAINER, sandbox)
