"""Compiles ktool and what it imports at run time, so that a first `up` after `make setup` is as fast as a second.

Neither uv nor an editable install compiles anything: the first start of each program would do it, six seconds in which
a user waits for a master. Tools of development are left out: they are half of the files, and nobody waits for them.
Run by scripts/setup with the virtual environment's Python, in the checkout's directory.
"""

from __future__ import annotations

import compileall
import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

ROOT = "ktool"
EXTRAS = ("control", "agent", "node", "provision")
PACKAGES = ("ktool", "provision", "control", "agent", "kube")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"""extra == ["']([^"']+)["']""")


def runtime_distributions() -> list[metadata.Distribution]:
    """ktool's dependencies without those of development, and theirs, as far as they are installed."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(_requirements(metadata.distribution(ROOT), EXTRAS))
    while waiting:
        name = waiting.pop()
        if name in found or name == ROOT:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for other systems or versions of Python
            continue
        waiting += _requirements(found[name], ())
    return list(found.values())


def _requirements(distribution: metadata.Distribution, extras: Collection[str]) -> Iterator[str]:
    for requirement in distribution.requires or ():
        extra = _EXTRA.search(requirement)
        name = _NAME.match(requirement)
        if name and (extra is None or extra[1] in extras):
            yield re.sub(r"[-_.]+", "-", name[0]).lower()


def sources() -> list[Path]:
    """Python files to compile: the checkout's packages and those of the distributions, without their own tests."""
    own = [path for package in PACKAGES for path in Path(package).rglob("*.py")]
    theirs = [
        Path(str(distribution.locate_file(file)))
        for distribution in runtime_distributions()
        for file in distribution.files or ()
        if file.suffix == ".py" and "tests" not in file.parts
    ]
    return own + theirs


def main() -> None:
    """Compile what has not been compiled yet. A file that cannot be (a package's template, say) is left as it is."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(_compile, sources(), chunksize=32):
            pass


def _compile(path: Path) -> None:
    compileall.compile_file(path, quiet=2)


if __name__ == "__main__":
    main()
