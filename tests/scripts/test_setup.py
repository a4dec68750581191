"""scripts/setup on a copy of its inputs, with recorders in the place of pip, uv and apt: nothing is installed."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INPUTS = ("constraints.txt", "pyproject.toml", "scripts/build_models.py", "scripts/setup")
# pip brings uv, uv installs the lock and then ktool, what runs is compiled
STEPS = 4

RECORDER = """#!/bin/sh
echo "$(basename "$0") $*" >> "$RECORD"
"""


class Checkout:
    """A copy of the checkout's inputs with a .venv of recorders."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.record = directory / "record"
        for name in INPUTS:
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
            target.chmod(0o755)
        (directory / "kube" / "models").mkdir(parents=True)
        (directory / "kube" / "models" / "core_v1.py").touch()
        bin_directory = directory / ".venv" / "bin"
        bin_directory.mkdir(parents=True)
        for name in ("python", "uv", "ktool"):
            (bin_directory / name).write_text(RECORDER)
            (bin_directory / name).chmod(0o755)
        self.commands = directory / "commands"
        self.commands.mkdir()
        for name in ("dockerd", "docker", "nft", "iptables", "conntrack", "ip", "modprobe", "sysctl", "apt-get"):
            (self.commands / name).write_text(RECORDER)
            (self.commands / name).chmod(0o755)

    def setup(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "RECORD": str(self.record), "PATH": f"{self.commands}:{os.environ['PATH']}"}
        return subprocess.run(
            [str(self.directory / "scripts" / "setup"), *arguments],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self) -> list[str]:
        text = self.record.read_text() if self.record.exists() else ""
        self.record.unlink(missing_ok=True)
        return text.splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    if not os.access("/bin/busybox", os.X_OK):
        pytest.skip("busybox-static is not installed")
    return Checkout(tmp_path)


def test_second_run_installs_nothing_and_says_so_within_a_second(checkout: Checkout) -> None:
    first = checkout.setup()
    assert first.returncode == 0, first.stderr
    calls = checkout.calls()
    assert [call.split()[0] for call in calls] == ["python", "uv", "uv", "python"]
    assert "--require-hashes" in calls[0]
    assert "--require-hashes -r constraints.txt" in calls[1]
    assert "--no-deps --no-build-isolation --offline -e ." in calls[2]
    assert calls[3].endswith("scripts/compile_runtime.py")
    started = time.monotonic()
    second = checkout.setup()
    assert time.monotonic() - started < 1
    assert (second.returncode, second.stdout) == (0, "setup: nothing to install\n")
    assert checkout.calls() == []


@pytest.mark.parametrize("name", INPUTS)
def test_a_changed_input_is_noticed(checkout: Checkout, name: str) -> None:
    checkout.setup()
    checkout.calls()
    with (checkout.directory / name).open("a") as file:
        file.write("\n# changed\n")
    assert checkout.setup().returncode == 0
    assert len(checkout.calls()) == STEPS


def test_lost_models_are_generated_again(checkout: Checkout) -> None:
    checkout.setup()
    checkout.calls()
    (checkout.directory / "kube" / "models" / "core_v1.py").unlink()
    checkout.setup()
    assert len(checkout.calls()) == STEPS


def test_a_failure_leaves_no_stamp(checkout: Checkout) -> None:
    for name in ("uv", "python"):
        (checkout.directory / ".venv" / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
    assert checkout.setup().returncode != 0
    assert not (checkout.directory / ".venv" / ".setup-stamp").exists()


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("constraints.txt", {"uv", "hatchling", "kubernetes-validate", "aiohttp"}),
        ("constraints-provision.txt", {"ansible-core", "libvirt-python", "paramiko", "sushy"}),
    ],
)
def test_the_locks_name_no_place_to_download_from(name: str, packages: set[str]) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("--")]
    pinned = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert all("==" in line for line in pinned)
    assert {line.partition("==")[0] for line in pinned} >= packages
