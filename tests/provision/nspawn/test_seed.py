"""The files that make a machine itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from provision.providers.nspawn import seed

ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nfirst:x:1000:1000::/home/first:/bin/sh\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/group": "root:x:0:\n",
}


def files(user: str = "root") -> dict[str, seed.SeedFile]:
    return seed.files(
        name="a",
        address="10.77.0.11",
        user=user,
        authorized_key="ssh-ed25519 AAAA lab",
        resolv_conf="nameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch example\n",
        accounts=ACCOUNTS,
    )


def test_root_needs_no_account() -> None:
    made = files()
    assert made["etc/hosts"].text.endswith("10.77.0.11 a\n")
    assert made["root/.ssh/authorized_keys"].text == "ssh-ed25519 AAAA lab\n"
    assert not {"etc/passwd", "etc/shadow", "etc/sudoers.d/90-ktool"} & made.keys()


def test_another_user_may_sudo_and_has_no_password() -> None:
    made = files("admin")
    assert made["etc/passwd"].text.splitlines()[-1] == "admin:x:1001:1001::/home/admin:/bin/bash"
    assert made["etc/shadow"].text.splitlines()[-1].startswith("admin:*:")
    assert made["etc/shadow"].mode == 0o640
    assert made["etc/sudoers.d/90-ktool"].mode == 0o440
    assert made["home/admin/.ssh/authorized_keys"].owner == 1001


def test_a_user_who_is_there_stays_as_he_is() -> None:
    made = files("first")
    assert "etc/passwd" not in made
    assert made["home/first/.ssh/authorized_keys"].owner == 1000


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("nameserver 127.0.0.53\n", ""),
        ("# x\nnameserver 9.9.9.9\nnameserver ::1\noptions edns0", "nameserver 9.9.9.9\n"),
    ],
)
def test_name_servers(text: str, found: str) -> None:
    assert seed.name_servers(text) == found


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of other users")
def test_written_twice_the_machine_stays_the_same(tmp_path: Path) -> None:
    key = seed.write(tmp_path, files("admin"), name="a")
    identity = (tmp_path / "etc/machine-id").read_text()
    assert len(identity.strip()) == 32
    assert seed.write(tmp_path, files("admin"), name="a") == key == seed.host_key(tmp_path)
    assert (tmp_path / "etc/machine-id").read_text() == identity
    modes = {
        path: stat.S_IMODE((tmp_path / path).stat().st_mode)
        for path in ("etc", "etc/ssh/ssh_host_ed25519_key", "root", "home", "home/admin", "home/admin/.ssh")
    }
    assert modes == {
        "etc": 0o755,
        "etc/ssh/ssh_host_ed25519_key": 0o600,
        "root": 0o700,
        "home": 0o755,
        "home/admin": 0o700,
        "home/admin/.ssh": 0o700,
    }
    assert (tmp_path / "home/admin/.ssh").stat().st_uid == 1001
