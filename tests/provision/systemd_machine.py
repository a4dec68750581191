"""A machine with systemd for tests: systemd-nspawn over a root that `scripts/systemd-root` made.

Its changes go into a layer of its own, and it has its own processes, mounts and network: the loopback and a bridge
`lan` with the address 192.0.2.20, on which nobody else is. It can be rebooted.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT_VARIABLE = "KTOOL_SYSTEMD_ROOT"
NAME = "machine"
ADDRESS = "192.0.2.20"
CHECKOUT = Path(__file__).parents[2]
CGROUPS = Path("/sys/fs/cgroup")
REBOOT = 133  # systemd-nspawn's exit status where it is to be started again
ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/root/ktool/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}

# What a machine has and a container lacks: a network, here without a way out; control groups that dockerd may use.
_UNIT = """\
[Unit]
Description=Network without a way out, writable control groups
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target network.target network-online.target docker.service containerd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-machine

[Install]
WantedBy=multi-user.target
"""
_SCRIPT = f"""\
#!/bin/bash
set -eu
for hierarchy in /sys/fs/cgroup/*/; do mount -o remount,bind,rw "${{hierarchy%/}}" 2>/dev/null || true; done
ip link set lo up
ip link add lan type bridge
ip link add lan-port type veth peer name lan-cable
ip link set lan-port master lan
for link in lan lan-port lan-cable; do ip link set "$link" up; done
ip address add {ADDRESS}/24 dev lan
"""


def missing() -> str:
    """Why no such machine can run here, or an empty string."""
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        return f"{ROOT_VARIABLE} names no root (make test-systemd)"
    if os.environ.get("KTOOL_NETNS") != "1":
        return "runs in the namespace of `make test-systemd` (scripts/in-netns)"
    absent = [
        str(path) for path in (Path(root, "root/ktool/.venv"), Path(root).with_name("nspawn")) if not path.exists()
    ]
    return f"{ROOT_VARIABLE} is not what scripts/systemd-root makes: no {', '.join(absent)}" if absent else ""


class SystemdMachine:
    """One machine. `start` boots it, `stop` shuts it down and removes all that it has written."""

    def __init__(self, root: Path) -> None:
        self._lower = root
        self._directory = Path(tempfile.mkdtemp(prefix="ktool-machine-", dir="/var/tmp"))
        self._merged = self._directory / "root"
        self._cgroups = [path / f"ktool-machine-{os.getpid()}" for path in _hierarchies()]
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    # ---- life

    def start(self) -> None:
        """Lay out the files, and boot; returns when all units have started."""
        upper, work, var_lib = (self._directory / name for name in ("upper", "work", "var-lib"))
        for path in (upper, work, self._merged):
            path.mkdir()
        # Docker Engine cannot keep its layers on an overlay: /var/lib is a plain directory.
        _run(["cp", "-a", str(self._lower / "var/lib"), str(var_lib)])
        options = f"lowerdir={self._lower},upperdir={upper},workdir={work}"
        _run(["mount", "-t", "overlay", "overlay", "-o", options, str(self._merged)])
        # Where systemd-nspawn notes what it does: not among the files of the host.
        Path("/run/systemd/nspawn").mkdir(parents=True, exist_ok=True)
        _run(["mount", "-t", "tmpfs", "-o", "mode=755", "nspawn", "/run/systemd/nspawn"])
        self._write("etc/hostname", f"{NAME}\n")
        self._write("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {NAME}\n")
        self._write("etc/systemd/system/lab-machine.service", _UNIT)
        self._write("usr/local/sbin/lab-machine", _SCRIPT, mode=0o755)
        wants = self._merged / "etc/systemd/system/multi-user.target.wants"
        (wants / "lab-machine.service").symlink_to("../lab-machine.service")
        self._copy_checkout()
        for group in self._cgroups:
            group.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (group / name).exists():
                    (group / name).write_text((group.parent / name).read_text())
        self._boot()

    def reboot(self) -> None:
        """Reboot from inside, as a user does; returns when all units have started again."""
        assert self._process is not None
        self.run("systemctl reboot", check=False)
        assert self._process.wait(60) == REBOOT
        self._boot()

    def stop(self) -> None:
        """Shut down; remove every file, mount and control group of the machine."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()  # systemd-nspawn asks the machine to power off
            try:
                self._process.wait(40)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        for point in (self._merged, Path("/run/systemd/nspawn")):
            if point.is_mount():
                _run(["umount", str(point)])
        for group in self._cgroups:
            _remove_cgroup(group)
        shutil.rmtree(self._directory)

    # ---- use

    def run(self, script: str, *, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the machine, in the checkout; with `check`, exit status 0 is asserted."""
        done = subprocess.run(
            [
                *("nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"),
                *("--root", "env", "-i", "--chdir=/root/ktool", *(f"{k}={v}" for k, v in ENVIRONMENT.items())),
                *("bash", "-c", script),
            ],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if check:
            assert done.returncode == 0, f"{script}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def output(self, script: str, *, timeout: float = 120) -> str:
        """What a script prints, which must succeed."""
        return self.run(script, timeout=timeout).stdout.strip()

    def eventually(self, script: str, *, timeout: float = 60) -> None:
        """Wait until a script that only reads succeeds."""
        deadline = time.monotonic() + timeout
        while (done := self.run(script, check=False)).returncode:
            assert time.monotonic() < deadline, f"not within {timeout:g} s: {script}\n{done.stdout}\n{done.stderr}"
            time.sleep(0.3)

    def console(self) -> str:
        """The end of what the machine printed on its console."""
        path = self._directory / "console"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    # ---- inside

    def _boot(self) -> None:
        enter = "".join(f"echo $$ > {shlex.quote(str(group / 'cgroup.procs'))}; " for group in self._cgroups)
        command = [
            *(str(self._lower.with_name("nspawn")), "--quiet", "--boot", f"--directory={self._merged}"),
            *(f"--machine=ktool-{os.getpid()}", f"--hostname={NAME}", "--register=no", "--keep-unit"),
            *("--private-network", "--capability=all", "--system-call-filter=add_key keyctl request_key bpf"),
            f"--bind={self._directory / 'var-lib'}:/var/lib",
            *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"),
            "--kill-signal=SIGRTMIN+3",
        ]
        unified = "1" if (CGROUPS / "cgroup.controllers").exists() else "0"
        with (self._directory / "console").open("ab") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", f"{enter}exec {shlex.join(command)}"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={
                    **os.environ,
                    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": unified,
                },
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not self._is_up():
            assert self._process.poll() is None, f"systemd-nspawn ended: {self.console()}"
            assert time.monotonic() < deadline, f"does not boot: {self.console()}"
            threading.Event().wait(0.2)

    def _is_up(self) -> bool:
        assert self._process is not None
        try:
            children = psutil.Process(self._process.pid).children()
        except psutil.NoSuchProcess:
            return False
        self._leader = next((child.pid for child in children if child.name() == "systemd"), 0)
        if not self._leader:
            return False
        return self.run("systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def _copy_checkout(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=CHECKOUT,
            capture_output=True,
            check=True,
        ).stdout.decode()
        for name in filter(None, listed.split("\0")):
            source, target = CHECKOUT / name, self._merged / "root/ktool" / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def _write(self, name: str, text: str, *, mode: int = 0o644) -> None:
        path = self._merged / name
        path.write_text(text)
        path.chmod(mode)


def _hierarchies() -> list[Path]:
    """Roots of the control groups' trees: one under version 2, one for each controller under version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in sorted(CGROUPS.iterdir()) if path.name != "unified" and (path / "tasks").exists()]


def _remove_cgroup(group: Path) -> None:
    inner = [Path(path) for path, _, _ in os.walk(group, topdown=False)]
    deadline = time.monotonic() + 5
    while inner:
        try:
            inner[0].rmdir()
            inner.pop(0)
        except OSError:  # the last of its processes is just being reaped
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stderr}"
