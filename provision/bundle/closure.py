"""Which installed distributions and which files of our own make up ktool at run time.

Only the standard library is imported here: scripts/compile_runtime.py runs before anything else works.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path

ROOT = "ktool"
PACKAGES = ("ktool", "provision", "control", "agent", "kube")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"""extra == ["']([^"']+)["']""")


def checkout() -> Path:
    """The folder that holds ktool's own packages: a checkout, or site-packages."""
    return Path(__file__).resolve().parents[2]


def runtime_distributions(extras: Collection[str]) -> list[metadata.Distribution]:
    """ktool's dependencies with these extras, and theirs, as far as they are installed; sorted by name.

    ktool itself is not among them.
    """
    found: dict[str, metadata.Distribution] = {}
    waiting = list(_requirements(metadata.distribution(ROOT), extras))
    while waiting:
        name = waiting.pop()
        if name in found or name == ROOT:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for other systems or versions of Python
            continue
        waiting += _requirements(found[name], ())
    return [found[name] for name in sorted(found)]


def missing_distributions(extras: Collection[str]) -> list[str]:
    """Direct dependencies of these extras that are not installed; sorted."""
    absent = []
    for name in set(_requirements(metadata.distribution(ROOT), extras)) - {ROOT}:
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            absent.append(name)
    return sorted(absent)


def _requirements(distribution: metadata.Distribution, extras: Collection[str]) -> Iterator[str]:
    for requirement in distribution.requires or ():
        extra = _EXTRA.search(requirement)
        name = _NAME.match(requirement)
        if name and (extra is None or extra[1] in extras):
            yield normal(name[0])


def normal(name: str) -> str:
    """A distribution's name as it is compared (PyPA: "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()
