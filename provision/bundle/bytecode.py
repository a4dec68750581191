"""Compiled modules that are valid wherever they are unpacked, whatever the time of their files.

A .pyc usually names the time of its source, and the place where the source was compiled. Here it holds the source's
hash and is marked as never to be checked (PEP 552, unchecked hash-based), and its place is that on the machine.
What this environment has compiled already is taken over: compiling everything anew would take ten seconds.
"""

from __future__ import annotations

import importlib.util
import marshal
import struct
from pathlib import Path
from types import CodeType

_HEADER_BYTES = 16
_UNCHECKED_HASH = 0b01


def compiled(source: bytes, *, path: Path, place: str) -> bytes | None:
    """The .pyc of a module whose source is `source`, read from `path`; `place` is where tracebacks will say it is.

    None for what is no module of this version of Python (a package's template, say).
    """
    code = _cached(path)
    if code is None:
        try:
            code = compile(source, place, "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError):
            return None
    header = importlib.util.MAGIC_NUMBER + struct.pack("<L", _UNCHECKED_HASH) + importlib.util.source_hash(source)
    return header + marshal.dumps(_moved(code, place))


def _cached(path: Path) -> CodeType | None:
    """What Python has compiled of this very file, judged as Python does: by the source's time and size."""
    try:
        data = Path(importlib.util.cache_from_source(str(path), optimization="")).read_bytes()
        source = path.stat()
    except (OSError, NotImplementedError):
        return None
    wanted = struct.pack("<LLL", 0, int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF)
    if data[:4] != importlib.util.MAGIC_NUMBER or data[4:_HEADER_BYTES] != wanted:
        return None
    try:
        code = marshal.loads(data[_HEADER_BYTES:])  # noqa: S302 (a cache that Python itself would load)
    except (EOFError, ValueError, TypeError):
        return None
    return code if isinstance(code, CodeType) else None


def _moved(code: CodeType, place: str) -> CodeType:
    """The code and all code in it, as if compiled at `place`."""
    constants = tuple(_moved(c, place) if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.replace(co_filename=place, co_consts=constants)
