from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.bundle import closure, runtime
from provision.bundle.archive import Archive, ArchiveRole
from provision.bundle.runtime import build, python_tag

SHOW = "import sys, ktool, yaml; print(sys.executable, ktool.__file__, yaml.__file__)"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def agent(cache: Path) -> Archive:
    return build(ArchiveRole.AGENT, cache)


def test_is_found_again(cache: Path, agent: Archive) -> None:
    said: list[str] = []
    assert build(ArchiveRole.AGENT, cache, said.append) == agent
    assert not said


def test_roles_differ(cache: Path, agent: Archive) -> None:
    control = build(ArchiveRole.CONTROL, cache)
    assert control.key != agent.key
    with tarfile.open(control.path) as tar:
        names = tar.getnames()
    assert any("/numpy/" in name for name in names)
    assert any(name.endswith("/control/__main__.py") for name in names)


def test_what_the_archive_says_and_where_it_goes(agent: Archive) -> None:
    with tarfile.open(agent.path) as tar:
        entries = tar.getmembers()
        manifest = tar.extractfile(f"opt/ktool/{agent.key}/manifest.json")
        assert manifest is not None
        said = json.load(manifest)
        assert not any(str(closure.checkout()).encode() in _data(tar, e) for e in entries if e.name.endswith(".pyc"))
    assert said["key"] == agent.key
    assert (said["role"], said["python_tag"], said["compiled"]) == ("agent", python_tag(), True)
    names = [entry.name for entry in entries]
    assert {name.split("/")[0] for name in names} == {"opt", "usr"}
    assert [name for name in names if name.startswith("usr")] == ["usr/local/bin/ktool"]
    # Who is interrupted while unpacking has no manifest, and no link to half a runtime.
    assert names[-3:] == [f"opt/ktool/{agent.key}/manifest.json", "opt/ktool/current", "usr/local/bin/ktool"]
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries} == {(0, 0, runtime.TIME)}


def _data(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry)
    return file.read() if file else b""


def test_the_key_is_of_the_content(cache: Path, agent: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "FORMAT", runtime.FORMAT + 1)
    assert runtime._key(ArchiveRole.AGENT, runtime._sources(ArchiveRole.AGENT)) != agent.key


def test_old_archives_go(tmp_path: Path, agent: Archive) -> None:
    for number in range(5):
        path = tmp_path / f"runtime-agent-{agent.python_tag}-{agent.arch}-{number}.tar.gz"
        path.touch()
        os.utime(path, (number, number))
    runtime._prune(tmp_path, agent.manifest)
    assert sorted(path.name.rsplit("-", 1)[1] for path in tmp_path.iterdir()) == ["2.tar.gz", "3.tar.gz", "4.tar.gz"]


def test_an_environment_without_the_dependencies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "missing_distributions", lambda extras: ["docker"])
    with pytest.raises(KtoolError, match="docker") as caught:
        build(ArchiveRole.AGENT, tmp_path)
    assert "bundle create" in caught.value.mend


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts over /opt in a namespace of its own")
@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed")
@pytest.mark.parametrize("role", ArchiveRole)
def test_runs_where_it_is_unpacked(cache: Path, role: ArchiveRole) -> None:
    """On this machine's bare interpreter, with /opt and /usr/local/bin as on a new machine."""
    archive = build(role, cache)
    if not Path(f"/usr/bin/{archive.manifest.python}").exists():
        pytest.skip(f"this system's own Python is not {archive.manifest.python}")
    programs = ["agent", "control"] if role is ArchiveRole.CONTROL else ["agent"]
    script = [
        "mount -t tmpfs runtime /opt",
        "mount -t tmpfs commands /usr/local/bin",
        "cd /",
        f"tar -xzf {archive.path}",
        "ktool --help",
        f"/opt/ktool/current/bin/python -c '{SHOW}'",
        *(f"/opt/ktool/current/bin/python -m {program} --help" for program in programs),
        "/opt/ktool/current/bin/python -m supervisor.supervisord --version",
        "/opt/ktool/current/bin/python -c 'import docker, nftables, psutil, pyroute2, uvloop, rich.progress'",
        "find /opt/ktool/*/ -type f -newermt 2020-01-02 -print",  # nothing had to be compiled
    ]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-euc", "\n".join(script)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    packages = f"/opt/ktool/current/lib/{archive.manifest.python}/site-packages"
    shown = f"/opt/ktool/current/bin/python {packages}/ktool/__init__.py {packages}/yaml/__init__.pyc"
    assert shown in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("/opt/ktool/") and " " not in line]
