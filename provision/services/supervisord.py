"""Services under supervisord (the `supervisor` package), for machines without systemd.

One supervisord per data directory, in a session of its own, configured and asked over a Unix socket that only root
can open. Three things are arranged differently from a usual supervisord, each for a reason:

- Output goes to the log file directly, not through a pipe that supervisord reads: should supervisord itself be
  killed, a service that writes to such a pipe would die of SIGPIPE, and dockerd would take every pod with it.
- Each service is started by a small generated script (`services/<name>.run`) which notes its pid, rotates the log,
  sets limits and then becomes the service. The notes make restarts countable, and orphans findable.
- After supervisord was killed, its services go on as orphans. The next start of a supervisord ends those that carry
  the mark of this data directory before it starts them anew: never two of one kind, never somebody else's process.

supervisord's back-off applies to a service that ends within a second of its start: one second more of waiting after
each attempt. A service that ran longer is started again at once.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from kube.errors import KtoolError
from kube.files import write_atomic, write_secret
from provision import processes
from provision.services.service import LOG_ROTATION_BYTES, RestartPolicy, ServiceSpec, ServiceStatus, tail

START_SECONDS = 10.0
# Longest socket path that the kernel takes is 107 bytes.
MAX_SOCKET_PATH = 107
# Variables of the caller's environment that services get; everything else stays behind.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")

_RUNNING_STATES = ("STARTING", "RUNNING", "STOPPING")
_BAD_NAME = 10  # supervisor.xmlrpc.Faults
_ALREADY_STARTED = 60
_NOT_RUNNING = 70
_AUTORESTART = {RestartPolicy.ALWAYS: "true", RestartPolicy.ON_FAILURE: "unexpected", RestartPolicy.NEVER: "false"}


P = ParamSpec("P")
R = TypeVar("R")


def _one_at_a_time(
    method: Callable[Concatenate[SupervisordServices, P], R],
) -> Callable[Concatenate[SupervisordServices, P], R]:
    """Services are started side by side from several threads; supervisord itself must be started once."""

    @wraps(method)
    def locked(self: SupervisordServices, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._changing:
            return method(self, *args, **kwargs)

    return locked


class SupervisordServices:
    """A ServiceSupervisor over one supervisord; its files are `services/`, `run/supervisor*`, `log/supervisord.log`
    of `data_dir`."""

    name = "supervisord"

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._changing = threading.RLock()
        self._services = data_dir / "services"
        self._run = data_dir / "run"
        self._log = data_dir / "log" / "supervisord.log"
        self._socket = self._run / "supervisor.sock"
        self._pid_file = self._run / "supervisord.pid"
        self._config = self._services / "supervisord.conf"

    # ---- ServiceSupervisor

    @_one_at_a_time
    def install(self, spec: ServiceSpec) -> bool:
        """See ServiceSupervisor."""
        for directory in (self._services, self._run, self._log.parent):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._run.chmod(0o700)
        spec.log_path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._write_config()
        specs = {name: known for name in self.names() if (known := self._spec(name)) is not None}
        changed = specs.get(spec.name) != spec
        specs[spec.name] = spec
        script = run_script(spec, run_dir=self._run, mark=self._mark(spec.name))
        write_atomic(self._script(spec.name), script.encode(), mode=0o700)
        path = self._services / f"{spec.name}.program"
        # Left alone where the service is as before: its priority may have become another one with the services around
        # it, and supervisord, when it reads its files next, would stop it for that.
        if changed or not path.exists():
            program = program_section(spec, script=self._script(spec.name), priority=priority(spec, specs))
            write_secret(path, program.encode())
        known_as = msgspec.json.format(msgspec.json.encode(spec, enc_hook=str)).decode()
        write_secret(self._services / f"{spec.name}.json", known_as.encode())
        if changed and self._supervisor_pid() is not None:
            self._load()
        return changed

    def differs(self, spec: ServiceSpec) -> bool:
        """See ServiceSupervisor."""
        return self._spec(spec.name) != spec

    @_one_at_a_time
    def start(self, name: str) -> None:
        """See ServiceSupervisor."""
        self._ensure_supervisord()
        self._load()
        self._starts(name).unlink(missing_ok=True)
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _ALREADY_STARTED:
                return
            raise KtoolError(
                f"the service {name} cannot be started",
                found=fault.faultString,
                wanted="a service that supervisord can start",
                mend=f"see {self.log_path(name)}",
            ) from fault

    @_one_at_a_time
    def stop(self, name: str, *, timeout: float | None = None) -> None:
        """See ServiceSupervisor."""
        spec = self._spec(name)
        if spec is None:
            return
        patience = spec.stop_timeout if timeout is None else timeout
        pid = self.status(name).pid
        if self._supervisor_pid() is None:
            if pid is not None:
                self._end(name, pid, timeout=patience)
            return
        try:
            self._call("stopProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in (_BAD_NAME, _NOT_RUNNING):
                raise
        # supervisord kills after the spec's own stop_timeout; a shorter patience is ours to see to.
        if pid is not None and not processes.wait_gone(pid, patience):
            self._end(name, pid, timeout=0.1)

    @_one_at_a_time
    def recover(self) -> list[str]:
        """See ServiceSupervisor."""
        if self._supervisor_pid() is not None:
            return []
        orphans = [name for name in self.names() if self.status(name).running]
        if orphans:
            self._ensure_supervisord()
        return orphans

    def status(self, name: str) -> ServiceStatus:
        """See ServiceSupervisor."""
        starts = self._read_starts(name)
        restarts = max(0, len(starts) - 1)
        if self._supervisor_pid() is None:
            pid = starts[-1] if starts else None
            if pid is None or not self._is_ours(name, pid):
                return ServiceStatus(name, running=False, restarts=restarts, state="no supervisord")
            return ServiceStatus(name, True, pid, restarts, processes.uptime(pid), "ORPHANED")
        try:
            info = self._call("getProcessInfo", name)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != _BAD_NAME:
                raise
            return ServiceStatus(name, running=False, state="unknown")
        running = info["statename"] in _RUNNING_STATES and info["pid"] > 0
        uptime = processes.uptime(info["pid"]) if running else 0.0
        return ServiceStatus(name, running, info["pid"] or None, restarts, uptime, info["statename"])

    def log_path(self, name: str) -> Path | None:
        """See ServiceSupervisor."""
        spec = self._spec(name)
        return None if spec is None else spec.log_path

    def names(self) -> list[str]:
        """See ServiceSupervisor."""
        found = {path.stem for path in self._services.glob("*.json")}
        specs = {name: spec for name in found if (spec := self._spec(name)) is not None}
        return sorted(specs, key=lambda name: (priority(specs[name], specs), name))

    @_one_at_a_time
    def remove(self, name: str) -> None:
        """See ServiceSupervisor."""
        self.stop(name)
        for suffix in ("json", "run", "program"):
            (self._services / f"{name}.{suffix}").unlink(missing_ok=True)
        self._starts(name).unlink(missing_ok=True)
        if self._supervisor_pid() is not None:
            self._load()

    @_one_at_a_time
    def shutdown(self) -> None:
        """See ServiceSupervisor."""
        for name in reversed(self.names()):
            self.stop(name)
        pid = self._supervisor_pid()
        if pid is not None and not processes.end(pid, timeout=START_SECONDS):
            raise KtoolError(
                "supervisord does not end", found=f"pid {pid}", wanted="no such process", mend=f"kill {pid}"
            )
        self._end_orphans()
        shutil.rmtree(self._services, ignore_errors=True)
        for path in (self._socket, self._pid_file, *self._run.glob("*.starts")):
            path.unlink(missing_ok=True)

    # ---- supervisord itself

    def supervisor_pid(self) -> int | None:
        """The pid of the running supervisord, or None."""
        return self._supervisor_pid()

    def _supervisor_pid(self) -> int | None:
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if processes.is_alive(pid) and processes.has_mark(pid, self._mark("supervisord")) else None

    def _ensure_supervisord(self) -> None:
        if self._supervisor_pid() is not None:
            return
        self._end_orphans()
        self._socket.unlink(missing_ok=True)
        env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        env |= {name.lower(): os.environ[name.lower()] for name in PASSED_ON if name.lower() in os.environ}
        mark, _, value = self._mark("supervisord").partition("=")
        argv = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(self._config)]
        done = subprocess.run(
            argv,
            env=env | {mark: value},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            start_new_session=True,
            check=False,
        )
        deadline = time.monotonic() + START_SECONDS
        while done.returncode == 0 and time.monotonic() < deadline:
            try:
                self._call("getState")
                return
            except OSError:  # not listening yet
                time.sleep(0.02)
        raise KtoolError(
            "supervisord does not start",
            found=(done.stdout + done.stderr).strip() or tail(self._log, lines=3) or "no answer on its socket",
            wanted=f"an answer on {self._socket} within {START_SECONDS:g} s",
            mend=f"see {self._log}",
        )

    def _end_orphans(self) -> None:
        for name in reversed(self.names()):
            for pid in self._read_starts(name)[-1:]:
                spec = self._spec(name)
                self._end(name, pid, timeout=spec.stop_timeout if spec else 10.0)

    def _end(self, name: str, pid: int, *, timeout: float) -> None:
        if not processes.end(pid, timeout=timeout, mark=self._mark(name)):
            raise KtoolError(f"the service {name} does not end", found=f"pid {pid}", mend=f"kill -9 {pid}")

    def _is_ours(self, name: str, pid: int) -> bool:
        return processes.is_alive(pid) and processes.has_mark(pid, self._mark(name))

    def _load(self) -> None:
        """Let supervisord read the program files again, and do what changed."""
        added, changed, removed = self._call("reloadConfig")[0]
        for group in (*removed, *changed):
            try:
                self._call("stopProcessGroup", group, True)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != _BAD_NAME:
                    raise
            self._call("removeProcessGroup", group)
        for group in (*added, *changed):
            self._call("addProcessGroup", group)

    def _call(self, method: str, *arguments: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport  # 40 ms, and only this method needs it

        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport, allow_none=True)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()

    # ---- files

    def _mark(self, name: str) -> str:
        return f"KTOOL_SERVICE={self._data_dir}:{name}"

    def _script(self, name: str) -> Path:
        return self._services / f"{name}.run"

    def _starts(self, name: str) -> Path:
        return self._run / f"{name}.starts"

    def _read_starts(self, name: str) -> list[int]:
        try:
            return [int(line) for line in self._starts(name).read_text().split()]
        except FileNotFoundError:
            return []

    def _spec(self, name: str) -> ServiceSpec | None:
        try:
            return _SPEC.decode((self._services / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return None

    def _write_config(self) -> None:
        if len(str(self._socket)) > MAX_SOCKET_PATH:
            raise KtoolError(
                "the data directory's path is too long for a Unix socket in it",
                found=f"{self._socket} ({len(str(self._socket))} bytes)",
                wanted=f"at most {MAX_SOCKET_PATH} bytes",
                mend="choose a shorter --data-dir",
            )
        sections = {
            "unix_http_server": {"file": _escape(str(self._socket)), "chmod": "0600"},
            "supervisord": {
                "logfile": _escape(str(self._log)),
                "logfile_maxbytes": "1MB",
                "logfile_backups": "1",
                "pidfile": _escape(str(self._pid_file)),
                "directory": "/",
                "umask": "022",
            }
            | ({"user": "root"} if os.geteuid() == 0 else {}),
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
            "include": {"files": "*.program"},
        }
        text = "\n".join(section(title, settings) for title, settings in sections.items())
        write_secret(self._config, text.encode())


def run_script(spec: ServiceSpec, *, run_dir: Path, mark: str) -> str:
    """The shell script that becomes the service: notes its pid, rotates the log, sets limits and environment."""
    log = shlex.quote(str(spec.log_path))
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(spec.env.items())]
    # as many as are wanted, or as many as this machine gives
    wanted = spec.limits.open_files
    limits = [f'ulimit -n {wanted} 2>/dev/null || ulimit -n "$(ulimit -Hn)"'] if wanted is not None else []
    stale = [
        f"case $(sed -n 's/^State:[[:space:]]*//p' \"/proc/$(cat {file} 2>/dev/null)/status\" 2>/dev/null) in "
        f"Z*|X*|'') rm -f {file};; esac"
        for file in (shlex.quote(str(path)) for path in spec.pid_files)
    ]
    mark_name, _, mark_value = mark.partition("=")
    return "\n".join(
        [
            "#!/bin/sh",
            f"# Written by ktool: becomes the service {spec.name}; starts are noted in the .starts file.",
            f"echo $$ >> {shlex.quote(str(run_dir / f'{spec.name}.starts'))}",
            f"size=$(stat -c %s {log} 2>/dev/null || echo 0)",
            f'if [ "$size" -gt {LOG_ROTATION_BYTES} ]; then mv -f {log} {log}.1; fi',
            *stale,
            *limits,
            f"export {mark_name}={shlex.quote(mark_value)}",
            *exports,
            f"exec {shlex.join(spec.argv)} >> {log} 2>&1",
            "",
        ]
    )


def program_section(spec: ServiceSpec, *, script: Path, priority: int) -> str:
    """The `[program:x]` section of supervisord's configuration."""
    settings = {
        "command": shlex.quote(_escape(str(script))),
        "autostart": "false",
        "autorestart": _AUTORESTART[spec.restart],
        "startsecs": "1",
        "startretries": "1000000",
        "stopsignal": "TERM",
        "stopwaitsecs": str(max(1, round(spec.stop_timeout))),
        "stopasgroup": "false",
        "killasgroup": "false",
        "stdout_logfile": "NONE",
        "stderr_logfile": "NONE",
        "priority": str(priority),
    }
    return section(f"program:{spec.name}", settings)


def section(title: str, settings: Mapping[str, str]) -> str:
    """A section of an ini file."""
    return f"[{title}]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


def priority(spec: ServiceSpec, specs: dict[str, ServiceSpec]) -> int:
    """How deep the service stands in the `after` relation: 100 for one that waits for none, 101 and so on.

    Names that are not known count as none. A cycle is an error of the caller (ValueError).
    """

    def depth(name: str, seen: tuple[str, ...]) -> int:
        if name in seen:
            raise ValueError(f"services start after each other: {' → '.join((*seen, name))}")
        known = specs.get(name)
        if known is None:
            return 0
        return 1 + max((depth(other, (*seen, name)) for other in known.after), default=0)

    return 100 + max((depth(other, (spec.name,)) for other in spec.after), default=0)


def _decode(type_: type[Any], value: Any) -> Any:
    if type_ is Path:
        return Path(value)
    raise NotImplementedError(type_)


# Made here, once: threads must not be the first, side by side, that make msgspec learn a type.
_SPEC = msgspec.json.Decoder(ServiceSpec, dec_hook=_decode)


def _escape(text: str) -> str:
    return text.replace("%", "%%")  # supervisord expands %(name)s
