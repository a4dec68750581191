from __future__ import annotations

import os
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import ImageSettings
from provision.providers.nspawn import images, requirements

MOUNTS = """\
25 1 254:0 / / rw - overlay overlay rw,lowerdir=/a
26 25 0:24 / /var rw,relatime shared:1 - ext4 /dev/vda rw
27 26 0:25 / /var/lib/ktool rw - nfs4 server:/x rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/srv/labs", "overlay"), ("/var/lib/labs", "ext4"), ("/variable", "overlay"), ("/var/lib/ktool/x", "nfs4")],
)
def test_file_system(path: str, kind: str) -> None:
    assert requirements.file_system(Path(path), MOUNTS) == kind


@pytest.mark.skipif(os.geteuid() != 0, reason="without root, that is what is wanted first")
@pytest.mark.parametrize("path", ["/run/labs", "/srv/with:colon", "/srv/with,comma"])
def test_folders_that_cannot_be(path: str) -> None:
    with pytest.raises(KtoolError, match="this folder"):
        requirements.require(Path(path))


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(requirements, "find_command", lambda name: "" if name == "systemd-nspawn" else f"/bin/{name}")
    with pytest.raises(KtoolError) as caught:
        requirements.require(Path("/srv"))
    assert caught.value.mend == "apt-get install systemd-container"


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(KtoolError, match="need root"):
        requirements.require(Path("/srv"))


def test_an_image_that_is_a_disk() -> None:
    with pytest.raises(KtoolError, match="cannot have this image"):
        images.label(ImageSettings(source="/images/debian.qcow2"))
    assert images.label(ImageSettings()).startswith("debian-12 (")
