"""Libraries without what only debuggers read."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from provision.bundle.native import loaded


def _library(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


# uvloop and yaml come with debuggers' symbols, cryptography (Rust) and msgspec with few.
@pytest.mark.parametrize("module", ["uvloop.loop", "yaml._yaml", "cryptography.hazmat.bindings._rust", "msgspec._core"])
def test_a_library_works_without_them(module: str, tmp_path: Path) -> None:
    path = _library(module)
    data = path.read_bytes()
    cut = loaded(data)
    assert len(cut) <= len(data)
    assert loaded(cut) == cut
    copy = tmp_path / path.name
    copy.write_bytes(cut)
    # In its package's place, and all symbols looked up at once.
    script = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location({module!r}, {str(copy)!r})
module = importlib.util.module_from_spec(spec)
sys.modules[{module!r}] = module
spec.loader.exec_module(module)
assert sys.modules[{module!r}].__file__ == {str(copy)!r}
"""
    env = {"LD_BIND_NOW": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_most_of_uvloop_is_for_debuggers() -> None:
    data = _library("uvloop.loop").read_bytes()
    cut = loaded(data)
    assert len(cut) < len(data) / 4
    header = slice(0, 40), slice(64, len(cut))
    assert [cut[part] for part in header] == [data[part] for part in header]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"text",
        b"\x7fELF\x01\x01" + bytes(100),  # 32 bits
        b"\x7fELF\x02\x01" + b"\xff" * 100,  # nonsense
        b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + bytes(100),  # a program that is loaded where it was linked
    ],
)
def test_what_is_no_library_stays(data: bytes) -> None:
    assert loaded(data) == data
