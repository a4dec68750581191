"""A private Docker Engine for tests: its own data, its own socket and its own network namespace without uplink.

dockerd writes firewall rules and makes bridges where it runs, so it never runs in the machine's namespaces: it gets
a named network namespace with nothing but loopback, and a private mount namespace. `nsenter` enters the first, for
`ip netns exec` would remount /sys and hide the cgroups. Nothing in there can send a packet to the outside.

The engine ends with the context manager, however the tests ended: dockerd is asked to stop, and whatever it left
(a killed dockerd leaves shims and containers) is found by its cgroups and its directory and ended by pid.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
START_SECONDS = 60.0
STOP_SECONDS = 20.0

_numbers = itertools.count(1)


def missing() -> str:
    """Why no private engine can run here, or an empty string."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in ("dockerd", "ip", "nsenter", "unshare") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@contextlib.contextmanager
def private_engine() -> Iterator[Engine]:
    """A started engine; everything it made is gone when the block ends."""
    engine = Engine()
    try:
        engine.prepare()
        engine.start()
        yield engine
    finally:
        engine.clean()


class Engine:
    """One private engine.

    `socket` is its API, `namespace` the path of its network namespace, `cgroup` the cgroup under which all its
    containers live (give pods a parent below it).
    """

    def __init__(self) -> None:
        self.name = f"ktool-test-{os.getpid()}-{next(_numbers)}"
        # Short: the path of a unix socket has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="ktool-engine-"))
        self.socket = self.directory / "docker.sock"
        self.namespace = Path("/run/netns") / self.name
        self.cgroup = f"/{self.name}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running dockerd."""
        assert self._process is not None, "the engine is not running"
        return self._process.pid

    def command(self, *arguments: str) -> list[str]:
        """The arguments that run a command inside the engine's network namespace."""
        return ["nsenter", f"--net={self.namespace}", *arguments]

    def prepare(self) -> None:
        """Make the network namespace; it has loopback and no way out."""
        subprocess.run(["ip", "netns", "add", self.name], check=True, timeout=10)
        subprocess.run(self.command("ip", "link", "set", "lo", "up"), check=True, timeout=10)

    def start(self) -> None:
        """Start dockerd and wait until its API answers."""
        arguments = ["--data-root", "data", "--exec-root", "exec", "--pidfile", "pid", "--config-file", "none.json"]
        paths = [argument if argument.startswith("--") else str(self.directory / argument) for argument in arguments]
        (self.directory / "none.json").write_text("{}")
        with (self.directory / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(
                    *("unshare", "--mount", "--propagation", "private"),
                    *("dockerd", "--host", f"unix://{self.socket}", "--cgroup-parent", self.cgroup, *paths),
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches pytest only; pytest then stops the engine in order
            )
        if not _eventually(lambda: self._answers() or self._process_ended(), START_SECONDS) or self._process_ended():
            text = (self.directory / "dockerd.log").read_text(errors="replace")
            raise RuntimeError(f"dockerd did not start:\n{text[-4000:]}")

    def stop(self) -> None:
        """Stop dockerd in order; kill it when it takes too long."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)

    def clean(self) -> None:
        """Stop the engine and remove every process, cgroup, namespace and file of it."""
        self.stop()
        _eventually(lambda: not _kill(self._leftovers()), STOP_SECONDS)
        for cgroup in self._cgroups():
            for path in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
                path.rmdir()
            cgroup.rmdir()
        if self.namespace.exists():
            subprocess.run(["ip", "netns", "delete", self.name], check=True, timeout=10)
        shutil.rmtree(self.directory)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            try:
                client.connect(str(self.socket))
                client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in client.recv(64)
            except OSError:
                return False

    def _process_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _cgroups(self) -> list[Path]:
        # Version 1 has a tree per controller, version 2 one tree.
        return [path for path in (*CGROUPS.glob(f"*/{self.name}"), CGROUPS / self.name) if path.is_dir()]

    def _leftovers(self) -> set[int]:
        contained = {
            int(pid)
            for cgroup in self._cgroups()
            for tasks in cgroup.rglob("cgroup.procs")
            for pid in tasks.read_text().split()
        }
        shims = {int(path.name) for path in Path("/proc").glob("[0-9]*") if str(self.directory) in _command_line(path)}
        return (contained | shims) - {os.getpid()}


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return ""


def _kill(pids: set[int]) -> bool:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)


def _eventually(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
