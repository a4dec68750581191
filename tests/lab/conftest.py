from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube import image_archive
from provision.bundle import bundle_file, runtime
from provision.bundle.archive import ArchiveRole
from provision.images import example_image
from tests import machines
from tests.lab.lab_under_test import LabUnderTest


@pytest.fixture(scope="session")
def needs_machines() -> None:
    if why := machines.missing():
        pytest.skip(why)


@pytest.fixture
def make_lab(needs_machines: None) -> Iterator[Callable[[dict[str, Any] | str], LabUnderTest]]:
    """Makes labs in a short folder (sockets' paths are limited); nothing of them is left when the test ends."""
    folder = Path(tempfile.mkdtemp(prefix="ktlab-", dir="/var/tmp"))
    labs: list[LabUnderTest] = []

    def make(inventory: dict[str, Any] | str) -> LabUnderTest:
        own = folder / str(len(labs))
        own.mkdir()
        labs.append(LabUnderTest(own, inventory))
        return labs[-1]

    yield make
    for lab in labs:
        lab.clear()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def example_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's image as `docker save` would write it."""
    path = tmp_path_factory.mktemp("image") / "web.tar"
    image_archive.write(example_image(), path)
    return path


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose runtimes are the present ones under another key, as an older ktool's would be."""
    monkeypatch.setattr(runtime, "FORMAT", 0)
    archives = {role: runtime.build(role, tmp_path / "cache") for role in ArchiveRole}
    bundle_file.create(tmp_path / "older.bundle", archives=archives)
    return tmp_path / "older.bundle"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole labs take their time, and more on a machine that has other things to do."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900 if "lab" in item.keywords else 480))
