from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from provision.bundle import closure, contents
from provision.bundle.archive import ArchiveRole


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ("aiohttp/client.py", True),
        ("aiohttp/_http_parser.cpython-311-x86_64-linux-gnu.so", True),
        ("aiohttp/_http_parser.pyx", False),
        ("aiohttp/py.typed", False),
        ("numpy/_core/tests/test_array.py", False),
        ("numpy/_core/__pycache__/x.cpython-311.pyc", False),
        ("numpy/f2py/auxfuncs.py", False),
        ("numpy.libs/libgfortran-040039e1-0352e75f.so.5.0.0", True),
        ("supervisor/version.txt", True),
        ("rich-15.0.0.dist-info/METADATA", True),
        ("rich-15.0.0.dist-info/licenses/LICENSE", True),
        ("rich-15.0.0.dist-info/RECORD", False),
        ("rich-15.0.0.dist-info/direct_url.json", False),
        ("../../../bin/pygmentize", False),
    ],
)
def test_files_of_distributions(file: str, kept: bool) -> None:
    assert contents.keeps(PurePosixPath(file)) is kept


@pytest.mark.parametrize(
    ("file", "agent", "control"),
    [
        ("agent/__main__.py", True, True),
        ("control/__main__.py", False, True),
        ("kube/models/definitions.json", True, True),
        ("provision/local_cluster/start.py", True, True),
        ("provision/bundle/runtime.py", False, False),
        ("ktool/commands/up.py", True, True),
        ("ktool/commands/lab.py", False, False),
        ("kube/__pycache__/files.cpython-311.pyc", False, False),
    ],
)
def test_own_files(file: str, agent: bool, control: bool) -> None:
    path = PurePosixPath(file)
    assert contents.keeps_own(path, ArchiveRole.AGENT) is agent
    assert contents.keeps_own(path, ArchiveRole.CONTROL) is control


def test_what_stays_behind_is_imported_by_nothing_that_machines_run() -> None:
    """`ktool` itself has commands for workstations, which import lazily what they need."""
    root = closure.checkout()
    machine_commands = ("up", "down", "join", "token", "kubeconfig", "status")
    modules = [path for package in ("provision", "agent", "kube", "control") for path in (root / package).rglob("*.py")]
    modules += [path for name in machine_commands if (path := root / "ktool/commands" / f"{name}.py").exists()]
    carried = [m for m in modules if contents.keeps_own(PurePosixPath(m.relative_to(root)), ArchiveRole.CONTROL)]
    assert len(carried) > 200
    left_out = tuple(".".join(path.with_suffix("").parts) for path in contents.WORKSTATION_ONLY)
    wrong = [
        f"{module.relative_to(root)} imports {name}"
        for module in carried
        for name in _imported(module)
        if any(name == one or name.startswith(one + ".") for one in left_out)
    ]
    assert not wrong


def _imported(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_places_of_compiled_files() -> None:
    file = PurePosixPath("a/b.py")
    assert contents.place(file, own=False, tag="cpython-311") == PurePosixPath("a/b.pyc")
    assert contents.place(file, own=True, tag="cpython-311") == PurePosixPath("a/__pycache__/b.cpython-311.pyc")
