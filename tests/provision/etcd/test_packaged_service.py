"""Debian's own etcd.service: made room by, and put back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from provision.etcd import packaged_service
from provision.etcd.packaged_service import UNIT
from provision.journal import ChangeKind, Journal


class Systemctl:
    """systemd with that one unit."""

    def __init__(self, *, active: bool, enabled: bool) -> None:
        self.active, self.enabled = active, enabled

    def __call__(
        self, argv: Sequence[str], *, timeout: float = 0, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> str:
        if argv[1] == "show":
            asked = argv[3].removeprefix("--property=")
            return {
                "ActiveState": "active" if self.active else "inactive",
                "UnitFileState": "enabled" if self.enabled else "disabled",
                "LoadState": "loaded",
                "MainPID": "77" if self.active else "0",
            }[asked]
        assert argv[-1] == UNIT
        if argv[1] == "disable":
            assert "--now" in argv
            self.active = self.enabled = False
        elif argv[1] == "enable":
            self.enabled = True
        elif argv[1] == "start":
            self.active = True
        return ""


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the etcd on the default port holds nothing."""
    says = [True]
    monkeypatch.setattr(packaged_service, "is_running", lambda: True)
    monkeypatch.setattr(packaged_service, "_is_empty", lambda: says[0])
    return says


@pytest.mark.parametrize(("active", "enabled"), [(True, True), (False, True), (True, False)])
def test_it_is_as_before_in_the_end(tmp_path: Path, empty: list[bool], active: bool, enabled: bool) -> None:
    systemctl, journal = Systemctl(active=active, enabled=enabled), Journal(tmp_path / "journal")
    assert packaged_service.set_aside(journal, systemctl)
    assert (systemctl.active, systemctl.enabled) == (False, False)
    # a second `up` finds nothing to stop, and what was before still counts
    assert not packaged_service.set_aside(journal, systemctl)
    change = Journal(tmp_path / "journal").find(ChangeKind.UNIT, UNIT)
    assert change is not None
    assert packaged_service.put_back(journal, change, systemctl)
    assert (systemctl.active, systemctl.enabled) == (active, enabled)
    assert Journal(tmp_path / "journal").open_changes() == []


def test_one_that_nobody_uses_is_left_alone(tmp_path: Path, empty: list[bool]) -> None:
    journal = Journal(tmp_path / "journal")
    assert not packaged_service.set_aside(journal, Systemctl(active=False, enabled=False))
    assert journal.open_changes() == []


def test_one_with_keys_is_never_touched(tmp_path: Path, empty: list[bool]) -> None:
    empty[0] = False
    systemctl, journal = Systemctl(active=True, enabled=True), Journal(tmp_path / "journal")
    assert packaged_service.pid_if_empty(systemctl) is None
    assert not packaged_service.set_aside(journal, systemctl)
    assert (systemctl.active, systemctl.enabled) == (True, True)
    empty[0] = True
    assert packaged_service.pid_if_empty(systemctl) == 77


def test_whether_it_is_empty_is_asked_past_any_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Etcd(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"header": {}, "count": "0"}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Etcd) as server:
        monkeypatch.setattr(packaged_service, "CLIENT_PORT", server.server_port)
        monkeypatch.setenv("http_proxy", "http://192.0.2.1:3128")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setattr(packaged_service, "ASK_SECONDS", 2.0)
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        server.timeout = 5
        assert packaged_service._is_empty()
        answering.join()
