from __future__ import annotations

import importlib.util
import marshal
import py_compile
from pathlib import Path
from types import CodeType

import pytest

from provision.bundle.bytecode import compiled

SOURCE = b"def outer():\n    def inner():\n        return 1\n    return inner\n"
PLACE = "/opt/ktool/current/lib/module.py"


def _load(data: bytes) -> CodeType:
    code = marshal.loads(data[16:])
    assert isinstance(code, CodeType)
    return code


def _places(code: CodeType) -> set[str]:
    inner = [_places(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return {code.co_filename}.union(*inner)


@pytest.mark.parametrize("cached", [False, True])
def test_compiled_for_another_place(tmp_path: Path, cached: bool) -> None:
    path = tmp_path / "module.py"
    path.write_bytes(SOURCE)
    if cached:
        py_compile.compile(str(path), doraise=True)
    data = compiled(SOURCE, path=path, place=PLACE)
    assert data is not None
    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert data[4:8] == b"\x01\0\0\0", "to be loaded without looking at the source"
    assert data[8:16] == importlib.util.source_hash(SOURCE)
    assert _places(_load(data)) == {PLACE}


def test_a_stale_cache_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("old = 1\n")
    py_compile.compile(str(path), doraise=True)
    path.write_bytes(SOURCE)
    data = compiled(SOURCE, path=path, place=PLACE)
    assert data is not None
    assert "outer" in _load(data).co_names


def test_a_template_is_no_module(tmp_path: Path) -> None:
    assert compiled(b"def {name}(): pass\n", path=tmp_path / "template.py", place=PLACE) is None
