"""The install server, spoken to as an installer does."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.providers.redfish.install_server import (
    BODY_BYTES,
    Installed,
    Installing,
    InstallServer,
    parse_result,
    printable,
)

MAC, OTHER = "52:54:00:AA:00:01", "52:54:00:aa:00:02"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMXcJQgnSRX8d4aN19wyIDxU6K76kvWUGABUqNB8nGYe"


@pytest.fixture
def server() -> Iterator[InstallServer]:
    started = InstallServer("127.0.0.1", {MAC: "metal-1", OTHER: "metal-2"})
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def installing(server: InstallServer, tmp_path: Path) -> Iterator[Installing]:
    (tmp_path / "piece").write_bytes(b"image")
    one = Installing(name="metal-1", mac=MAC, files={"piece-0000": tmp_path / "piece"}, texts={"plan": b"DISK=''\n"})
    with server.installing(one):
        yield one


def ask(url: str, body: str | None = None) -> tuple[int, str]:
    data = None if body is None else body.encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def test_an_installation(server: InstallServer, installing: Installing) -> None:
    url = server.url(MAC)
    status, script = ask(server.script_url(MAC))
    assert status == 200
    assert f"kernel {url}/vmlinuz " in script
    assert "ktool.mac=52:54:00:aa:00:01" in script
    assert ask(f"{url}/plan") == (200, "DISK=''\n")
    assert ask(f"{url}/piece-0000") == (200, "image")
    assert ask(f"{url}/say", "writing")[0] == 200
    assert ask(f"{url}/done", f"/dev/vda {KEY}")[0] == 200
    heard: list[str] = []
    assert installing.wait(heard.append, first=5) == Installed(host_key=KEY, disk="/dev/vda", address="127.0.0.1")
    assert heard == ["booting from the network", "loading piece-0000: 0 %", "writing", "installed on /dev/vda"]


def test_nobody_else_gets_or_says_anything(server: InstallServer, installing: Installing) -> None:
    base = f"http://127.0.0.1:{server.port}"
    for path in ("", "/", "/plan", "/guess/plan", "/guess/say", f"/{'x' * 32}/boot.ipxe", "/../../etc/passwd"):
        assert ask(base + path)[0] == 404
        assert ask(base + path, "text")[0] == 404
    other = server.url(OTHER)
    assert ask(f"{other}/plan")[0] == 404
    assert ask(f"{other}/done", f"/dev/vda {KEY}")[0] == 404
    assert ask(f"{server.url(MAC)}/../metal-1/piece-0000")[0] == 404
    assert installing.words.empty()
    assert server.url(MAC) != other


def test_a_machine_that_is_not_to_be_installed_goes_on_to_its_disk(server: InstallServer) -> None:
    assert ask(server.script_url(OTHER))[1].endswith("exit\n")
    with server.installing(Installing(name="metal-2", mac=OTHER, files={}, texts={})):
        assert "kernel " in ask(server.script_url(OTHER))[1]
    assert ask(server.script_url(OTHER))[1].endswith("exit\n")


def test_a_failure_is_told_with_its_reason(server: InstallServer, installing: Installing) -> None:
    assert ask(f"{server.url(MAC)}/failed", "no disk with room")[0] == 200
    with pytest.raises(KtoolError, match="installer failed") as raised:
        installing.wait(print, first=5)
    assert raised.value.found == "no disk with room"


def test_waiting_has_an_end(installing: Installing) -> None:
    with pytest.raises(KtoolError, match="does not boot from the network"):
        installing.wait(print, first=0.05)
    installing.say("writing")
    with pytest.raises(KtoolError, match="fallen silent") as raised:
        installing.wait(print, first=0.05, silence=0.05)
    assert "writing" in raised.value.found


def test_a_machine_that_switches_itself_off_is_not_waited_for(
    installing: Installing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provision.providers.redfish.install_server.LOOK_SECONDS", 0.05)
    with pytest.raises(KtoolError, match="switched itself off"):
        installing.wait(print, first=5, is_off=lambda: True)
    # Off, because it is done:
    looks: list[bool] = []

    def done_and_off() -> bool:
        installing.say("done", installed=Installed(host_key=KEY, disk="/dev/sda", address="a"))
        looks.append(True)
        return True

    assert installing.wait(print, first=5, is_off=done_and_off).disk == "/dev/sda"
    assert looks == [True]


def test_too_much_or_nonsense_is_refused(server: InstallServer, installing: Installing) -> None:
    url = server.url(MAC)
    assert ask(f"{url}/say", "x" * (BODY_BYTES + 1))[0] == 404
    assert ask(f"{url}/done", "/dev/vda")[0] == 400
    assert installing.words.empty()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"/dev/vda {KEY}", Installed(host_key=KEY, disk="/dev/vda", address="a")),
        ("", None),
        (f"vda {KEY}", None),
        ("/dev/vda ssh-rsa AAAA", None),
        (f"/dev/vda {KEY} more", None),
    ],
)
def test_parse_result(text: str, wanted: Installed | None) -> None:
    assert parse_result(text, address="a") == wanted


def test_what_a_machine_says_moves_no_cursor() -> None:
    assert printable("a\x1b[2Jb\nc") == "a [2Jb c"


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(KtoolError, match="cannot be started"):
        InstallServer("192.0.2.99", {MAC: "m"})


def test_secrets_are_not_logged(
    server: InstallServer, installing: Installing, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(f"{server.url(MAC)}/plan")
    ask(f"{server.url(MAC)}/none")
    captured = capfd.readouterr()
    assert server.url(MAC).rpartition("/")[2] not in captured.out + captured.err
