"""What a plan is limited to."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.inventory.lab import Lab, Machine, ProviderName, Role
from provision.lab.create import CreateOptions, narrowed
from provision.lab.events import LabStep
from provision.lab.plan import Action, Mark


def _machine(name: str, role: Role) -> Machine:
    return Machine(name=name, provider=ProviderName.SSH, roles=frozenset({role}))


LAB = Lab(
    name="x",
    source=Path("x.yml"),
    machines=(_machine("m", Role.MASTER), _machine("a", Role.WORKER), _machine("b", Role.WORKER)),
)
ACTIONS = [Action(name, LabStep.INSTALL, Mark.ADD, "install") for name in ("a", "b")]


@pytest.mark.parametrize(
    ("only", "reapply", "wanted"),
    [
        ((), False, ["a", "b"]),
        (("a",), False, ["a"]),
        (("a",), True, ["a", "m"]),
        ((), True, ["a", "b", "m"]),
    ],
)
def test_limit_and_reapply(only: tuple[str, ...], reapply: bool, wanted: list[str]) -> None:
    options = CreateOptions(only=frozenset(only), reapply=reapply)
    assert [one.machine for one in narrowed(LAB, ACTIONS, options, reached={"m", "a", "b"})] == wanted
