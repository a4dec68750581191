"""A question to every machine of a lab, answered in JSON by the ktool that is installed there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine
from provision.lab.open_lab import NO_PASSWORDS, Passwords, opened
from provision.lab_state import LabState

T = TypeVar("T")


@dataclass(slots=True)
class Answers(Generic[T]):
    """What the machines said, and why others said nothing."""

    found: dict[str, T] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


async def asked(
    lab: Lab,
    state: LabState,
    argv: Sequence[str],
    *,
    answer: type[T],
    timeout: float = 60.0,
    passwords: Passwords = NO_PASSWORDS,
) -> Answers[T]:
    """Run a command on every machine that runs, side by side, and decode what it prints, whatever its exit status."""
    answers: Answers[T] = Answers()
    async with opened(lab, state, passwords=passwords) as open_lab:
        await open_lab.look_at_all(await open_lab.find())
        answers.problems.update({name: str(problem) for name, problem in open_lab.problems.items()})

        async def one(machine: Machine) -> None:
            connection = open_lab.connections.get(machine.name)
            if connection is None:
                answers.problems.setdefault(machine.name, "does not run")
                return
            try:
                said = await asyncio.to_thread(connection.run, argv, check=False, timeout=timeout)
                answers.found[machine.name] = msgspec.json.decode(said.stdout, type=answer)
            except KtoolError as error:
                answers.problems[machine.name] = str(error)
            except msgspec.MsgspecError:
                answers.problems[machine.name] = said.stderr.strip() or f"exit status {said.status}"

        await asyncio.gather(*(one(machine) for machine in lab.machines))
    order = {machine.name: number for number, machine in enumerate(lab.machines)}
    answers.found = dict(sorted(answers.found.items(), key=lambda item: order[item[0]]))
    return answers
