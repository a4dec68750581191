from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import ImageSettings
from provision.machine_image import guest_files
from provision.machine_image.finish import finish_script
from provision.machine_image.purpose import Purpose
from provision.machine_image.recipe import machine_architecture, recipe_for
from provision.machine_image.root import step_of

IMAGE = ImageSettings()


def test_the_key_is_of_all_that_goes_in() -> None:
    plain = recipe_for(IMAGE, architecture="amd64")
    others = [
        recipe_for(replace(IMAGE, source="debian-13"), architecture="amd64"),
        recipe_for(replace(IMAGE, packages=("htop",)), architecture="amd64"),
        recipe_for(IMAGE, architecture="arm64"),
        recipe_for(IMAGE, architecture="amd64", purpose=Purpose.METAL),
    ]
    assert len({recipe.key for recipe in [plain, *others]}) == 5
    assert recipe_for(IMAGE, architecture="amd64").key == plain.key
    two = [replace(IMAGE, packages=names) for names in (("htop", "jq"), ("jq", "htop", "jq"))]
    assert recipe_for(two[0]).key == recipe_for(two[1]).key


@pytest.mark.parametrize(
    ("architecture", "purpose", "kernel"),
    [
        ("amd64", Purpose.VIRTUAL, "linux-image-cloud-amd64"),
        ("arm64", Purpose.VIRTUAL, "linux-image-cloud-arm64"),
        ("amd64", Purpose.METAL, "linux-image-amd64"),
    ],
)
def test_one_kernel(architecture: str, purpose: Purpose, kernel: str) -> None:
    packages = recipe_for(IMAGE, architecture=architecture, purpose=purpose).packages
    assert [name for name in packages if name.startswith("linux-image")] == [kernel]


def test_what_is_not_built() -> None:
    with pytest.raises(KtoolError, match="not built here"):
        recipe_for(ImageSettings(source="/disk.qcow2"))
    with pytest.raises(KtoolError, match="architecture"):
        machine_architecture("riscv64")


@pytest.mark.parametrize("purpose", list(Purpose))
def test_guest_files(purpose: Purpose) -> None:
    files, links = guest_files.files(purpose), guest_files.links(purpose)
    paths = [*(file.path for file in files), *(link.path for link in links)]
    assert len(paths) == len(set(paths)), "nothing twice"
    assert not any(path.startswith("/") for path in paths)
    units = {path.rpartition("/")[2] for path in paths if "/system/" in path and ".d/" not in path}
    assert not units & set(guest_files.masked(purpose)), "nothing that we bring is masked"
    for file in files:
        if file.content.startswith("#!/bin/sh"):
            assert file.mode == 0o755
            subprocess.run(["sh", "-n"], input=file.content, text=True, check=True, timeout=10)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_the_finish_script_is_shell(purpose: Purpose) -> None:
    subprocess.run(["sh", "-n"], input=finish_script(purpose), text=True, check=True, timeout=10)


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("Get:12 http://m.test/debian bookworm/main amd64 libc6 amd64 2.36 [2,757 kB]", "downloading libc6"),
        ("Unpacking docker.io (20.10.24) ...", "unpacking docker.io"),
        ("Setting up libc6:amd64 (2.36) ...", "setting up libc6"),
        ("I: extracting archives...", "extracting archives"),
        ("I: automatically chosen format: directory", ""),
        ("Reading package lists...", ""),
    ],
)
def test_progress_of_mmdebstrap(line: str, step: str) -> None:
    assert step_of(line) == step
