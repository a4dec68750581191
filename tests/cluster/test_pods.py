"""What pods get from their node: volumes, environment, probes, limits, an identity, a graceful end."""

from __future__ import annotations

import base64
import time
from datetime import datetime
from pathlib import Path

from tests.cluster import manifests
from tests.cluster.manifests import container, pod
from tests.cluster.real_cluster import Cluster, eventually, is_ready


def test_config_map_files_follow_the_config_map(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_config_map(namespace, manifests.config_map("settings", color="blue"))
    cluster.core.create_namespaced_pod(
        namespace,
        pod(
            "reader",
            container(volumeMounts=[{"name": "files", "mountPath": "/etc/settings"}]),
            volumes=[{"name": "files", "configMap": {"name": "settings"}}],
        ),
    )
    cluster.running(namespace, "reader")
    assert cluster.sh(namespace, "reader", "cat /etc/settings/color") == "blue"
    cluster.core.patch_namespaced_config_map("settings", namespace, {"data": {"color": "green", "shape": "round"}})
    eventually(
        lambda: cluster.sh(namespace, "reader", "cat /etc/settings/color /etc/settings/shape"),
        lambda text: text == "greenround",
        timeout=90,
        what="the mounted files follow",
    )


def test_environment_from_all_sources(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_secret(
        namespace, {"metadata": {"name": "key"}, "data": {"password": base64.b64encode(b"s3cret").decode()}}
    )
    cluster.core.create_namespaced_config_map(namespace, manifests.config_map("settings", COLOR="blue", SIZE="big"))
    field = lambda path: {"valueFrom": {"fieldRef": {"fieldPath": path}}}  # noqa: E731
    main = container(
        "env | sort; cat /run/secret/password; echo; exec sleep 600",
        envFrom=[{"configMapRef": {"name": "settings"}, "prefix": "CM_"}],
        env=[
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "key", "key": "password"}}},
            {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOR"}}},
            {"name": "NAME", **field("metadata.name")},
            {"name": "IP", **field("status.podIP")},
            {"name": "HOST_IP", **field("status.hostIP")},
            {"name": "LABEL", **field("metadata.labels['app']")},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "GREETING", "value": "$(NAME) is $(COLOR) $$(NAME)"},
        ],
        resources={"limits": {"cpu": "150m", "memory": "32Mi"}},
        volumeMounts=[{"name": "secret", "mountPath": "/run/secret", "readOnly": True}],
    )
    cluster.core.create_namespaced_pod(
        namespace, pod("env", main, volumes=[{"name": "secret", "secret": {"secretName": "key"}}])
    )
    found = cluster.running(namespace, "env")
    lines = set(cluster.log(namespace, "env").splitlines())
    assert {
        "CM_COLOR=blue",
        "CM_SIZE=big",
        "PASSWORD=s3cret",
        "COLOR=blue",
        "NAME=env",
        f"IP={found.status.pod_ip}",
        "HOST_IP=192.0.2.10",
        "LABEL=env",
        "CPU=150",
        "GREETING=env is blue $(NAME)",
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
        "KUBERNETES_SERVICE_PORT=443",
        "HOSTNAME=env",
        "s3cret",
    } <= lines


def test_empty_dir_and_network_are_shared_by_a_pods_containers(cluster: Cluster, namespace: str) -> None:
    mount = {"volumeMounts": [{"name": "both", "mountPath": "/both"}]}
    cluster.core.create_namespaced_pod(
        namespace,
        pod(
            "pair",
            container("echo from-init > /both/init", name="init", **mount) | {"name": "writer"},
            container(name="reader", **mount),
            initContainers=[container("sleep 0.3; echo one > /both/first", name="first", **mount)],
            volumes=[{"name": "both", "emptyDir": {}}],
            restartPolicy="OnFailure",
        ),
    )
    eventually(
        lambda: cluster.core.read_namespaced_pod("pair", namespace).status.container_statuses or (),
        lambda statuses: (
            any(s.state.terminated and s.state.terminated.exit_code == 0 for s in statuses)
            and any(s.state.running for s in statuses)
        ),
        timeout=30,
    )
    assert cluster.sh(namespace, "pair", "cat /both/*", container="reader") == "one\nfrom-init\n"
    found = cluster.core.read_namespaced_pod("pair", namespace)
    assert found.status.init_container_statuses[0].state.terminated.reason == "Completed"
    assert next(c.status for c in found.status.conditions if c.type == "Initialized") == "True"
    cluster.sh(namespace, "pair", "touch /both/more", container="reader")
    volume = cluster.data_dir / "agent"
    held = list(volume.glob(f"**/{found.metadata.uid}/**/more"))
    assert len(held) == 1
    cluster.core.delete_namespaced_pod("pair", namespace)
    eventually(lambda: not held[0].exists(), what="the volume is removed with its pod")


def test_init_containers_run_in_order_and_hold_up_the_rest(cluster: Cluster, namespace: str) -> None:
    mount = {"volumeMounts": [{"name": "log", "mountPath": "/log"}]}
    cluster.core.create_namespaced_pod(
        namespace,
        pod(
            "ordered",
            container("echo main >> /log/order; exec sleep 600", **mount),
            initContainers=[
                container("sleep 0.5; echo a >> /log/order", name="a", **mount),
                container("echo b >> /log/order", name="b", **mount),
            ],
            volumes=[{"name": "log", "emptyDir": {}}],
        ),
    )
    cluster.running(namespace, "ordered")
    assert cluster.sh(namespace, "ordered", "cat /log/order") == "a\nb\nmain\n"


def test_an_init_container_that_fails_is_shown(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(
        namespace,
        pod("broken", initContainers=[container("echo no; exit 4", name="first")], restartPolicy="Never"),
    )
    found = eventually(
        lambda: cluster.core.read_namespaced_pod("broken", namespace), lambda p: p.status.phase == "Failed", timeout=30
    )
    assert found.status.init_container_statuses[0].state.terminated.exit_code == 4
    assert "Init:Error" in cluster.ktool("get", "pod", "broken", "-n", namespace).stdout


def test_readiness_gates_traffic(cluster: Cluster, namespace: str) -> None:
    ready_file = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    cluster.core.create_namespaced_pod(
        namespace,
        pod("slow", manifests.server() | {"readinessProbe": ready_file}, labels={"app": "slow"}),
    )
    cluster.core.create_namespaced_service(namespace, manifests.service("slow"))
    eventually(lambda: cluster.core.read_namespaced_pod("slow", namespace).status.phase, lambda p: p == "Running")
    endpoints = lambda: [  # noqa: E731
        bool(subset.addresses)
        for subset in cluster.core.read_namespaced_endpoints("slow", namespace).subsets or ()
        if subset.addresses
    ]
    time.sleep(1.5)  # longer than a probe's period: a pod that will not become ready stays so
    assert not is_ready(cluster.core.read_namespaced_pod("slow", namespace))
    assert endpoints() == []
    cluster.sh(namespace, "slow", "touch /tmp/ready", container="web")
    cluster.running(namespace, "slow", timeout=10)
    eventually(endpoints)
    cluster.sh(namespace, "slow", "rm /tmp/ready", container="web")
    eventually(endpoints, lambda found: found == [], timeout=10)


def test_pod_readiness_gate(cluster: Cluster, namespace: str) -> None:
    gate = "example.test/loaded"
    cluster.core.create_namespaced_pod(namespace, pod("gated", readinessGates=[{"conditionType": gate}]))
    eventually(
        lambda: {
            c.type: c.status for c in cluster.core.read_namespaced_pod("gated", namespace).status.conditions or ()
        },
        lambda found: found.get("ContainersReady") == "True" and found.get("Ready") == "False",
    )
    condition = {"type": gate, "status": "True"}
    cluster.core.patch_namespaced_pod_status("gated", namespace, {"status": {"conditions": [condition]}})
    cluster.running(namespace, "gated", timeout=10)


def test_liveness_restarts_and_startup_protects(cluster: Cluster, namespace: str) -> None:
    alive = {"exec": {"command": ["test", "-e", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 1}
    startup = {**alive, "failureThreshold": 30}
    cluster.core.create_namespaced_pod(
        namespace,
        pod(
            "lively",
            container("sleep 1.5; touch /tmp/alive; exec sleep 600", livenessProbe=alive, startupProbe=startup),
            terminationGracePeriodSeconds=0,
        ),
    )
    cluster.running(namespace, "lively")
    assert cluster.core.read_namespaced_pod("lively", namespace).status.container_statuses[0].restart_count == 0
    cluster.sh(namespace, "lively", "rm /tmp/alive")
    found = eventually(
        lambda: cluster.core.read_namespaced_pod("lively", namespace),
        lambda p: p.status.container_statuses[0].restart_count == 1,
        timeout=15,
    )
    assert found.status.container_statuses[0].last_state.terminated is not None
    eventually(
        lambda: [e.reason for e in cluster.core.list_namespaced_event(namespace).items],
        lambda reasons: {"Unhealthy", "Killing"} <= set(reasons),
    )


def test_http_probe_with_a_named_port(cluster: Cluster, namespace: str) -> None:
    probe = {"httpGet": {"path": "/cgi-bin/index.cgi", "port": "http"}, "periodSeconds": 1}
    wrong = {"httpGet": {"path": "/not-there", "port": "http"}, "periodSeconds": 1}
    cluster.core.create_namespaced_pod(namespace, pod("good", manifests.server() | {"readinessProbe": probe}))
    cluster.core.create_namespaced_pod(namespace, pod("bad", manifests.server() | {"readinessProbe": wrong}))
    cluster.running(namespace, "good", timeout=15)
    eventually(
        lambda: [
            e.message
            for e in cluster.core.list_namespaced_event(namespace).items
            if e.involved_object.name == "bad" and e.reason == "Unhealthy"
        ],
        lambda messages: any("404" in m for m in messages),
    )
    assert not is_ready(cluster.core.read_namespaced_pod("bad", namespace))


def test_a_pod_ends_gracefully_and_then_not(cluster: Cluster, namespace: str) -> None:
    mount = {"volumeMounts": [{"name": "host", "mountPath": "/out"}]}
    out = cluster.root / "graceful"
    out.mkdir()
    volumes = [{"name": "host", "hostPath": {"path": str(out), "type": "Directory"}}]
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /out/log"]}}}
    polite = container(
        "trap 'sleep 0.5; echo term >> /out/log; exit 0' TERM; sleep 600 & wait", lifecycle=hook, **mount
    )
    stubborn = container("trap '' TERM; while :; do sleep 1; done")
    cluster.core.create_namespaced_pod(
        namespace, pod("polite", polite, volumes=volumes, terminationGracePeriodSeconds=20)
    )
    cluster.core.create_namespaced_pod(namespace, pod("stubborn", stubborn, terminationGracePeriodSeconds=2))
    cluster.running(namespace, "polite")
    cluster.running(namespace, "stubborn")
    start = time.monotonic()
    cluster.core.delete_namespaced_pod("polite", namespace)
    cluster.core.delete_namespaced_pod("stubborn", namespace)
    deleting = cluster.core.read_namespaced_pod("stubborn", namespace)
    assert deleting.metadata.deletion_timestamp
    assert deleting.metadata.deletion_grace_period_seconds == 2
    ends: dict[str, float] = {}

    def gone() -> bool:
        left = {p.metadata.name for p in cluster.pods(namespace)}
        for name in {"polite", "stubborn"} - left - ends.keys():
            ends[name] = time.monotonic() - start
        return not left

    eventually(gone, timeout=40)
    assert (out / "log").read_text() == "hook\nterm\n"
    assert ends["polite"] < 18, "it was killed after its grace period"
    assert 1.5 < ends["stubborn"] < 25, "the default grace period is 30 s"


def test_out_of_memory_is_told(cluster: Cluster, namespace: str) -> None:
    hungry = container("exec dd if=/dev/zero of=/dev/null bs=64M count=1000", resources={"limits": {"memory": "16Mi"}})
    cluster.core.create_namespaced_pod(namespace, pod("hungry", hungry, restartPolicy="Never"))
    found = eventually(
        lambda: cluster.core.read_namespaced_pod("hungry", namespace), lambda p: p.status.phase == "Failed", timeout=30
    )
    terminated = found.status.container_statuses[0].state.terminated
    assert (terminated.reason, terminated.exit_code) == ("OOMKilled", 137)


def test_limits_reach_the_control_groups(cluster: Cluster, namespace: str) -> None:
    limited = container(
        resources={"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "250m", "memory": "48Mi"}}
    )
    cluster.core.create_namespaced_pod(namespace, pod("limited", limited))
    found = cluster.running(namespace, "limited")
    assert found.status.qos_class == "Burstable"
    with cluster.engine() as engine:
        pid = engine.inspect_container(found.status.container_statuses[0].container_id.removeprefix("docker://"))[
            "State"
        ]["Pid"]
    groups = dict(
        line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.count(":") >= 2
    )
    root = Path("/sys/fs/cgroup")
    if "memory" in groups:  # version 1
        memory = (root / "memory" / groups["memory"].lstrip("/") / "memory.limit_in_bytes").read_text()
        cpu = next(root / key / path.lstrip("/") for key, path in groups.items() if "cpu" in key.split(","))
        quota = int((cpu / "cpu.cfs_quota_us").read_text()) / int((cpu / "cpu.cfs_period_us").read_text())
        shares = int((cpu / "cpu.shares").read_text())
        assert shares == 102
    else:
        path = root / groups[""].lstrip("/")
        memory = (path / "memory.max").read_text()
        part, period = (path / "cpu.max").read_text().split()
        quota = int(part) / int(period)
    assert int(memory) == 48 * 1024 * 1024
    assert quota == 0.25


def test_a_service_accounts_token_is_good_for_the_api(cluster: Cluster, namespace: str) -> None:
    """From inside a pod, with the CA and the token that it was given and nothing else."""
    script = """
import json, os, ssl, urllib.request
home = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=home + "/ca.crt")
namespace = open(home + "/namespace").read()
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
url = f"https://{host}:{port}/apis/authentication.k8s.io/v1/selfsubjectreviews"
body = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()
headers = {"Authorization": "Bearer " + open(home + "/token").read(), "Content-Type": "application/json"}
request = urllib.request.Request(url, body, headers)
answer = json.load(urllib.request.urlopen(request, context=context, timeout=10))
print(namespace, answer["status"]["userInfo"]["username"])
"""
    # The image has no TLS client: the host's Python is lent to the pod.
    lent = {"lib": "/usr/lib", "bin": "/usr/bin", "lib64": "/usr/lib64", "etc": "/etc/ssl"}
    mounts = [
        {"name": "lib", "mountPath": "/usr/lib", "readOnly": True},
        {"name": "lib", "mountPath": "/lib", "readOnly": True},
        {"name": "lib64", "mountPath": "/lib64", "readOnly": True},
        {"name": "bin", "mountPath": "/host-bin", "readOnly": True},
        {"name": "etc", "mountPath": "/etc/ssl", "readOnly": True},
    ]
    main = container(
        'exec /host-bin/python3 -c "$SCRIPT"', env=[{"name": "SCRIPT", "value": script}], volumeMounts=mounts
    )
    volumes = [{"name": name, "hostPath": {"path": str(Path(path).resolve())}} for name, path in lent.items()]
    cluster.core.create_namespaced_pod(namespace, pod("caller", main, volumes=volumes, restartPolicy="Never"))
    found = eventually(
        lambda: cluster.core.read_namespaced_pod("caller", namespace),
        lambda p: p.status.phase in ("Succeeded", "Failed"),
        timeout=40,
    )
    told = cluster.log(namespace, "caller")
    assert found.status.phase == "Succeeded", told
    assert told == f"{namespace} system:serviceaccount:{namespace}:default\n"


def test_job_like_pods_end_by_their_restart_policy(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(namespace, pod("done", container("exit 0"), restartPolicy="OnFailure"))
    cluster.core.create_namespaced_pod(namespace, pod("lost", container("exit 3"), restartPolicy="Never"))
    found = eventually(
        lambda: {p.metadata.name: p for p in cluster.pods(namespace)},
        lambda pods: pods["done"].status.phase == "Succeeded" and pods["lost"].status.phase == "Failed",
        timeout=30,
    )
    ended = found["lost"].status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (3, "Error")
    assert isinstance(ended.finished_at, datetime)


def test_an_image_that_is_nowhere_is_told(cluster: Cluster, namespace: str) -> None:
    absent = container(name="main") | {"image": "ktool.test/absent:1", "imagePullPolicy": "Never"}
    cluster.core.create_namespaced_pod(namespace, pod("absent", absent))
    found = eventually(
        lambda: (cluster.core.read_namespaced_pod("absent", namespace).status.container_statuses or [None])[0],
        lambda status: status is not None and status.state.waiting and "Image" in status.state.waiting.reason,
    )
    assert found.state.waiting.reason == "ErrImageNeverPull"
