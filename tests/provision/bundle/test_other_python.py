from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.bundle.archive import ArchiveRole
from provision.bundle.other_python import build_for, pinned, uv_command
from provision.command import CommandFailed

LOCK = """\
# by uv
aiohttp==3.14.5 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via ktool
pyyaml==6.0.3 \\
    --hash=sha256:cc
    # via ktool
zzz==1 \\
    --hash=sha256:dd
"""


class _Uv:
    """Notes the command, and puts one package where uv would."""

    def __init__(self, *, fails: bool = False) -> None:
        self.argv: list[str] = []
        self.requirements = ""
        self._fails = fails

    def __call__(
        self, argv: Sequence[str], *, timeout: float = 0, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> str:
        if self._fails:
            raise CommandFailed(argv, 2, "error: no route to the registry")
        self.argv = list(argv)
        self.requirements = Path(argv[argv.index("-r") + 1]).read_text()
        target = Path(argv[argv.index("--target") + 1])
        (target / "yaml").mkdir(parents=True)
        (target / "yaml" / "__init__.py").write_text("")
        (target / "yaml" / "py.typed").write_text("")
        return ""


def test_the_lock_of_some_packages() -> None:
    assert pinned(LOCK, {"aiohttp", "zzz"}) == (
        "aiohttp==3.14.5 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nzzz==1 \\\n    --hash=sha256:dd\n"
    )


def test_an_archive_for_the_machines_newest_python(tmp_path: Path) -> None:
    uv = _Uv()
    archive = build_for(ArchiveRole.AGENT, tmp_path, tags={"cp39", "cp311", "cp312"}, arch="aarch64", runner=uv)
    assert (archive.python_tag, archive.arch, archive.manifest.compiled) == ("cp312", "aarch64", False)
    assert uv.argv == uv_command(
        archive.manifest,
        Path(uv.argv[uv.argv.index("-r") + 1]),
        Path(uv.argv[uv.argv.index("--target") + 1]),
        uv=uv.argv[0],
    )
    assert uv.argv[uv.argv.index("--python-version") + 1] == "3.12"
    assert "--require-hashes" in uv.argv
    assert "aiohttp==" in uv.requirements
    assert "numpy==" not in uv.requirements
    with tarfile.open(archive.path) as tar:
        names = set(tar.getnames())
        manifest = tar.extractfile(f"opt/ktool/{archive.key}/manifest.json")
        assert manifest is not None
        assert json.load(manifest)["compiled"] is False
        assert tar.getmember(f"opt/ktool/{archive.key}/bin/python").linkname == "/usr/bin/python3.12"
    packages = f"opt/ktool/{archive.key}/lib/python3.12/site-packages"
    assert {f"{packages}/yaml/__init__.py", f"{packages}/agent/__main__.py"} <= names
    assert f"{packages}/yaml/py.typed" not in names
    again = _Uv()
    assert build_for(ArchiveRole.AGENT, tmp_path, tags={"cp312"}, arch="aarch64", runner=again) == archive
    assert not again.argv


def test_no_python_that_ktool_runs_on(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="cp39") as caught:
        build_for(ArchiveRole.AGENT, tmp_path, tags={"cp39"}, arch="x86_64")
    assert "python3.11" in caught.value.mend


def test_no_registry(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="cannot be fetched") as caught:
        build_for(ArchiveRole.AGENT, tmp_path, tags={"cp312"}, arch="x86_64", runner=_Uv(fails=True))
    assert "no route to the registry" in caught.value.found
    assert not list((tmp_path / "runtime").iterdir())
