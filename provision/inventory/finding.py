"""What is wrong with an inventory: findings with file, host and variable, all of them at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kube.errors import KtoolError

# A group's variable is wrong for all its hosts: that many are named.
NAMED_HOSTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong. `hosts` and `variable` may be empty where it concerns the whole; `where` is FILE:LINE.

    `found`, `wanted` and `mend` are as in KtoolError; `what` says it in words where found and wanted do not suffice.
    """

    hosts: tuple[str, ...] = ()
    variable: str = ""
    what: str = ""
    found: str = ""
    wanted: str = ""
    mend: str = ""
    where: str = ""

    def __str__(self) -> str:
        named = ", ".join(self.hosts[:NAMED_HOSTS])
        more = f" and {len(self.hosts) - NAMED_HOSTS} more" if len(self.hosts) > NAMED_HOSTS else ""
        host = f"host{'s' if len(self.hosts) > 1 else ''} {named}{more}" if self.hosts else ""
        sides = [f"{name} {text}" for name, text in (("found", self.found), ("wanted", self.wanted)) if text]
        says = "; ".join(filter(None, [self.what, *sides]))
        line = ": ".join(filter(None, [self.where, host, self.variable, says]))
        return f"{line}. {self.mend}" if self.mend else line


class InventoryError(KtoolError):
    """An inventory that cannot be used; `findings` has every reason."""

    def __init__(self, path: Path, findings: Sequence[Finding]) -> None:
        count = "an error" if len(findings) == 1 else f"{len(findings)} errors"
        super().__init__("\n  ".join([f"{path} has {count}:", *map(str, findings)]))
        self.findings = tuple(findings)


def placed(findings: Iterable[Finding], places: Mapping[tuple[str, str], str], *, default: str) -> list[Finding]:
    """Findings with the places of their variables, in which the same error of several hosts is told once.

    `places` is FILE:LINE by host and variable; `default` is for findings whose place is not known.
    """
    merged: dict[Finding, list[str]] = {}
    for finding in findings:
        known = (places.get((host, finding.variable), "") for host in finding.hosts)
        where = next(filter(None, known), "") or finding.where or default
        merged.setdefault(replace(finding, hosts=(), where=where), []).extend(finding.hosts)
    found = [replace(finding, hosts=tuple(dict.fromkeys(hosts))) for finding, hosts in merged.items()]
    return sorted(found, key=lambda finding: _order(finding.where))


def _order(where: str) -> tuple[str, int]:
    """Findings come in the order of files and lines; what has no line comes behind those that have one."""
    path, _, line = where.rpartition(":")
    return (path, int(line)) if path and line.isdigit() else (where, sys.maxsize)
