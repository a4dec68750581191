"""Services as systemd units, for machines where systemd is pid 1.

A service `master` is the unit `ktool-master.service`. Units are enabled, so the cluster returns after a reboot. A unit
carries the mark of its data directory: another cluster's units are never changed, stopped or removed.
`KillMode=process` because a stop concerns the service's own process: containers that the agent or dockerd started
belong to it by control group, and must live on.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from kube.errors import KtoolError
from kube.files import write_atomic
from provision.command import CommandFailed, Runner, run
from provision.services.service import LOG_ROTATION_BYTES, RestartPolicy, ServiceSpec, ServiceStatus

UNIT_DIRECTORY = Path("/etc/systemd/system")
_PROPERTIES = ("ActiveState", "SubState", "MainPID", "NRestarts", "ActiveEnterTimestampMonotonic")
_RESTART = {RestartPolicy.ALWAYS: "always", RestartPolicy.ON_FAILURE: "on-failure", RestartPolicy.NEVER: "no"}
_LOG_LINE = "StandardOutput=append:"


def is_running() -> bool:
    """Whether systemd is this machine's pid 1 (`sd_booted`)."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


class SystemdServices:
    """A ServiceSupervisor over systemctl; units are called `<prefix><name>.service` and belong to one `data_dir`."""

    name = "systemd"

    def __init__(
        self, data_dir: Path, *, prefix: str = "ktool-", unit_directory: Path = UNIT_DIRECTORY, runner: Runner = run
    ) -> None:
        self._data_dir = data_dir
        self._prefix = prefix
        self._units = unit_directory
        self._run = runner
        # Units of which systemd has not heard: it reads a new file when it is asked to start it. To have it read all
        # units again takes an emulated machine two seconds, each time.
        self._new: set[str] = set()

    def install(self, spec: ServiceSpec) -> bool:
        """See ServiceSupervisor. KtoolError if a unit of this name is there that is not ours."""
        path = self._path(spec.name)
        text = unit_text(spec, prefix=self._prefix, data_dir=self._data_dir)
        known = path.exists()
        if known and path.read_text() == text:
            return False
        if known and not self._is_ours(spec.name):
            raise KtoolError(
                f"the unit {path.name} belongs to somebody else",
                found=f"{path} without {_mark(self._data_dir, spec.name)}",
                wanted="no such unit, or one that ktool made for this data directory",
                mend=f"ktool down with the --data-dir that it was made for; or remove {path}",
            )
        spec.log_path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomic(path, text.encode())
        if known:
            self._systemctl("daemon-reload")
            self._systemctl("enable" if spec.autostart else "disable", "--quiet", "--no-reload", path.name)
        else:
            self._new.add(spec.name)
        return True

    def differs(self, spec: ServiceSpec) -> bool:
        """See ServiceSupervisor."""
        try:
            return self._path(spec.name).read_text() != unit_text(spec, prefix=self._prefix, data_dir=self._data_dir)
        except FileNotFoundError:
            return True

    def start(self, name: str) -> None:
        """See ServiceSupervisor."""
        unit = self._path(name).name
        if name not in self._new:
            # Whoever wrote it may have been killed before systemd heard of it.
            if self._systemctl("show", unit, "--property=NeedDaemonReload").strip() == "NeedDaemonReload=yes":
                self._systemctl("daemon-reload")
            try:
                # A unit that failed too often refuses to start until its failures are forgotten.
                self._systemctl("reset-failed", unit)
            except CommandFailed as failed:
                if "not loaded" not in failed.output:
                    raise
        # Enabled and started by one call, as each takes an emulated machine a third of a second.
        enabled = "[Install]" in self._path(name).read_text().splitlines()
        start = ["enable", "--quiet", "--no-reload", "--now", unit] if enabled else ["start", unit]
        try:
            try:
                self._systemctl(*start)
            except CommandFailed as failed:
                if "not found" not in failed.output:
                    raise
                # systemd before 247 remembers that a unit was missing which another one names.
                self._systemctl("daemon-reload")
                self._systemctl(*start)
            self._new.discard(name)
        except CommandFailed as failed:
            raise KtoolError(
                f"the service {name} cannot be started",
                found=failed.found,
                wanted="a service that systemd can start",
                mend=f"see {self.log_path(name)} and `systemctl status {unit}`",
            ) from failed

    def stop(self, name: str, *, timeout: float | None = None) -> None:
        """See ServiceSupervisor."""
        unit = self._path(name)
        if not self._is_ours(name):
            return
        if timeout is None:
            self._systemctl("stop", unit.name, timeout=120)
            return
        try:
            self._systemctl("stop", unit.name, timeout=timeout)
        except CommandFailed as failed:
            if failed.status is not None:
                raise
            self._systemctl("kill", "--signal=SIGKILL", "--kill-who=main", unit.name)
            self._systemctl("stop", unit.name, timeout=120)

    def recover(self) -> list[str]:
        """See ServiceSupervisor. systemd is pid 1: it is never gone."""
        return []

    def status(self, name: str) -> ServiceStatus:
        """See ServiceSupervisor."""
        if not self._is_ours(name):
            return ServiceStatus(name, running=False, state="unknown")
        text = self._systemctl("show", self._path(name).name, f"--property={','.join(_PROPERTIES)}")
        return parse_show(name, text, now=time.clock_gettime(time.CLOCK_MONOTONIC))

    def log_path(self, name: str) -> Path | None:
        """See ServiceSupervisor."""
        if not self._is_ours(name):
            return None
        lines = self._path(name).read_text().splitlines()
        found = (line.removeprefix(_LOG_LINE) for line in lines if line.startswith(_LOG_LINE))
        return next((Path(path.replace("%%", "%")) for path in found), None)

    def names(self) -> list[str]:
        """See ServiceSupervisor."""
        found = self._units.glob(f"{self._prefix}*.service")
        known = (path.name.removeprefix(self._prefix).removesuffix(".service") for path in found)
        ours = [self._path(name) for name in known if self._is_ours(name)]
        after = {path.name: _after(path.read_text()) for path in ours}
        ordered: list[str] = []
        while len(ordered) < len(after):
            ready = sorted(
                unit for unit in after if unit not in ordered and not (after[unit] & after.keys()) - {*ordered}
            )
            ordered += ready or sorted(after.keys() - {*ordered})
        return [unit.removeprefix(self._prefix).removesuffix(".service") for unit in ordered]

    def remove(self, name: str) -> None:
        """See ServiceSupervisor."""
        unit = self._path(name)
        if not self._is_ours(name):
            return
        self.stop(name)
        self._systemctl("disable", "--quiet", unit.name)
        unit.unlink()
        self._systemctl("daemon-reload")

    def shutdown(self) -> None:
        """See ServiceSupervisor."""
        for name in reversed(self.names()):
            self.remove(name)

    def _path(self, name: str) -> Path:
        return self._units / f"{self._prefix}{name}.service"

    def _is_ours(self, name: str) -> bool:
        try:
            return _mark_line(self._data_dir, name) in self._path(name).read_text().splitlines()
        except FileNotFoundError:
            return False

    def _systemctl(self, *arguments: str, timeout: float = 60) -> str:
        return self._run(["systemctl", *arguments], timeout=timeout)


def unit_text(spec: ServiceSpec, *, prefix: str, data_dir: Path) -> str:
    """The unit file of a service of `data_dir` (systemd.service(5))."""
    after = " ".join(f"{prefix}{name}.service" for name in spec.after)
    order = f"network-online.target docker.service {after}".strip()
    limits = [f"LimitNOFILE={spec.limits.open_files}"] if spec.limits.open_files is not None else []
    log = _specifier(str(spec.log_path))
    lines = [
        "# Written by ktool; `ktool down` removes it.",
        "[Unit]",
        f"Description={_specifier(spec.description)}",
        f"After={order}",
        "Wants=network-online.target",
        # Restarts never stop for good: a lost part is a degraded service, not an end.
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"ExecStartPre=/bin/sh -c {quote(rotation(spec.log_path))}",
        f"ExecStart={' '.join(quote(argument) for argument in spec.argv)}",
        *(f"Environment={quote(f'{name}={value}', expand=False)}" for name, value in sorted(spec.env.items())),
        _mark_line(data_dir, spec.name),
        f"{_LOG_LINE}{log}",
        f"StandardError=append:{log}",
        f"Restart={_RESTART[spec.restart]}",
        "RestartSec=500ms",
        f"TimeoutStopSec={spec.stop_timeout:g}",
        "KillMode=process",
        *(["NotifyAccess=main"] if spec.succession else []),
        "Delegate=yes",
        *limits,
        "",
        *(["[Install]", "WantedBy=multi-user.target", ""] if spec.autostart else []),
    ]
    return "\n".join(lines)


def rotation(log: Path) -> str:
    """Shell commands that put a log aside that has grown too long, before the service's process opens it anew."""
    path = shlex.quote(str(log))
    return f"if [ $(stat -c %s {path}) -gt {LOG_ROTATION_BYTES} ]; then mv -f {path} {path}.1; fi"


def quote(text: str, *, expand: bool = True) -> str:
    """A word of a unit file: specifiers (`%`), quotes and, where systemd would `expand` them, variables are escaped."""
    text = _specifier(text.replace("\\", "\\\\").replace('"', '\\"'))
    if expand:
        text = text.replace("$", "$$")
    return f'"{text}"' if not text or set(text) & set(" \t'\";\\$") else text


def parse_show(name: str, text: str, *, now: float) -> ServiceStatus:
    """The status in `systemctl show`'s output; `now` is the monotonic clock in seconds."""
    found: Mapping[str, str] = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    pid = int(found.get("MainPID", "0") or 0)
    running = found.get("ActiveState") in ("active", "activating", "deactivating") and pid > 0
    since = int(found.get("ActiveEnterTimestampMonotonic", "0") or 0) / 1_000_000
    return ServiceStatus(
        name,
        running=running,
        pid=pid or None,
        restarts=int(found.get("NRestarts", "0") or 0),
        uptime=max(0.0, now - since) if running and since else 0.0,
        state=f"{found.get('ActiveState', 'unknown')} ({found.get('SubState', '')})",
    )


def _mark(data_dir: Path, name: str) -> str:
    """The variable by which the processes of a data directory's services are told (supervisord's have it too)."""
    return f"KTOOL_SERVICE={data_dir}:{name}"


def _mark_line(data_dir: Path, name: str) -> str:
    return f"Environment={quote(_mark(data_dir, name), expand=False)}"


def _after(unit: str) -> set[str]:
    return {name for line in unit.splitlines() if line.startswith("After=") for name in line[6:].split()}


def _specifier(text: str) -> str:
    return text.replace("%", "%%")
