"""Processes under measurement: started, asked what they use, ended by pid."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its descendants used: PSS in MiB at the end, CPU in percent of one core over the time."""

    pss_mib: float
    cpu_percent: float
    processes: int


def pss_mib(root: int) -> float:
    """Proportional set size of a process and all its descendants, in MiB."""
    return sum(process.memory_full_info().pss for process in tree(root)) / 2**20


def cpu_seconds(root: int) -> float:
    """CPU time (user and system) that a process, its descendants and its ended children have used so far."""
    return sum(sum(process.cpu_times()[:4]) for process in tree(root))


def tree(root: int) -> list[psutil.Process]:
    process = psutil.Process(root)
    return [process, *process.children(recursive=True)]


def idle(roots: dict[str, int], seconds: float) -> dict[str, Usage]:
    """What processes use while nobody asks anything of them for `seconds`."""
    before = {name: cpu_seconds(pid) for name, pid in roots.items()}
    started = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - started
    return {
        name: Usage(pss_mib(pid), (cpu_seconds(pid) - before[name]) / elapsed * 100, len(tree(pid)))
        for name, pid in roots.items()
    }


@contextlib.contextmanager
def running(command: Sequence[str], *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the length of the block; its output goes to `log`."""
    with log.open("ab") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
