"""Runs a playbook through ansible-runner, tells what happens as it happens, and keeps what was said.

What may be secret (inventory variables, extra variables, passwords) is in a folder that only this user can read and
that is gone when the run ends; what stays, in the lab's `runs/`, is Ansible's output and its events, in which tasks
show no secrets. Nothing of the user's own Ansible is looked at or written to: neither `ansible.cfg` nor `~/.ansible`.
"""

from __future__ import annotations

import configparser
import contextlib
import io
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kube.errors import KtoolError
from provision.ansible import CONTENT, hosts
from provision.ansible.events import HostResult, RunEvent, RunResult, counted, event_of, final
from provision.ansible.hosts import Host, SSHFiles
from provision.ansible.logins import end_connections
from provision.bundle.archive import Archive
from provision.lab_state import LabState

# Logs of runs that are kept.
KEPT = 20
FORKS = 10
# How often a run is asked whether it is to end, in seconds.
CANCEL_SECONDS = 1
# How often Ansible looks whether a task has ended, in seconds. By default it does a thousand times a second, which
# takes a tenth of a processor from the machines where these share it.
POLL_SECONDS = 0.01
# What ansible-runner writes besides output and events: the environment, caches.
_NOT_KEPT = ("command", "env.list", "fact_cache")


def run(
    playbook: str,
    machines: Sequence[Host],
    *,
    state: LabState,
    extra_vars: Mapping[str, Any] | None = None,
    on_event: Callable[[RunEvent], None] = lambda event: None,
    archives: Sequence[Archive] = (),
    check: bool = False,
    limit: Sequence[str] = (),
    forks: int = FORKS,
    cancel: threading.Event | None = None,
    sockets: Path | None = None,
) -> RunResult:
    """Run `site`, `upgrade` or `reset` (or the playbook at an absolute path) on machines.

    `archives` are the runtimes to install (empty: built of this ktool where a machine needs one). `on_event` is called
    in a thread of its own and must be quick. `check` changes nothing and says what would be (Ansible: "check mode").
    `limit` names the hosts to work on; others are known, and may be asked on their behalf. `sockets` is the folder of
    connections that stand already (`logged_in`). Setting `cancel`, or
    KeyboardInterrupt, ends Ansible's processes within seconds.

    A host's failure is in the result, not raised. KtoolError if Ansible itself could not run, or was cancelled.
    """
    path = playbook_path(playbook)
    state.create()
    started = time.monotonic()
    log = new_log(state.runs, path.stem)
    with _private_folder() as folder:
        extra = dict(extra_vars or {})
        if archives:
            extra["ktool_archives"] = [archive.described() for archive in archives]
        results = {host.name: HostResult() for host in machines if not limit or host.name in limit}
        cancel = cancel or threading.Event()
        files = SSHFiles(folder / "ssh_config", folder / "known_hosts", sockets)
        arguments = _arguments(path, machines, files, log=log, extra=extra, check=check, limit=limit, forks=forks)
        rc, status = _in_thread(arguments, results, on_event, cancel)
    for name in _NOT_KEPT:
        _remove(log / name)
    prune(state.runs)
    if cancel.is_set():
        raise KtoolError(f"the playbook {path.stem} was cancelled", found=f"after {time.monotonic() - started:.0f} s")
    if rc != 0 and not any(result.failed for result in results.values()):
        raise KtoolError(
            f"Ansible could not run the playbook {path.stem}",
            found=_said(log) or f"status {status}",
            wanted="a run to its end",
            mend=f"All it said is in {log}.",
        )
    return RunResult(results, time.monotonic() - started, log)


def playbook_path(playbook: str) -> Path:
    """The file of a playbook. KtoolError if there is none."""
    path = Path(playbook) if os.path.isabs(playbook) else CONTENT / f"{playbook.removesuffix('.yml')}.yml"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in CONTENT.glob("*.yml")))
        raise KtoolError("there is no such playbook", found=playbook, wanted=known)
    return path


def new_log(runs: Path, playbook: str) -> Path:
    """A new folder for what a run says, named by UTC time and playbook."""
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in range(1, 1000):
        path = runs / (f"{stamp}-{playbook}" if number == 1 else f"{stamp}-{playbook}-{number}")
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return path
    raise KtoolError("there are too many logs of this second", found=str(runs), wanted="a folder of its own")


def prune(runs: Path, *, kept: int = KEPT) -> None:
    """Remove all but the last logs."""
    for old in sorted(path for path in runs.iterdir() if path.is_dir())[:-kept]:
        _remove(old)


def configuration(text: str) -> str:
    """An ansible.cfg with what has no variable of the environment, from the one of those who run Ansible by hand."""
    config = configparser.RawConfigParser()
    config.read_string(text)
    config["defaults"]["internal_poll_interval"] = f"{POLL_SECONDS:g}"
    written = io.StringIO()
    config.write(written)
    return written.getvalue()


def environment(folder: Path) -> dict[str, str]:
    """Ansible's settings for a run whose own files are in `folder`."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "home"),
        # The inventory of a run is one JSON file: no other kind's plugin is loaded.
        "ANSIBLE_INVENTORY_ENABLED": "yaml",
        "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
        "ANSIBLE_REMOTE_TEMP": "/tmp",  # noqa: S108 (Ansible makes a folder of its own there, 0700)
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "cp"),
        "ANSIBLE_SSH_PASSWORD_MECHANISM": "ssh_askpass",
        "ANSIBLE_ROLES_PATH": str(CONTENT / "roles"),
        "ANSIBLE_LIBRARY": str(CONTENT / "library"),
        "ANSIBLE_ACTION_PLUGINS": str(CONTENT / "action_plugins"),
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_NOCOLOR": "True",
        "ANSIBLE_DEPRECATION_WARNINGS": "False",
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "ANSIBLE_DISPLAY_ARGS_TO_STDOUT": "False",
    }


def _arguments(
    path: Path,
    machines: Sequence[Host],
    files: SSHFiles,
    *,
    log: Path,
    extra: Mapping[str, Any],
    check: bool,
    limit: Sequence[str],
    forks: int,
) -> dict[str, Any]:
    """ansible-runner's arguments; writes the files that ssh and Ansible read."""
    folder = files.config.parent
    files.config.write_text(hosts.ssh_config(machines, files))
    files.known_hosts.write_text(hosts.known_hosts(machines))
    (folder / "ansible.cfg").write_text(configuration((CONTENT / "ansible.cfg").read_text()))
    return {
        "private_data_dir": str(folder),
        "artifact_dir": str(log.parent),
        "ident": log.name,
        "playbook": str(path),
        "inventory": hosts.inventory(machines, files),
        "extravars": dict(extra),
        "envvars": environment(folder),
        "settings": {"pexpect_timeout": CANCEL_SECONDS, "suppress_ansible_output": True},
        "cmdline": "--check" if check else None,
        "limit": ",".join(limit) or None,
        "forks": forks,
        "quiet": True,
    }


def _in_thread(
    arguments: dict[str, Any],
    results: dict[str, HostResult],
    on_event: Callable[[RunEvent], None],
    cancel: threading.Event,
) -> tuple[int, str]:
    """Run in a thread, so that whoever waits can be interrupted and the run still ends as it should."""
    ended: list[tuple[int, str]] = []
    failed: list[BaseException] = []

    def handle(event: dict[str, Any]) -> bool:
        found = event_of(event)
        if found is not None:
            if found.host in results:
                results[found.host] = counted(results[found.host], found)
            on_event(found)
        for name, result in results.items():
            results[name] = final(result, name, event)
        return True

    def work() -> None:
        try:
            ended.append(_run(arguments, handle, cancel))
        except BaseException as error:  # noqa: BLE001 (raised again in the thread that waits)
            failed.append(error)

    thread = threading.Thread(target=work, name="ansible")
    thread.start()
    try:
        thread.join()
    except BaseException:
        cancel.set()
        thread.join()
        raise
    if failed:
        raise failed[0]
    return ended[0]


def _run(
    arguments: dict[str, Any], handle: Callable[[dict[str, Any]], bool], cancel: threading.Event
) -> tuple[int, str]:
    from ansible_runner.interface import init_runner

    def cancelled() -> bool:
        if cancel.is_set():
            _end_processes()
        return cancel.is_set()

    runner = init_runner(**arguments, event_handler=handle, cancel_callback=cancelled)
    # Settings in the user's environment are for the user's own Ansible.
    for name, value in os.environ.items():
        if name.startswith("ANSIBLE_") and runner.config.env.get(name) == value:
            del runner.config.env[name]
    status, rc = runner.run()
    return int(rc if rc is not None else 1), str(status)


def _end_processes() -> None:
    """End ansible-playbook and all that it has started: its workers lead sessions of their own, so that ending its
    process group, which is what ansible-runner does, leaves them and their commands running."""
    import psutil

    for top in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if not any(Path(word).name == "ansible-playbook" for word in top.cmdline()[:3]):
                continue
            # Stopped, they start nothing more while they are being looked for.
            for _ in range(20):
                there = [p for p in (top, *top.children(recursive=True)) if p.status() != psutil.STATUS_STOPPED]
                if not there:
                    break
                for process in there:
                    with contextlib.suppress(psutil.Error):
                        process.suspend()
            for process in reversed([top, *top.children(recursive=True)]):
                with contextlib.suppress(psutil.Error):
                    process.kill()


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for this user only, with a short path: ssh's sockets are in it. Connections end with it."""
    folder = Path(tempfile.mkdtemp(prefix="ktool-"))
    try:
        yield folder
    finally:
        end_connections(folder / "cp")
        _remove(folder)


def _said(log: Path) -> str:
    """The last lines of Ansible's output."""
    found = []
    for name in ("stdout", "stderr"):
        with contextlib.suppress(OSError):
            found += (log / name).read_text(errors="replace").splitlines()
    lines = [line.strip() for line in found if line.strip() and not line.startswith(("PLAY", "TASK"))]
    return "; ".join(lines[-3:])[:600]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
