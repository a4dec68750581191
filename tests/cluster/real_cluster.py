"""A whole cluster for tests: the real command line, a real master and agent, a real Docker Engine of its own.

Everything runs in the network namespace that `make test` provides (scripts/in-netns), with all files in one directory
of its own: what a test starts can neither reach out nor stay behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import docker
import kubernetes.client
import kubernetes.config

from kube import image_archive
from provision import docker_engine, host_snapshot, machine, processes
from provision.host_snapshot import HostSnapshot
from provision.services.service import tail
from provision.services.supervisord import SupervisordServices

T = TypeVar("T")

KTOOL = str(Path(sys.executable).with_name("ktool"))
# Debian's busybox with every applet: what the tests' pods run.
IMAGE = "ktool.test/busybox:1"
NODE_ADDRESS = "192.0.2.10"  # of the bridge `lan`, scripts/in-netns
API_PORT = 6443
# Other work on the machine comes and goes meanwhile; what could be ours is told by its name, and processes by our
# directory alone. Sections that are not named here belong to our network namespace and are compared as a whole.
OURS = {
    "processes": r"^$",
    "files": r"docker|containerd|ktool|kube",
    "cgroups": r"/(docker|ktool|kubepods)/?$",
    "mounts": r"docker|ktool|kube",
}
OTHERS = (r"^/tmp/", r"ktool-test-|ktool-engine-", r"^/(var/)?run/(lock|netns)")


def missing() -> str:
    """Why no cluster can run here, or an empty string."""
    if os.environ.get("KTOOL_NETNS") != "1":
        return "runs in the network namespace of `make test` (scripts/in-netns)"
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in ("dockerd", "nft", "ip", "busybox") if not machine.find_command(name)]
    return f"not installed: {', '.join(absent)}" if absent else ""


def kubectl_missing() -> str:
    """Why the machine's kubectl cannot be tested with, or an empty string."""
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    told = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, timeout=30).stdout
    found = re.search(r"v1\.(\d+)", told)
    return "" if found and int(found[1]) >= 27 else f"kubectl is older than 1.27: {told.strip()}"


class Cluster:
    """One cluster under test. `root` holds everything of it; `up` and `down` are the real commands."""

    def __init__(self) -> None:
        # Short: the path of a unix socket has at most 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="ktool-", dir="/tmp"))
        self.data_dir = self.root / "data"
        self.docker_root = self.root / "docker"
        self.socket = self.docker_root / "docker.sock"
        self.kubeconfig = self.data_dir / "admin.kubeconfig"
        self.services = SupervisordServices(self.data_dir)
        self.first_up: subprocess.CompletedProcess[str] | None = None
        self._before = host_snapshot.take()

    # ---- commands

    def ktool(
        self,
        *arguments: str,
        check: bool = True,
        timeout: float = 90,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run `ktool --data-dir ... ARGUMENTS`; with `check`, exit status 0 is asserted."""
        return run(
            [*prefix, KTOOL, "--data-dir", str(self.data_dir), *arguments],
            check=check,
            timeout=timeout,
            stdin=stdin,
            env={**_clean_environment(), **(env or {})},
        )

    def up(self, *arguments: str, check: bool = True, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """`ktool up`, with an engine of its own."""
        return self.ktool(
            *("up", "--docker-root", str(self.docker_root), "--supervisor", "supervisord"),
            *arguments,
            check=check,
            prefix=prefix,
            timeout=90,
        )

    def down(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`ktool down`."""
        return self.ktool(
            *("down", "--docker-root", str(self.docker_root), "--supervisor", "supervisord"),
            *arguments,
            check=check,
            timeout=200,
        )

    def kubectl(
        self, *arguments: str, check: bool = True, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the machine's kubectl as the administrator."""
        return run(self.kubectl_command(*arguments), check=check, timeout=timeout, stdin=stdin, env=self.environment)

    def kubectl_command(self, *arguments: str) -> list[str]:
        """The command line of kubectl, for what runs beside the test (`get -w`, `port-forward`)."""
        return ["kubectl", f"--cache-dir={self.root}/kubectl", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**_clean_environment(), "KUBECONFIG": str(self.kubeconfig)}

    def follow(self, command: Sequence[str]) -> Follower:
        """The command, running beside the test as the administrator, for the length of a `with` block."""
        return Follower(command, self.environment)

    # ---- the official client

    @cached_property
    def api_client(self) -> kubernetes.client.ApiClient:
        return kubernetes.config.new_client_from_config(config_file=str(self.kubeconfig))

    @cached_property
    def core(self) -> kubernetes.client.CoreV1Api:
        return kubernetes.client.CoreV1Api(self.api_client)

    @cached_property
    def apps(self) -> kubernetes.client.AppsV1Api:
        return kubernetes.client.AppsV1Api(self.api_client)

    def pods(self, namespace: str, selector: str = "") -> list[Any]:
        return self.core.list_namespaced_pod(namespace, label_selector=selector).items

    def running(self, namespace: str, name: str, *, timeout: float = 30) -> Any:
        """The pod, once it is Ready."""
        return eventually(
            lambda: self.core.read_namespaced_pod(name, namespace), is_ready, timeout=timeout, what=f"{name} is Ready"
        )

    def available(self, namespace: str, name: str, *, timeout: float = 60) -> Any:
        """The Deployment, once its rollout is complete."""
        return eventually(
            lambda: self.apps.read_namespaced_deployment(name, namespace),
            is_rolled_out,
            timeout=timeout,
            what=f"deployment {name} is rolled out",
        )

    def log(self, namespace: str, pod: str, **options: Any) -> str:
        """A pod's log by the official client."""
        response = self.core.read_namespaced_pod_log(pod, namespace, _preload_content=False, **options)
        return response.data.decode()

    def sh(self, namespace: str, pod: str, script: str, *, container: str = "") -> str:
        """What a shell script prints in a pod's container (exec over WebSocket, by the official client)."""
        import kubernetes.stream

        options = {"container": container} if container else {}
        # A client of its own: the stream module replaces the request method of the one it gets.
        with kubernetes.config.new_client_from_config(config_file=str(self.kubeconfig)) as client:
            stream = kubernetes.stream.stream(
                kubernetes.client.CoreV1Api(client).connect_get_namespaced_pod_exec,
                pod,
                namespace,
                command=["sh", "-c", script],
                stdout=True,
                stderr=True,
                stdin=False,
                tty=False,
                _preload_content=False,
                **options,
            )
            try:
                stream.run_forever(timeout=30)
                return stream.read_all()
            finally:
                stream.sock.shutdown()  # the client's own `close` leaves a socket open that the server has ended
                stream.sock.shutdown()  # after the server has closed, the client's close() leaves its socket open

    # ---- the machine below

    @contextlib.contextmanager
    def engine(self) -> Iterator[docker.APIClient]:
        """The private engine's API."""
        client = docker_engine.connect(self.socket, timeout=30)
        try:
            yield client.api
        finally:
            client.close()

    def kill_container(self, pod: Any, container: str = "", *, signal: str = "KILL") -> str:
        """Kill a pod's container through the engine, as if it had crashed; its id."""
        statuses = pod.status.container_statuses
        status = next(s for s in statuses if container in ("", s.name))
        found = status.container_id.removeprefix("docker://")
        with self.engine() as engine:
            engine.kill(found, signal)
        return found

    def pid(self, service: str) -> int:
        """Process id of a running service (master, agent, docker)."""
        found = self.services.status(service)
        assert found.running, f"{service} does not run: {found.state}"
        assert found.pid is not None
        return found.pid

    def wait_for_api(self, *, timeout: float = 30) -> None:
        """Wait until /readyz answers ok again."""
        eventually(lambda: self.ktool("status", check=False).returncode == 0, timeout=timeout, what="status is healthy")

    def load_image(self) -> None:
        """Load the tests' image by `ktool image load`."""
        archive = self.root / "busybox.tar"
        source = image_archive.ImageSource((IMAGE,), image_archive.busybox_root(), command=("sh",))
        archive.write_bytes(image_archive.archive(source))
        told = self.ktool("image", "load", str(archive), "--docker-socket", str(self.socket)).stdout
        assert told == f"loaded {IMAGE}\n"

    def logs(self) -> str:
        """The ends of the services' logs, for a failed test's report."""
        found = {name: tail(self.data_dir / "log" / f"{name}.log", lines=40) for name in ("master", "agent", "docker")}
        found["docker"] = "\n".join(line for line in found["docker"].splitlines() if "level=info" not in line)
        return "\n".join(f"---- {name}.log\n{text}" for name, text in found.items())

    def left_over(self) -> list[str]:
        """What the machine has now and did not have before this cluster, or the other way round."""
        return left_over(self._before, host_snapshot.take(), root=self.root)

    def remove(self) -> None:
        """Take everything away, however far the cluster got; what `down` leaves behind is an error."""
        self.__dict__.pop("core", None)
        self.__dict__.pop("apps", None)
        if (client := self.__dict__.pop("api_client", None)) is not None:
            client.close()
        told = self.down(check=False)
        remaining = self.left_over()
        self.services.shutdown()
        shutil.rmtree(self.root, ignore_errors=told.returncode != 0)
        assert told.returncode == 0, f"down failed:\n{told.stdout}\n{told.stderr}"
        assert not remaining, "left over:\n" + "\n".join(remaining)


def left_over(before: HostSnapshot, after: HostSnapshot, *, root: Path) -> list[str]:
    """The difference of two pictures of the machine, as far as it can be the cluster's whose files are in `root`."""
    named = [
        f"{one.section}: {line}"
        for one in host_snapshot.difference(before, after)
        for line in one.added
        if str(root) in line
    ]
    contained = [
        f"in a container: {processes.command_line(pid)!r} (pid {pid})"
        for pid in processes.all_pids()
        if str(root) in _text(f"/proc/{pid}/mountinfo") and not _shares_mounts(pid)
    ]
    return [*named, *contained] + [
        f"{one.section}: {line}"
        for one in host_snapshot.difference(before, after, ignore=(*OTHERS, re.escape(str(root))))
        for line in (one.added if one.section in OURS else (*one.added, *one.removed))
        if re.search(OURS.get(one.section, ""), line)
    ]


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # it has ended meanwhile
        return ""


def _shares_mounts(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except OSError:
        return True


def run(
    command: Sequence[str],
    *,
    check: bool,
    timeout: float,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, input=stdin if stdin is not None else "", env=env
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(
            f"{' '.join(command)}: no end after {timeout:g} s\n{error.output}\n{error.stderr}"
        ) from None
    if check:
        assert told.returncode == 0, f"{' '.join(command)}: exit status {told.returncode}\n{told.stdout}\n{told.stderr}"
    return told


def _clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("KUBECONFIG", "NO_COLOR", "FORCE_COLOR")}


class Follower:
    """A command that runs beside the test (`get -w`, `logs -f`, `port-forward`); `text` is what it printed so far."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
        )
        self._pieces: list[bytes] = []
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Follower:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def text(self) -> str:
        return b"".join(self._pieces).decode()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while piece := os.read(self._process.stdout.fileno(), 65536):
            self._pieces.append(piece)


# ---- waiting: for reads only, and never without an end


def eventually(read: Callable[[], T], accept: Callable[[T], Any] = bool, *, timeout: float = 20.0, what: str = "") -> T:
    """Read again and again until `accept` is content with it; the accepted value. Fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.05
    while True:
        found: Any = None
        try:
            found = read()
            if accept(found):
                return found
        except (OSError, kubernetes.client.ApiException, urllib.error.URLError) as error:
            found = error
        if time.monotonic() > deadline:
            shown = str(getattr(found, "status", found))[:2000]
            raise AssertionError(f"not within {timeout:g} s: {what or accept}\nlast read: {shown}")
        time.sleep(pause)
        pause = min(0.3, pause * 1.5)


def is_ready(pod: Any) -> bool:
    """Whether a pod (of the official client) has the condition Ready."""
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ())


def is_rolled_out(deployment: Any) -> bool:
    """What `kubectl rollout status` waits for."""
    wanted, status = deployment.spec.replicas, deployment.status
    return (
        status.observed_generation == deployment.metadata.generation
        and (status.replicas or 0) == wanted
        and (status.updated_replicas or 0) == wanted
        and (status.available_replicas or 0) == wanted
    )


def get(url: str, *, timeout: float = 3) -> str:
    """Body of an HTTP answer, over a new connection."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout) as response:
        return response.read().decode()
