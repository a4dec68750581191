from __future__ import annotations

from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.providers.libvirt.connection import Connection, mend_for, place, unreachable
from provision.providers.libvirt.network import _routes


@pytest.mark.parametrize(
    ("uri", "local", "session", "jump"),
    [
        ("qemu:///system", True, False, ""),
        ("qemu:///session", True, True, ""),
        ("qemu+ssh://root@big.test/system", False, False, "root@big.test:22"),
        ("qemu+ssh://ops@big.test:2222/system?keyfile=/k", False, False, "ops@big.test:2222"),
    ],
)
def test_where_a_uri_leads(uri: str, local: bool, session: bool, jump: str) -> None:
    there = place(uri)
    assert (there.is_local, there.session) == (local, session)
    found = there.jump
    assert (f"{found.user}@{found.address}:{found.port}" if found else "") == jump


def test_where_disks_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert place("qemu:///system").pool_path("p") == "/var/lib/libvirt/images/p"
    assert place("qemu:///session").pool_path("p") == "/data/libvirt/images/p"
    with pytest.raises(KtoolError, match="remote libvirt session"):
        place("qemu+ssh://h/session").pool_path("p")


def test_no_libvirt(tmp_path: Path) -> None:
    connection = Connection(f"qemu+unix:///system?socket={tmp_path}/none")
    with pytest.raises(KtoolError, match="libvirt does not answer") as error:
        _ = connection.handle
    assert "libvirtd" in error.value.mend


@pytest.mark.parametrize(
    ("uri", "message", "mend"),
    [
        ("qemu:///system", "Failed to connect socket: Permission denied", "group libvirt"),
        ("qemu:///system", "Failed to connect socket: No such file", "systemctl start libvirtd"),
        ("qemu:///session", "Failed to connect socket", "XDG_RUNTIME_DIR"),
        ("qemu+ssh://h/system", "ssh: refused", "virsh -c qemu+ssh://h/system"),
    ],
)
def test_what_mends_no_answer(uri: str, message: str, mend: str) -> None:
    assert mend in unreachable(place(uri), message).mend


@pytest.mark.parametrize(
    ("message", "mend"),
    [
        ("Could not open '/d': Permission denied", "qemu.conf"),
        ("Cannot find suitable emulator for x86_64", "qemu-system"),
        ("Cannot allocate memory", "ktool_memory_mib"),
        ("anything else", ""),
    ],
)
def test_what_mends_a_refusal(message: str, mend: str) -> None:
    assert mend in mend_for(message)
    assert bool(mend) == bool(mend_for(message))


def test_routes() -> None:
    text = '[{"dst":"default","dev":"a"},{"dst":"10.1.0.0/16","dev":"b"},{"dst":"10.2.0.1","dev":"c"}]'
    assert [(str(net), device) for net, device in _routes(text)] == [("10.1.0.0/16", "b"), ("10.2.0.1/32", "c")]
