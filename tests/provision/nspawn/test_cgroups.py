"""Which groups a machine gets, and what is written into them, on folders that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.providers.nspawn import cgroups


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def version_1(root: Path) -> None:
    for tree in ("memory", "cpu", "cpuset", "systemd", "unified"):
        (root / tree).mkdir()
        (root / tree / "cgroup.procs").touch()
    (root / "memory/tasks").touch()
    (root / "cpuset/cpuset.cpus").write_text("0-1")
    (root / "cpu,cpuacct").symlink_to("cpu")


def test_version_1_has_a_group_in_every_tree_also_in_the_unified_one(tmp_path: Path) -> None:
    version_1(tmp_path)
    assert cgroups.enter("id", memory_bytes=1024, cpus=2, root=tmp_path) == []
    found = files(tmp_path)
    for tree in ("memory", "cpu", "cpuset", "systemd", "unified"):
        assert found[f"{tree}/ktool-lab-id/cgroup.procs"] == "0"
    assert found["memory/ktool-lab-id/memory.limit_in_bytes"] == "1024"
    assert found["cpu/ktool-lab-id/cpu.cfs_quota_us"] == "200000"
    assert len(cgroups.existing("id", root=tmp_path)) == 5


def test_version_2_has_one_group_and_controllers_are_handed_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups.systemd, "is_running", lambda: False)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids rdma")
    assert cgroups.enter("id", memory_bytes=1024, cpus=1, root=tmp_path) == []
    found = files(tmp_path)
    assert found["ktool-lab-id/cgroup.procs"] == "0"
    assert found["ktool-lab-id/memory.max"] == "1024"
    assert found["ktool-lab-id/cpu.max"] == "100000 100000"
    assert found["cgroup.subtree_control"] in {"+cpu", "+memory", "+pids"}


def test_what_the_kernel_refuses_is_told(tmp_path: Path) -> None:
    assert cgroups.limit("id", memory_bytes=1, cpus=1, root=tmp_path) == [
        f"{tmp_path}/memory/ktool-lab-id/memory.limit_in_bytes: No such file or directory",
        f"{tmp_path}/cpu/ktool-lab-id/cpu.cfs_period_us: No such file or directory",
        f"{tmp_path}/cpu/ktool-lab-id/cpu.cfs_quota_us: No such file or directory",
    ]


def test_removing_what_is_not_there(tmp_path: Path) -> None:
    version_1(tmp_path)
    assert cgroups.remove("id", root=tmp_path) is False
    (tmp_path / "memory/ktool-lab-id/payload/system.slice").mkdir(parents=True)
    assert cgroups.remove("id", root=tmp_path) is True
    assert cgroups.existing("id", root=tmp_path) == []


def test_a_machine_may_have_a_part_of_a_processor(tmp_path: Path) -> None:
    version_1(tmp_path)
    assert cgroups.enter("id", memory_bytes=1024, cpus=2, root=tmp_path) == []
    assert cgroups.limit("id", memory_bytes=1024, cpus=0.25, root=tmp_path) == []
    found = files(tmp_path)
    assert found["cpu/ktool-lab-id/cpu.cfs_period_us"] == "100000"
    assert found["cpu/ktool-lab-id/cpu.cfs_quota_us"] == "25000"


def test_processor_time_of_version_1(tmp_path: Path) -> None:
    version_1(tmp_path)
    (tmp_path / "cpuacct/ktool-lab-id").mkdir(parents=True)
    (tmp_path / "cpuacct/ktool-lab-id/cpuacct.usage").write_text("2500000000\n")
    assert cgroups.processor_seconds("id", root=tmp_path) == 2.5


def test_processor_time_of_version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups.systemd, "is_running", lambda: False)
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "ktool-lab-id").mkdir()
    (tmp_path / "ktool-lab-id/cpu.stat").write_text("usage_usec 1250000\nuser_usec 1000000\nsystem_usec 250000\n")
    assert cgroups.processor_seconds("id", root=tmp_path) == 1.25
