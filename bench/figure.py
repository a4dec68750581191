"""One measured number, beside what it ought to be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Two shared cores are noisy: a target is only called missed when it is missed by more than this.
NOISE = 0.1


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` in `unit`; `target` is the most that is allowed (the least, if `at_least`), None where none was set.

    `group` is the table's section; `note` says how it was measured, where the name does not.
    """

    group: str
    name: str
    value: float
    unit: str = ""
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """`ok`, `missed`, or `within noise` for one that is missed by a tenth at most; empty without a target."""
        if self.target is None:
            return ""
        excess = self.target / self.value if self.at_least else self.value / self.target
        if excess <= 1:
            return "ok"
        return "within noise" if excess <= 1 + NOISE else "missed"

    @property
    def shown(self) -> str:
        """The value for people: three digits that count."""
        return f"{amount(self.value)} {self.unit}".strip()

    @property
    def wanted(self) -> str:
        """The target for people."""
        if self.target is None:
            return ""
        return f"{'≥' if self.at_least else '<'} {amount(self.target)} {self.unit}".strip()


def amount(value: float) -> str:
    """A number with three digits that count: 0.123, 1.23, 12.3, 123, 12,345."""
    size = abs(value)
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{digits}f}"


def markdown(figures: Iterable[Figure]) -> str:
    """The figures as a table in Markdown."""
    lines = ["| figure | measured | target | |", "|---|---|---|---|"]
    group = ""
    for figure in figures:
        if figure.group != group:
            group = figure.group
            lines.append(f"| **{group}** | | | |")
        note = f" ({figure.note})" if figure.note else ""
        lines.append(f"| {figure.name}{note} | {figure.shown} | {figure.wanted} | {figure.verdict} |")
    return "\n".join(lines) + "\n"
