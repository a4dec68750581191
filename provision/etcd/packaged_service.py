"""Debian's own etcd.service, which the package starts with its defaults: on our ports, without TLS, for nobody.

One that holds nothing is stopped while ktool's etcd is there, and put back by `down`. One that holds somebody's keys is
never touched: then the ports are taken, and preflight says so.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import msgspec

from provision.command import Runner, attempt, run
from provision.etcd.membership import CLIENT_PORT
from provision.journal import Change, ChangeKind, Journal
from provision.services.systemd import is_running

UNIT = "etcd.service"
ASK_SECONDS = 5.0


class UnitState(msgspec.Struct, frozen=True):
    """The unit as it was: whether it ran, whether it starts at boot."""

    active: bool = False
    enabled: bool = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to stop."""
        return not self.active and not self.enabled


def look(runner: Runner = run) -> UnitState:
    """The state now; all False where there is no systemd, or no such unit."""
    if not is_running():
        return UnitState()
    return UnitState(
        active=_says(runner, "ActiveState") in ("active", "activating"),
        enabled=_says(runner, "UnitFileState") == "enabled",
    )


def pid_if_empty(runner: Runner = run) -> int | None:
    """The pid of a running service that holds no keys: its ports will be free. None for any other."""
    if not look(runner).active or not _is_empty():
        return None
    pid = _says(runner, "MainPID")
    return int(pid) if pid.isdigit() and int(pid) else None


def set_aside(journal: Journal, runner: Runner = run) -> bool:
    """Stop it, now and at boot, and note how it was; True if there was anything to stop."""
    state = look(runner)
    if state.idle:
        return False
    if state.active and not _is_empty():
        return False  # preflight has told, or will
    journal.record(ChangeKind.UNIT, UNIT, before=msgspec.to_builtins(state))
    runner(["systemctl", "disable", "--quiet", "--now", UNIT], timeout=60)
    return True


def put_back(journal: Journal, change: Change, runner: Runner = run) -> list[str]:
    """Have it as it was before `set_aside`; what was done, in words."""
    before = msgspec.convert(change.before, UnitState)
    done = []
    if is_running() and _says(runner, "LoadState") == "loaded":
        if before.enabled:
            runner(["systemctl", "enable", "--quiet", UNIT], timeout=60)
        if before.active:
            runner(["systemctl", "start", UNIT], timeout=60)
        done = [f"{UNIT} as it was ({'running' if before.active else 'stopped'})"]
    journal.close(change)
    return done


def _is_empty() -> bool:
    """Whether the etcd on this machine's default port says that it has no keys."""
    ask = urllib.request.Request(
        f"http://127.0.0.1:{CLIENT_PORT}/v3/kv/range",
        data=json.dumps({"key": "AA==", "range_end": "AA==", "count_only": True}).encode(),
        headers={"Content-Type": "application/json"},
    )
    # past any proxy of the environment: this machine is meant
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(ask, timeout=ASK_SECONDS) as response:
            return int(json.load(response).get("count", "0")) == 0
    except (OSError, ValueError, urllib.error.URLError):
        return False


def _says(runner: Runner, property_: str) -> str:
    return (attempt(runner, ["systemctl", "show", "--value", f"--property={property_}", UNIT]) or "").strip()
