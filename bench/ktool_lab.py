"""`ktool lab`, run as a user runs it, in a folder for what it keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KTOOL = str(Path(sys.executable).with_name("ktool"))
SECONDS = 1200


@dataclass(frozen=True, slots=True)
class Made:
    """A run of `ktool lab create`: `seconds` and its `phases` as it says itself, and `workstation`, the processor
    seconds of ktool with all that it started here (Ansible, ssh)."""

    seconds: float
    phases: Mapping[str, float]
    workstation: float = 0.0


def create(folder: Path, inventory: Path) -> Made:
    """Have the lab of an inventory; RuntimeError if that fails."""
    before = _children()
    found = json.loads(ktool(folder, "lab", "create", "-o", "json", "-i", str(inventory)))
    return Made(found["seconds"], found["phases"], _children() - before)


def destroy(folder: Path, inventory: Path) -> None:
    """Undo it; RuntimeError if that fails."""
    ktool(folder, "lab", "destroy", "--yes", "-i", str(inventory))


def ktool(folder: Path, *arguments: str) -> str:
    """What a command prints, with its labs in `folder`; RuntimeError with all that it said if it fails."""
    env = {**os.environ, "KTOOL_LABS": str(folder / "labs")}
    done = subprocess.run(
        [KTOOL, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"ktool {' '.join(arguments)}: {done.stdout}\n{done.stderr}")
    return done.stdout


def _children() -> float:
    """Processor seconds of this process's children that have ended, and of theirs."""
    times = os.times()
    return times.children_user + times.children_system
