"""Transcripts of decisions (golden/*.txt): commands, a line of dashes, and what comes of them.

A block is one or more commands, each with details as indented YAML, then `----`, then the full output, then an empty
line. The commands:

    node NAME          add or change a node
    without NAME       remove a node
    on NODE pod NAME   a pod that is there already
    pod NAME           decide on a pod, tell why, and place it
    gone NAME          remove a placed pod of the namespace default
    namespace NAME     labels of a namespace

`KTOOL_GOLDEN=write pytest tests/control/scheduler/test_golden.py` writes the outputs anew: read the difference.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from control.scheduler.decision import decide, explain
from control.scheduler.pod_info import pod_info
from control.scheduler.registry import default_filters, default_scores
from control.scheduler.snapshot import Snapshot
from tests.control.scheduler import build

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.txt"))
DASHES = "----"


class Cluster:
    """What a transcript's commands act on."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.filters, self.scores = default_filters(), default_scores()
        self.rng = random.Random(1)

    def run(self, command: str, details: dict[str, Any]) -> Iterator[str]:
        match command.split():
            case ["node", name]:
                self.snapshot.set_node(build.node(name, **details))
            case ["without", name]:
                assert self.snapshot.remove_node(name)
            case ["on", node, "pod", name]:
                self.snapshot.place(pod_info(build.pod(name, **details)), node)
            case ["gone", name]:
                assert self.snapshot.remove(f"default/{name}")
            case ["namespace", name]:
                self.snapshot.set_namespace(name, details)
            case ["pod", name]:
                yield from self.decide(name, details)
            case _:
                raise ValueError(f"not a command: {command}")

    def decide(self, name: str, details: dict[str, Any]) -> Iterator[str]:
        info = pod_info(build.pod(name, **details))
        told = explain(info, self.snapshot, self.filters, self.scores)
        decision = decide(info, self.snapshot, self.filters, self.scores, self.rng)
        if decision.node:
            best = [e.node for e in told if not e.refused_by and e.total >= told[0].total - 1e-6]
            assert decision.node in best
            yield f"{name} → {decision.node}, {decision.possible} of {decision.nodes} possible"
            self.snapshot.place(info, decision.node)
        else:
            yield f"{name}: {decision.message}"
        for node in told:
            yield f"  {node}"


def replay(text: str) -> str:
    """The transcript with the outputs that the commands give now."""
    cluster = Cluster()
    blocks = []
    for block in text.strip("\n").split("\n\n"):
        given = block.split(f"\n{DASHES}\n")[0].removesuffix(f"\n{DASHES}")
        if not given.startswith("#"):
            output = [line for command, details in commands(given) for line in cluster.run(command, details)]
            given = "\n".join([given, DASHES, *(output or ["ok"])])
        blocks.append(given)
    return "\n\n".join(blocks) + "\n"


def commands(given: str) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = given.splitlines()
    starts = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start], yaml.safe_load("\n".join(lines[start + 1 : end])) or {}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text()
    found = replay(text)
    if os.environ.get("KTOOL_GOLDEN") == "write":
        path.write_text(found)
    else:
        assert found == text


def test_there_are_transcripts() -> None:
    assert len(GOLDEN) >= 7
