"""What goes into a box, as data; a whole box is made by test_lab."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from provision.machine_image import vagrant_box
from provision.machine_image.recipe import EMULATED_ARGUMENTS, KERNEL_ARGUMENTS
from provision.machine_image.vagrant_box import Accounts, Driver

ACCOUNTS = Accounts(
    passwd="root:x:0:0:root:/root:/bin/bash\n", group="root:x:0:\nshadow:x:42:\n", shadow="root:*:19000:0:99999:7:::\n"
)


def test_a_user_is_added_and_the_others_stay() -> None:
    got = ACCOUNTS.with_user("vagrant", 1000)
    assert got.passwd == ACCOUNTS.passwd + "vagrant:x:1000:1000::/home/vagrant:/bin/bash\n"
    assert got.group == ACCOUNTS.group + "vagrant:x:1000:\n"
    assert got.shadow.splitlines()[-1].split(":")[:2] == ["vagrant", "*"], "keys open the account, no password does"


@pytest.mark.parametrize(
    ("path", "mode", "owner", "group"),
    [
        ("etc/passwd", 0o644, 0, 0),
        ("etc/shadow", 0o640, 0, 42),
        ("etc/sudoers.d/vagrant", 0o440, 0, 0),
        ("home/vagrant", 0o755, 1000, 1000),
        ("home/vagrant/.ssh", 0o700, 1000, 1000),
        ("home/vagrant/.ssh/authorized_keys", 0o600, 1000, 1000),
    ],
)
def test_the_layer_says_whose_a_file_is(path: str, mode: int, owner: int, group: int) -> None:
    with tarfile.open(fileobj=io.BytesIO(vagrant_box.layer(ACCOUNTS))) as tar:
        entry = tar.getmember(path)
    assert (entry.mode, entry.uid, entry.gid) == (mode, owner, group)


def test_the_same_accounts_make_the_same_layer() -> None:
    assert vagrant_box.layer(ACCOUNTS) == vagrant_box.layer(ACCOUNTS)


def test_a_later_box_has_a_greater_version() -> None:
    new_year = 1_798_761_600.0  # 2027-01-01
    times = [new_year - 86_400, new_year - 1, new_year, new_year + 59, new_year + 40 * 86_400]
    versions = [tuple(int(part) for part in vagrant_box.version_at(t).split(".")) for t in times]
    assert versions == sorted(set(versions))
    assert vagrant_box.version_at(new_year) == "2027.101.0"


def test_a_catalog_names_the_boxs_file() -> None:
    found = json.loads(vagrant_box.catalog(Path("/cache/node.box"), version="1.2.3"))
    assert found["name"] == "ktool/node"
    assert found["versions"] == [
        {"version": "1.2.3", "providers": [{"name": "libvirt", "url": "file:///cache/node.box"}]}
    ]


@pytest.mark.parametrize(("driver", "cpu"), [(Driver.QEMU, "qemu64"), (Driver.KVM, "host-passthrough")])
def test_the_boxs_settings_start_its_kernel(driver: Driver, cpu: str) -> None:
    text = vagrant_box.vagrantfile(driver)
    assert f'libvirt.driver = "{driver}"' in text
    assert f'"{cpu}"' in text
    more = f" {EMULATED_ARGUMENTS}" if driver is Driver.QEMU else ""
    assert f'"{KERNEL_ARGUMENTS}{more} console=ttyS0"' in text
