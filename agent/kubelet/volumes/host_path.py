"""hostPath: a file or folder of the node (Kubernetes concept: hostPath volumes)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

_DIRECTORY_MODE = 0o755
_FILE_MODE = 0o644

# Type of the spec → (what it must be, in words; the test of its mode).
_TYPES: dict[str, tuple[str, Callable[[int], bool]]] = {
    "Directory": ("a directory", stat.S_ISDIR),
    "DirectoryOrCreate": ("a directory", stat.S_ISDIR),
    "File": ("a file", stat.S_ISREG),
    "FileOrCreate": ("a file", stat.S_ISREG),
    "Socket": ("a socket file", stat.S_ISSOCK),
    "CharDevice": ("a character device", stat.S_ISCHR),
    "BlockDevice": ("a block device", stat.S_ISBLK),
}


def prepare(path: str, type_: str) -> None:
    """Check that the path is what `type_` says, and make it where the type allows.

    The empty type checks nothing; what is missing then becomes a folder, as container engines do it.
    ValueError in Kubernetes' words; OSError.
    """
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"hostPath must be an absolute path without '..', found {path!r}")
    if type_ and type_ not in _TYPES:
        raise ValueError(f"hostPath type {type_!r} is unknown")
    if not os.path.exists(path):
        if type_ in ("", "DirectoryOrCreate"):
            Path(path).mkdir(parents=True, exist_ok=True)
            Path(path).chmod(_DIRECTORY_MODE)  # whatever the umask
        elif type_ == "FileOrCreate":
            # As in Kubernetes the folder must exist: only the file is made.
            os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, _FILE_MODE))
    if not type_:
        return
    words, test = _TYPES[type_]
    try:
        found = os.stat(path).st_mode
    except FileNotFoundError:
        raise ValueError(f"hostPath type check failed: {path} is not {words}") from None
    if not test(found):
        raise ValueError(f"hostPath type check failed: {path} is not {words}")
