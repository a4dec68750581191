"""What a runtime archive holds, decided from names alone: which extras, which files, where they go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from provision.bundle.archive import ArchiveRole

EXTRAS: Mapping[ArchiveRole, tuple[str, ...]] = {
    ArchiveRole.AGENT: ("agent", "node"),
    ArchiveRole.CONTROL: ("control", "etcd", "agent", "node"),
}

# Where a machine has its runtimes; `current` among them leads to the one in use.
RUNTIMES = PurePosixPath("/opt/ktool")
CURRENT = RUNTIMES / "current"
COMMAND = PurePosixPath("/usr/local/bin/ktool")
# Sockets of processes that have ktool loaded (ktool/standby.py), named after their runtimes' keys.
STANDBY = PurePosixPath("/run/ktool-standby")
MANIFEST = "manifest.json"

# rich has these for source code and Markdown, which ktool does not print.
LEFT_OUT_DISTRIBUTIONS = frozenset({"pygments", "markdown-it-py", "mdurl"})
# Sources of what comes compiled, and what only type checkers read.
_LEFT_OUT_SUFFIXES = frozenset(
    {".pyi", ".typed", ".pyx", ".pxd", ".pxi", ".h", ".c", ".cpp", ".a", ".hash", ".pyc", ".tmpl", ".build"}
)
_LEFT_OUT_FOLDERS = frozenset({"tests", "test", "__pycache__"})
# numpy's tools for building extensions in Fortran and C.
_LEFT_OUT_TREES = (PurePosixPath("numpy/f2py"), PurePosixPath("numpy/distutils"), PurePosixPath("numpy/_core/include"))
_DIST_INFO = frozenset({"METADATA", "entry_points.txt"})

# What only the machine needs from which others are made. A change there is no reason to renew a machine's runtime.
WORKSTATION_ONLY = tuple(
    PurePosixPath(path)
    for path in (
        "provision/ansible",
        "provision/bundle",
        "provision/facts",
        "provision/inventory",
        "provision/lab",
        "provision/machine_image",
        "provision/preflight/connector.py",
        "provision/preflight/lab.py",
        "provision/preflight/listener.py",
        "provision/preflight/reachability.py",
        "provision/providers",
        "provision/ssh",
        "ktool/commands/bundle.py",
        "ktool/commands/inventory.py",
        "ktool/commands/lab.py",
        "ktool/commands/node.py",
    )
)
# Only a master has what this needs.
_MASTER_ONLY = PurePosixPath("control")


def keeps(file: PurePosixPath) -> bool:
    """Whether a file of a distribution is needed to run it; `file` is relative to site-packages."""
    if ".." in file.parts or file.is_absolute() or file.suffix in _LEFT_OUT_SUFFIXES:
        return False
    if file.parts[0].endswith(".dist-info"):
        return file.name in _DIST_INFO or "licen" in str(file).lower()
    if _LEFT_OUT_FOLDERS & set(file.parts[:-1]):
        return False
    return not any(file.is_relative_to(tree) for tree in _LEFT_OUT_TREES)


def keeps_own(file: PurePosixPath, role: ArchiveRole) -> bool:
    """Whether a file of ktool's own packages goes to machines of this role; `file` is relative to the checkout."""
    if "__pycache__" in file.parts or file.suffix in (".pyc", ".pyi", ".md"):
        return False
    if role is not ArchiveRole.CONTROL and file.is_relative_to(_MASTER_ONLY):
        return False
    return not any(file.is_relative_to(left_out) for left_out in WORKSTATION_ONLY)


def place(file: PurePosixPath, *, own: bool, tag: str) -> PurePosixPath:
    """Where the compiled form of a module goes, relative to site-packages; `tag` as in `cpython-311`.

    Our own modules keep their sources, whose lines a traceback shows, and are compiled beside them. Of others' only
    the compiled form is carried, in the source's place (Python: "sourceless imports"): half the files to unpack.
    """
    if own:
        return file.parent / "__pycache__" / f"{file.stem}.{tag}.pyc"
    return file.with_suffix(".pyc")
