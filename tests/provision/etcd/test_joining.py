"""Members of etcd that join and leave, with the real etcd: a machine is a network namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

KEYS = ("etcd/ca.crt", "etcd/ca.key")
BRIDGE = "kt-etcd0"


class Masters:
    """Three machines' namespaces on one bridge."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def address(self, name: str) -> str:
        return f"10.79.0.{name[1:]}"

    def run(self, action: str, name: str, *, kill: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """An action on a machine; joins by m1."""
        done = subprocess.run(
            [
                *("nsenter", f"--net=/run/netns/kt-{name}", sys.executable, "-m", "tests.provision.etcd.one_master"),
                *(action, str(self.folder / name), self.address(name), f"https://{self.address('m1')}:2379"),
            ],
            env={**os.environ, "KTOOL_TEST_KILL": kill},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert not check or done.returncode == 0, f"{action} on {name}: {done.stdout}{done.stderr}{self.log(name)}"
        return done

    def keys_to(self, name: str) -> None:
        """What the join file brings."""
        for key in KEYS:
            target = self.folder / name / "pki" / key
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / "m1" / "pki" / key, target)

    def members(self, name: str = "m1") -> str:
        return self.run("members", name).stdout.strip()

    def log(self, name: str) -> str:
        path = self.folder / name / "log" / "etcd.log"
        return path.read_text()[-3000:] if path.exists() else ""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def masters() -> Iterator[Masters]:
    if os.environ.get("KTOOL_NETNS") != "1":
        pytest.skip("runs in the namespace of `make test` (scripts/in-netns)")
    if not shutil.which("etcd"):
        pytest.skip("etcd is not installed")
    folder = Path(tempfile.mkdtemp(prefix="ktetcd-", dir="/var/tmp"))
    names = ("m1", "m2", "m3")
    found = Masters(folder)
    ip("link", "add", BRIDGE, "type", "bridge")
    made = []
    try:
        ip("link", "set", BRIDGE, "up")
        for name in names:
            ip("netns", "add", f"kt-{name}")
            made.append(name)
            ip("link", "add", f"kt-{name}", "type", "veth", "peer", "name", "eth0", "netns", f"kt-{name}")
            ip("link", "set", f"kt-{name}", "master", BRIDGE, "up")
            for command in (
                ("link", "set", "lo", "up"),
                ("address", "add", f"{found.address(name)}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
            ):
                ip("-n", f"kt-{name}", *command)
        yield found
    finally:
        for name in made:
            if (folder / name / "services").exists():
                found.run("down", name, check=False)
            # the cable first: the namespace outlives its name while the kernel ends connections in it
            subprocess.run(["ip", "link", "delete", f"kt-{name}"], capture_output=True, check=False)
            ip("netns", "delete", f"kt-{name}")
        ip("link", "delete", BRIDGE)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(300)
def test_masters_join_and_leave_whatever_kills_them_on_the_way(masters: Masters) -> None:
    masters.run("begin", "m1")
    assert masters.members() == "m1"
    assert (masters.folder / "m1" / "etcd").stat().st_mode & 0o777 == 0o700
    assert "unchanged" in masters.run("begin", "m1").stderr

    # killed before each step: a second call goes on, and the first master needs nobody meanwhile
    masters.keys_to("m2")
    for step, seen in (("is added", "m1"), ("starting", "?~ m1"), ("catching up", "m1 m2~")):
        killed = masters.run("join", "m2", kill=step, check=False)
        assert killed.returncode == -9, killed.stderr
        assert masters.members() == seen, step
    # one that gives up on its way leaves nothing of itself, although it has no vote and answers no question
    masters.run("leave", "m2")
    assert masters.members() == "m1"
    assert masters.run("join", "m2").stdout.strip() == "m1 m2"
    assert "unchanged" in masters.run("join", "m2").stderr

    masters.keys_to("m3")
    assert masters.run("join", "m3").stdout.strip() == "m1 m2 m3"

    # with one of three gone, none of the two that are left may leave; the one that is gone may
    masters.run("stop", "m2")
    refused = masters.run("leave", "m3", check=False)
    assert refused.returncode == 1
    assert "would lose its quorum" in refused.stderr
    masters.run("start", "m2")
    masters.run("join", "m2")

    # a machine that was made anew takes the place of what it was
    masters.run("down", "m3")
    shutil.rmtree(masters.folder / "m3")
    masters.keys_to("m3")
    assert masters.run("join", "m3").stdout.strip() == "m1 m2 m3"

    masters.run("leave", "m3")
    assert masters.members() == "m1 m2"
    # its data is of a membership that is over by now
    assert masters.run("join", "m3").stdout.strip() == "m1 m2 m3"
    masters.run("leave", "m3")
    masters.run("leave", "m2")
    assert masters.members() == "m1"

    # the last one has lost its data: that is told, and no empty cluster is begun in its place
    masters.run("stop", "m1")
    shutil.rmtree(masters.folder / "m1" / "etcd")
    lost = masters.run("begin", "m1", check=False)
    assert lost.returncode == 1
    assert "does not become ready" in lost.stderr
