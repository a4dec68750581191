"""A real master in a process of its own, on loopback, with its data in a temporary directory."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port

READY_SECONDS = 40.0
STOP_SECONDS = 15.0


@dataclass
class MasterProcess:
    """A running master."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    port: int
    log: Path
    ready_cpu_seconds: float = 0.0

    @property
    def kubeconfig(self) -> Path:
        return self.data_dir / "admin.kubeconfig"

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET without credentials."""
        context = ssl.create_default_context(cafile=str(self.data_dir / "pki" / "ca.crt"))
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{self.port}{path}", context=context, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def pss_bytes(self) -> int:
        """Proportional memory of the process."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:"))) * 1024

    def cpu_seconds(self) -> float:
        """CPU time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """End it as a service manager would; its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def kill(self) -> None:
        """End it without warning."""
        self.process.kill()
        self.process.wait()


def launch(data_dir: Path, port: int, *arguments: str, roles: str = "api") -> MasterProcess:
    """Start a master, without waiting for anything."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / f"{data_dir.name}-{port}.log"
    command = [sys.executable, "-m", "control", "--data-dir", str(data_dir), "--bind-address", "127.0.0.1"]
    command += ["--port", str(port), "--roles", roles, *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    return MasterProcess(process, data_dir, port, log)


def start(data_dir: Path, *arguments: str, port: int = 0, roles: str = "api") -> MasterProcess:
    """Start a master and wait until it is ready."""
    begun = time.monotonic()
    master = launch(data_dir, port or free_port(), *arguments, roles=roles)
    while time.monotonic() < begun + READY_SECONDS:
        if master.process.poll() is not None:
            raise AssertionError(f"the master ended: {master.log.read_text()}")
        try:
            if (data_dir / "pki" / "ca.crt").exists() and master.get("/readyz")[0] == 200:
                master.ready_cpu_seconds = master.cpu_seconds()
                return master
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.02)
    master.stop()
    raise AssertionError(f"the master was not ready in time: {master.log.read_text()}")
