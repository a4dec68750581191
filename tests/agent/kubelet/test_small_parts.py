"""DNS settings, expansion, registry credentials, container configurations, probes' thresholds, status differences."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet import back_off
from agent.kubelet.container_config import (
    Attempt,
    container_config,
    hostname,
    refused_as_root,
    sandbox_config,
    security_of,
)
from agent.kubelet.dns import etc_hosts, needs_hosts, parse_resolv_conf, pod_dns
from agent.kubelet.expansion import expand
from agent.kubelet.handlers import resolve_port
from agent.kubelet.images import default_policy
from agent.kubelet.probes import Tally, count
from agent.kubelet.pull_secrets import credentials_for, registry_of
from agent.kubelet.references import environment_names, pod_names
from agent.kubelet.status import difference
from agent.runtime.runtime import DNSConfig, Image, Mount
from kube import objects
from kube.models import core_v1
from tests.agent.kubelet.build import exited, pod

NODE_DNS = DNSConfig(("192.0.2.53",), ("example.org",), ("timeout:1",))


def test_resolv_conf() -> None:
    text = "# comment\nnameserver 192.0.2.53\nsearch a.org\nsearch example.org\noptions timeout:1\n"
    assert parse_resolv_conf(text) == NODE_DNS


@pytest.mark.parametrize(
    ("spec", "servers", "expected"),
    [
        ({}, (), NODE_DNS),
        ({"dnsPolicy": "Default"}, ("10.96.0.10",), NODE_DNS),
        (
            {"dnsPolicy": "ClusterFirst"},
            ("10.96.0.10",),
            DNSConfig(
                ("10.96.0.10",),
                ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"),
                ("ndots:5",),
            ),
        ),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, ("10.96.0.10",), NODE_DNS),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]},
            },
            ("10.96.0.10",),
            DNSConfig(("1.1.1.1",), (), ("ndots:2",)),
        ),
    ],
)
def test_pod_dns(spec: dict[str, object], servers: tuple[str, ...], expected: DNSConfig) -> None:
    assert pod_dns(pod(**spec), NODE_DNS, cluster_servers=servers, domain="cluster.local") == expected


def test_host_aliases() -> None:
    found = etc_hosts(pod(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["a", "b"]}]), "10.244.0.5")
    assert "10.244.0.5\tweb-1\n" in found
    assert found.endswith("10.0.0.1\ta b\n")


def test_host_aliases_in_the_nodes_network() -> None:
    it = pod(hostNetwork=True, hostAliases=[{"ip": "10.0.0.1", "hostnames": ["a"]}])
    found = etc_hosts(it, "", node_hosts="127.0.0.1 localhost\n192.0.2.10 node\n\n")
    assert found == "127.0.0.1 localhost\n192.0.2.10 node\n10.0.0.1\ta\n"


def test_a_pod_with_a_subdomain_knows_its_whole_name() -> None:
    it = pod(hostname="one", subdomain="group")
    assert needs_hosts(it)
    assert "10.244.0.5\tone.group.shop.svc.cluster.local\tone\n" in etc_hosts(it, "10.244.0.5")
    assert not needs_hosts(pod(subdomain="group", hostNetwork=True))
    assert not needs_hosts(pod())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)z", "x1y2z"),
        ("$(C)", "$(C)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("", ""),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


@given(st.text(alphabet=st.characters(exclude_characters="$")))
def test_without_a_dollar_there_is_nothing_to_expand(text: str) -> None:
    assert expand(text, {"A": "1"}) == text


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("web", "docker.io"),
        ("team/web:1", "docker.io"),
        ("registry.example.org/web", "registry.example.org"),
        ("localhost:5000/web:1", "localhost:5000"),
        ("localhost/web", "localhost"),
    ],
)
def test_registry_of(reference: str, registry: str) -> None:
    assert registry_of(reference) == registry


def test_pull_credentials() -> None:
    auth = base64.b64encode(b"me:secret").decode()
    config = json.dumps({"auths": {"https://registry.example.org/v1/": {"auth": auth}}})
    secret = core_v1.Secret(
        type="kubernetes.io/dockerconfigjson",
        data={".dockerconfigjson": base64.b64encode(config.encode()).decode()},
    )
    broken = core_v1.Secret(type="kubernetes.io/dockerconfigjson", data={".dockerconfigjson": "%"})
    found = credentials_for("registry.example.org/web:1", [broken, secret])
    assert found is not None
    assert (found.username, found.password) == ("me", "secret")
    assert "secret" not in repr(found)
    assert credentials_for("other.example.org/web:1", [secret]) is None


@pytest.mark.parametrize(
    ("reference", "policy"),
    [("web", "Always"), ("web:latest", "Always"), ("web:1", "IfNotPresent"), ("host:5000/web", "Always")],
)
def test_default_pull_policy(reference: str, policy: str) -> None:
    assert default_policy(reference) == policy


PROBE = core_v1.Probe(failureThreshold=3, successThreshold=2)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("+", None),
        ("++", True),
        ("+-+", None),
        ("---", False),
        ("++--", True),
        ("++---", False),
        ("---+", False),
        ("---++", True),
        ("++--+--", True),
    ],
)
def test_thresholds(answers: str, expected: bool | None) -> None:
    tally = Tally()
    for answer in answers:
        tally = count(tally, answer == "+", PROBE)
    assert tally.result is expected


def test_ports_by_name() -> None:
    container = core_v1.Container(ports=[core_v1.ContainerPort(name="http", containerPort=8080)])
    assert resolve_port("http", container) == 8080
    assert resolve_port(80, container) == 80
    assert resolve_port("80", container) == 80
    assert resolve_port("other", container) is None


def test_back_off_grows_to_five_minutes() -> None:
    seconds, seen = back_off.next_seconds(None), []
    for attempt in range(8):
        seconds = back_off.next_seconds(exited(attempt=attempt, back_off=seconds))
        seen.append(seconds)
    assert seen == [10, 20, 40, 80, 160, 300, 300, 300]


def test_status_difference_deletes_what_is_gone() -> None:
    old = core_v1.PodStatus(phase="Running", podIP="10.0.0.1", reason="x")
    new = core_v1.PodStatus(phase="Running", podIP="10.0.0.2")
    assert difference(old, new) == {"podIP": "10.0.0.2", "reason": None}
    assert difference(None, new) == {"phase": "Running", "podIP": "10.0.0.2"}


def test_hostname_fits() -> None:
    assert hostname(pod(hostname="db")) == "db"
    long = pod()
    long.metadata.name = "a" * 62 + "-b"
    assert hostname(long) == "a" * 62


def test_sandbox() -> None:
    found = pod(hostIPC=True, shareProcessNamespace=True, terminationGracePeriodSeconds=7)
    assert found.spec is not None
    found.spec.containers[0].ports = [
        core_v1.ContainerPort(containerPort=80, hostPort=8080),
        core_v1.ContainerPort(containerPort=81),
    ]
    config = sandbox_config(found, attempt=2, dns=NODE_DNS, cgroup_parent="/ktool", node_hostname="host-a")
    assert (config.name, config.namespace, config.uid, config.attempt) == ("web-1", "shop", "u1", 2)
    assert config.hostname == "web-1"
    assert [(p.container_port, p.host_port, p.protocol) for p in config.port_mappings] == [(80, 8080, "TCP")]
    assert config.host_ipc
    assert config.share_process_namespace
    assert config.annotations == {"ktool.io/grace-period-seconds": "7"}


def test_container() -> None:
    found = pod()
    assert found.spec is not None
    spec = found.spec.containers[0]
    spec.command, spec.args = ["serve", "$(PORT)"], ["--name=$(NAME)", "$(MISSING)"]
    config = container_config(
        found,
        spec,
        Attempt(3, 40.0, "/somewhere/termination-3"),
        image=Image("sha256:1", ("web:1",), (), 1),
        env=[("PORT", "80"), ("NAME", "x")],
        mounts=[Mount("/host", "/data")],
        node_memory=1 << 30,
    )
    assert config.command == ("serve", "80")
    assert config.args == ("--name=x", "$(MISSING)")
    assert config.image == "sha256:1"
    assert config.mounts == (Mount("/host", "/data"), Mount("/somewhere/termination-3", "/dev/termination-log"))
    assert config.annotations["ktool.io/back-off-seconds"] == "40"
    assert config.annotations["ktool.io/image"] == "web:1"


def test_security_of_the_container_wins() -> None:
    found = pod(securityContext={"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000, "supplementalGroups": [5]})
    assert found.spec is not None
    spec = found.spec.containers[0]
    spec.securityContext = core_v1.SecurityContext(runAsUser=1001, allowPrivilegeEscalation=False)
    security = security_of(found, spec)
    assert (security.run_as_user, security.run_as_group) == (1001, 1000)
    assert security.supplemental_groups == (5, 2000)
    assert security.no_new_privileges


@pytest.mark.parametrize(
    ("context", "user", "refused"),
    [
        ({}, "", False),
        ({"runAsNonRoot": True}, "", True),
        ({"runAsNonRoot": True}, "0:0", True),
        ({"runAsNonRoot": True}, "app", True),
        ({"runAsNonRoot": True}, "1000", False),
        ({"runAsNonRoot": True, "runAsUser": 1000}, "", False),
        ({"runAsNonRoot": True, "runAsUser": 0}, "1000", True),
    ],
)
def test_run_as_non_root(context: dict[str, object], user: str, refused: bool) -> None:
    found = pod(securityContext=context)
    assert found.spec is not None
    assert bool(refused_as_root(found, found.spec.containers[0], Image("i", (), (), 1, user=user))) is refused


def test_names_that_a_pod_refers_to() -> None:
    data = objects.to_dict(pod(imagePullSecrets=[{"name": "pull"}]))
    data["spec"]["containers"][0]["envFrom"] = [{"configMapRef": {"name": "a"}}, {"secretRef": {"name": "b"}}]
    data["spec"]["containers"][0]["env"] = [
        {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
        {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "d", "key": "k"}}},
        {"name": "Z", "value": "1"},
    ]
    data["spec"]["volumes"] = [
        {"name": "v", "configMap": {"name": "e"}},
        {"name": "w", "secret": {"secretName": "f"}},
        {"name": "p", "projected": {"sources": [{"configMap": {"name": "g"}}, {"secret": {"name": "h"}}]}},
    ]
    found = objects.from_dict(data, core_v1.Pod)
    assert found.spec is not None
    assert environment_names(found.spec.containers[0]) == ({"a", "c"}, {"b", "d"})
    assert pod_names(found) == {"pull", *"abcdefgh"}
