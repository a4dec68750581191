"""What is read from /proc and /sys: how low oom_score_adj may be, what a cgroup uses."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.runtime import cgroup_stats, oom_score
from agent.runtime.cgroup_stats import Cgroup, CgroupUsage

ALL = f"Name:\tdockerd\nCapEff:\t{(1 << 41) - 1:016x}\n"
WITHOUT = f"Name:\tdockerd\nCapEff:\t{(1 << 41) - 1 - (1 << 24):016x}\n"


@pytest.mark.parametrize(
    ("status", "own", "wanted"), [(ALL, 0, -1000), (WITHOUT, 0, 0), (WITHOUT, -500, -500), ("", 7, 7)]
)
def test_lowest_allowed(status: str, own: int, wanted: int) -> None:
    assert oom_score.lowest_allowed(status, own) == wanted


@pytest.mark.parametrize(
    ("score", "lowest", "wanted"), [(-998, 0, 0), (-998, -1000, -998), (500, 0, 500), (2000, 0, 1000)]
)
def test_clamp(score: int, lowest: int, wanted: int) -> None:
    assert oom_score.clamp(score, lowest) == wanted


def test_the_server_is_found_by_its_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        found = oom_score.lowest_for_server(tmp_path / "socket")
    own = Path("/proc/self")
    assert found == oom_score.lowest_allowed((own / "status").read_text(), int((own / "oom_score_adj").read_text()))
    with pytest.raises(OSError):
        oom_score.lowest_for_server(tmp_path / "none")


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def process(proc: Path, text: str) -> Path:
    write(proc / "42", cgroup=text)
    return proc


def test_version_1(tmp_path: Path) -> None:
    root = tmp_path / "sys"
    memory = write(
        root / "memory/pods/a",
        memory__usage_in_bytes="1000\n",
        memory__limit_in_bytes="9223372036854771712\n",
        memory__stat="cache 1\ninactive_file 5\ntotal_inactive_file 300\n",
    )
    cpu = write(root / "cpu,cpuacct/pods/a", cpuacct__usage="123456\n")
    proc = process(tmp_path / "proc", "4:memory:/pods/a\n3:cpu,cpuacct:/pods/a\n1:name=systemd:/x\n0::/elsewhere\n")
    found = cgroup_stats.find(42, root=root, proc=proc)
    assert found == Cgroup(1, cpu, memory)
    assert cgroup_stats.read(found) == CgroupUsage(123456, 1000, 700, 0)


def test_version_2(tmp_path: Path) -> None:
    root = tmp_path / "sys"
    directory = write(
        root / "kubepods.slice/a.scope",
        memory__current="1000\n",
        memory__max="4096\n",
        memory__stat="anon 1\ninactive_file 300\n",
        cpu__stat="usage_usec 12\nuser_usec 1\n",
    )
    (root / "cgroup.controllers").write_text("cpu memory\n")
    proc = process(tmp_path / "proc", "0::/kubepods.slice/a.scope\n")
    found = cgroup_stats.find(42, root=root, proc=proc)
    assert found == Cgroup(2, directory, directory)
    assert cgroup_stats.read(found) == CgroupUsage(12000, 1000, 700, 4096)
    (directory / "memory.max").write_text("max\n")
    (directory / "memory.stat").write_text("inactive_file 3000\n")
    assert cgroup_stats.read(found) == CgroupUsage(12000, 1000, 0, 0)


def test_a_process_or_cgroup_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cgroup_stats.find(42, root=tmp_path, proc=tmp_path)
    with pytest.raises(FileNotFoundError):
        cgroup_stats.find(42, root=tmp_path, proc=process(tmp_path / "proc", "0::/gone\n"))
    with pytest.raises(FileNotFoundError):
        cgroup_stats.read(Cgroup(2, tmp_path, tmp_path))


def test_our_own_cgroup_can_be_read() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs the machine's cgroups")
    found = cgroup_stats.find(os.getpid())
    assert found.version in (1, 2)
