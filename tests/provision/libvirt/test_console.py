from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from provision.providers.libvirt.console import host_key, last_lines
from provision.providers.libvirt.seed import nocloud, nocloud_disk, oem_strings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOSHtCZU7YUWGCz0qCwTq4NxzTqpJfdwdyNSWU1G9jvABCDE"[:80]
OTHER = KEY[:-3] + "xyz"


@pytest.mark.parametrize(
    ("console", "expected"),
    [
        (f"ktool-host-key: {KEY}\r\n", KEY),
        (f"[   12.3] ktool-host-key: {KEY}\nlogin:", KEY),
        (f"ktool-host-key: {KEY}\nktool-host-key: {OTHER}\n", OTHER),
        (f"ktool-host-key: {KEY[:40]}", ""),  # half told
        (f"{KEY}\n", ""),
        ("", ""),
        (
            f"-----BEGIN SSH HOST KEY KEYS-----\r\n{KEY} root@vm\r\n-----END SSH HOST KEY KEYS-----\r\n{OTHER}\r\n",
            KEY,
        ),
    ],
)
def test_the_host_key(console: str, expected: str) -> None:
    assert host_key(console) == expected


def test_last_lines_without_control_characters() -> None:
    said = "one\r\n\r\n\x1b[0;1;31m SKIP \x1b[0m two\r\n\x1b(Bthree\x07\r\n"
    assert last_lines(said, 2) == [" SKIP  two", "three"]


def test_the_seed_says_who_and_whom() -> None:
    (text,) = oem_strings("m1", "ssh-ed25519 AAAA me\n")
    name, _, value = text.partition("=")
    assert name == "io.systemd.credential.binary:tmpfiles.extra"
    lines = [line.split() for line in base64.b64decode(value).decode().splitlines()]
    written = {fields[1]: (fields[2], base64.b64decode(fields[6]).decode()) for fields in lines}
    assert written["/root/.ssh/authorized_keys"] == ("0600", "ssh-ed25519 AAAA me\n")
    assert written["/etc/hostname"] == ("0644", "m1\n")
    assert "127.0.1.1 m1\n" in written["/etc/hosts"][1]


def test_cloud_inits_seed(tmp_path: Path) -> None:
    files = nocloud("m1", "ops", "ssh-ed25519 AAAA me\n")
    assert '"ssh_authorized_keys": [\n    "ssh-ed25519 AAAA me"' in files["user-data"]
    if shutil.which("xorriso") is None:
        pytest.skip("not installed: xorriso")
    disk = tmp_path / "seed.iso"
    disk.write_bytes(nocloud_disk(files))
    told = subprocess.run(
        ["xorriso", "-indev", str(disk), "-pvd_info", "-find", "/", "-type", "f"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "cidata" in told.stdout
    assert {line.strip("'/") for line in told.stdout.splitlines() if line.startswith("'/")} == set(files)
