"""Services: who answers, from where, and that somebody always does."""

from __future__ import annotations

import collections
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.cluster import manifests
from tests.cluster.real_cluster import NODE_ADDRESS, Cluster, eventually, get

OUTSIDE_ADDRESS = "192.0.2.77"


@pytest.fixture
def outside() -> Iterator[list[str]]:
    """Another machine on the node's network: a namespace of its own on the bridge `lan`. The command that enters it."""
    name, port, cable = "outside", "lan-outside", "eth0-outside"
    run = lambda *command: subprocess.run(command, check=True, timeout=10)  # noqa: E731
    enter = ["nsenter", f"--net=/run/netns/{name}"]
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", port, "type", "veth", "peer", "name", cable)
        run("ip", "link", "set", cable, "netns", name)
        run("ip", "link", "set", port, "master", "lan", "up")
        run(*enter, "ip", "link", "set", "lo", "up")
        run(*enter, "ip", "addr", "add", f"{OUTSIDE_ADDRESS}/24", "dev", cable)
        run(*enter, "ip", "link", "set", cable, "up")
        yield enter
    finally:
        # A namespace's own links go with it, but some time later: the next test would find the name taken.
        subprocess.run(["ip", "link", "delete", port], check=False, timeout=10)
        run("ip", "netns", "delete", name)


class Asker:
    """Asks a URL all the time, each time over a new connection; counts answers and failures."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _ask(self) -> None:
        while not self._stop.wait(0.03):
            try:
                self.answers[get(self.url, timeout=5).split(" ")[0]] += 1
            except OSError as error:
                self.failures.append(f"{time.monotonic():.2f} {error}")


def cluster_ip(cluster: Cluster, namespace: str, name: str) -> str:
    return cluster.core.read_namespaced_service(name, namespace).spec.cluster_ip


def test_load_is_spread_and_follows_the_scale(cluster: Cluster, namespace: str) -> None:
    cluster.apps.create_namespaced_deployment(namespace, manifests.deployment("web", replicas=3))
    cluster.core.create_namespaced_service(namespace, manifests.service("web"))
    cluster.available(namespace, "web")
    url = f"http://{cluster_ip(cluster, namespace, 'web')}/"
    eventually(lambda: len({get(url).split()[1] for _ in range(12)}), lambda n: n == 3)
    seen = collections.Counter(get(url).split()[1] for _ in range(150))
    assert len(seen) == 3
    assert min(seen.values()) > 20, seen  # 50 on average; less than this by chance once in 10 million runs
    cluster.apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 1}})
    eventually(lambda: {get(url).split()[1] for _ in range(10)}, lambda pods: len(pods) == 1, timeout=10)


def test_a_service_without_endpoints_refuses_at_once(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_service(namespace, manifests.service("nobody"))
    url = f"http://{cluster_ip(cluster, namespace, 'nobody')}/"

    def refused() -> bool:
        start = time.monotonic()
        with pytest.raises(OSError, match="refused"):
            get(url, timeout=3)
        return time.monotonic() - start < 1

    eventually(lambda: not _times_out(url))
    assert refused()


def _times_out(url: str) -> bool:
    try:
        get(url, timeout=1)
    except OSError as error:
        return "timed out" in str(error)
    return False


def test_a_node_port_answers_another_machine(cluster: Cluster, outside: list[str]) -> None:
    command = [*outside, "curl", "-sS", "-m", "5", f"http://{NODE_ADDRESS}:30080/"]
    if subprocess.run(["which", "curl"], capture_output=True).returncode:
        command = [*outside, "busybox", "wget", "-q", "-O", "-", f"http://{NODE_ADDRESS}:30080/"]
    pods = {p.metadata.name for p in cluster.pods("web")}
    seen: set[str] = set()
    for _ in range(100):  # that one of three is not among them happens once in 10^17 runs
        seen.add(subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.split()[3])
        if seen >= pods:
            break
    assert seen == pods


def test_another_machine_reaches_neither_cluster_ips_nor_the_kubelet_unasked(
    cluster: Cluster, outside: list[str]
) -> None:
    kubelet = subprocess.run(
        [
            *outside,
            "curl",
            "-sSk",
            "-m",
            "5",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            f"https://{NODE_ADDRESS}:10250/pods",
        ],
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert kubelet.stdout == "401"


def test_client_ip_affinity(cluster: Cluster, namespace: str) -> None:
    cluster.apps.create_namespaced_deployment(namespace, manifests.deployment("web", replicas=3))
    cluster.core.create_namespaced_service(namespace, manifests.service("web", sessionAffinity="ClientIP"))
    cluster.available(namespace, "web")
    url = f"http://{cluster_ip(cluster, namespace, 'web')}/"
    eventually(lambda: get(url))
    # once all three are endpoints, nothing changes any more; without affinity one answers 20 times once in 10^9 runs
    eventually(lambda: {get(url).split()[1] for _ in range(20)}, lambda pods: len(pods) == 1, timeout=5)


def test_a_pod_reaches_itself_and_others_by_the_service(cluster: Cluster, namespace: str) -> None:
    cluster.apps.create_namespaced_deployment(namespace, manifests.deployment("web", replicas=2))
    cluster.core.create_namespaced_service(namespace, manifests.service("web"))
    cluster.available(namespace, "web")
    pods = cluster.pods(namespace)
    address = cluster_ip(cluster, namespace, "web")
    script = f"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do wget -q -O - http://{address}/; done"
    seen = {line.split()[1] for line in cluster.sh(namespace, pods[0].metadata.name, script).splitlines()}
    assert seen == {p.metadata.name for p in pods}


def test_a_rolling_update_of_the_example_keeps_answering(cluster: Cluster) -> None:
    address = cluster_ip(cluster, "web", "web")
    before = {p.metadata.name for p in cluster.pods("web")}

    def set_round(variable: dict[str, str]) -> None:
        env = [{"name": "ROUND", **variable}]
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "web", "env": env}]}}}}
        cluster.apps.patch_namespaced_deployment("web", "web", patch)

    with Asker(f"http://{address}/") as inside, Asker(f"http://{NODE_ADDRESS}:30080/") as outside:
        set_round({"value": str(time.time_ns())})
        cluster.available("web", "web", timeout=90)
        eventually(lambda: {p.metadata.name for p in cluster.pods("web")}, lambda names: len(names) == 3, timeout=20)
        time.sleep(0.5)
    assert before.isdisjoint(p.metadata.name for p in cluster.pods("web"))
    assert inside.failures == []
    assert outside.failures == []
    assert inside.answers.total() > 20
    # back to what the manifest says, for the tests that compare with it
    patch = {
        "spec": {
            "template": {"spec": {"containers": [{"name": "web", "env": [{"name": "ROUND", "$patch": "delete"}]}]}}
        }
    }
    cluster.apps.patch_namespaced_deployment("web", "web", patch)
    cluster.available("web", "web", timeout=90)


def test_a_rollout_that_cannot_become_ready_keeps_the_old_pods(cluster: Cluster, namespace: str) -> None:
    probe = {"exec": {"command": ["false"]}, "tcpSocket": None, "periodSeconds": 1}
    never = manifests.server() | {"readinessProbe": probe}
    cluster.apps.create_namespaced_deployment(
        namespace, manifests.deployment("web", replicas=2, progressDeadlineSeconds=4)
    )
    cluster.core.create_namespaced_service(namespace, manifests.service("web"))
    cluster.available(namespace, "web")
    old = {p.metadata.name for p in cluster.pods(namespace)}
    url = f"http://{cluster_ip(cluster, namespace, 'web')}/"
    with Asker(url) as asker:
        cluster.apps.patch_namespaced_deployment(
            "web", namespace, {"spec": {"template": {"spec": {"containers": [never]}}}}
        )
        found = eventually(
            lambda: {
                c.type: c for c in cluster.apps.read_namespaced_deployment("web", namespace).status.conditions or ()
            },
            lambda conditions: conditions["Progressing"].status == "False",
            timeout=30,
        )
    assert found["Progressing"].reason == "ProgressDeadlineExceeded"
    assert found["Available"].status == "True"
    ready = {
        p.metadata.name for p in cluster.pods(namespace) if all(s.ready for s in p.status.container_statuses or [])
    }
    assert ready <= old
    assert ready
    assert asker.failures == []
