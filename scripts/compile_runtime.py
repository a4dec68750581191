"""Compiles ktool and what it imports at run time, so that a first `up` after `make setup` is as fast as a second.

Neither uv nor an editable install compiles anything: the first start of each program would do it, six seconds in which
a user waits for a master. Tools of development are left out: they are half of the files, and nobody waits for them.
Run by scripts/setup with the virtual environment's Python, in the checkout's directory.
"""

from __future__ import annotations

import compileall
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from provision.bundle.closure import PACKAGES, runtime_distributions

EXTRAS = ("control", "agent", "node", "provision")


def sources() -> list[Path]:
    """Python files to compile: the checkout's packages and those of the distributions, without their own tests."""
    own = [path for package in PACKAGES for path in Path(package).rglob("*.py")]
    theirs = [
        Path(str(distribution.locate_file(file)))
        for distribution in runtime_distributions(EXTRAS)
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
