"""A real etcd for tests: one member on loopback, with TLS, a data directory and free ports of its own.

    with etcd(folder) as server:
        store = await EtcdStore.open(server.config())

`kill`, `start`, `pause` and `resume` are what happens to it in the middle of things. It ends by its pid.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from control.store.etcd.config import DEFAULT_PREFIX, EtcdConfig, parse_endpoints
from kube import pki
from kube.clock import SystemClock
from tests.ports import free_port

ETCD = "etcd"
START_SECONDS = 20.0


def missing() -> str:
    """Why no etcd can run here, or an empty string."""
    return "" if shutil.which(ETCD) else "not installed: etcd (scripts/setup etcd)"


class EtcdServer:
    """One member; its data outlive `kill` and `start`. `first` is another one of the same cluster, whose CA is used."""

    def __init__(self, folder: Path, *, first: EtcdServer | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self._peer_port = free_port(), free_port()
        self.ca, self.cert, self.key = folder / "ca.crt", folder / "client.crt", folder / "client.key"
        self.cluster: list[EtcdServer] = [self]
        self._process: subprocess.Popen[bytes] | None = None
        if first is None:
            self._certificates()
        else:
            for name in ("ca.crt", "client.crt", "client.key", "server.crt", "server.key"):
                shutil.copy2(first.folder / name, folder / name)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def config(self, *, prefix: str = DEFAULT_PREFIX) -> EtcdConfig:
        """How the store reaches it."""
        return EtcdConfig(endpoints=parse_endpoints(self.url), ca=self.ca, cert=self.cert, key=self.key, prefix=prefix)

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self._peer_port}"

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it serves: one that was killed before its first commit would never start again."""
        peer = self.peer_url
        command = [ETCD, "--name", f"m{self.port}", "--data-dir", str(self.folder / "data"), "--logger", "zap"]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        cluster = ",".join(f"m{member.port}={member.peer_url}" for member in self.cluster)
        command += ["--initial-cluster", cluster, "--enable-grpc-gateway=false", "--enable-v2=false"]
        command += ["--cert-file", str(self.folder / "server.crt"), "--key-file", str(self.folder / "server.key")]
        command += ["--trusted-ca-file", str(self.ca), "--client-cert-auth"]
        # alone it need not wait for others: the least time to live of a lease follows from this
        command += ["--heartbeat-interval", "50", "--election-timeout", "500"]
        with (self.folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until it serves."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            if self._serves():
                return
            time.sleep(0.02)
        log_end = (self.folder / "etcd.log").read_text()[-2000:]
        self.kill()
        raise AssertionError(f"etcd does not start:\n{log_end}")

    def _serves(self) -> bool:
        # it listens early, and shakes hands when it has a leader
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.cert, self.key)
        address = ("127.0.0.1", self.port)
        try:
            raw = socket.create_connection(address, timeout=2)
            with raw, context.wrap_socket(raw, server_hostname=address[0]):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        """It hangs: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _certificates(self) -> None:
        clock = SystemClock()
        ca = pki.create_ca("etcd-ca", clock=clock)
        pki.save_pair(ca, cert=self.ca, key=self.folder / "ca.key")
        server = pki.issue_server(ca, "etcd", ips=("127.0.0.1",), clock=clock)
        pki.save_pair(server, cert=self.folder / "server.crt", key=self.folder / "server.key")
        pki.save_pair(pki.issue_client(ca, "kube-apiserver-etcd-client", clock=clock), cert=self.cert, key=self.key)


@contextlib.contextmanager
def etcd(folder: Path) -> Iterator[EtcdServer]:
    """A running etcd, ended at the end."""
    server = EtcdServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def etcd_cluster(folder: Path, members: int = 3) -> Iterator[list[EtcdServer]]:
    """Several members of one cluster, all serving."""
    first = EtcdServer(folder / "1")
    found = [first, *(EtcdServer(folder / str(n), first=first) for n in range(2, members + 1))]
    try:
        for server in found:
            server.cluster = found
        for server in found:
            server.start(wait=False)
        for server in found:
            server.wait()
        yield found
    finally:
        for server in found:
            server.kill()
