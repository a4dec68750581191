"""What a stopped dockerd leaves on a machine, and how to take it away again: bridges, firewall rules, empty tables.

dockerd never removes its `docker0` bridge, its DOCKER chains and the rules that jump to them, and it leaves FORWARD's
policy at DROP. The text of `iptables-save` from before the first start and of now says what to undo. Only what is
recognizably Docker's is undone: rules of others that came in the meantime stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_DOCKER_LINK = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}")
_DOCKER_RULE = re.compile(r"(?:-j|-g) DOCKER|[io] (?:docker0|docker_gwbridge|br-[0-9a-f]{12})(?:\s|$)")
_BUILT_IN_TABLES = frozenset({"filter", "nat", "raw", "mangle", "security"})


@dataclass(slots=True)
class _Table:
    policies: dict[str, str] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)


def undo_script(before: str, after: str) -> str:
    """Input for `iptables-restore --noflush` that takes Docker's part away; empty if there is nothing to do.

    `before` and `after` are outputs of `iptables-save` (or ip6tables-save); a table missing in `before` was empty
    with policies ACCEPT.
    """
    old, new = _parse(before), _parse(after)
    lines: list[str] = []
    for name, table in new.items():
        changes = list(_undo_table(old.get(name, _Table()), table))
        if changes:
            lines += [f"*{name}", *changes, "COMMIT"]
    return "\n".join([*lines, ""]) if lines else ""


def _undo_table(old: _Table, new: _Table) -> Iterator[str]:
    chains = [chain for chain in new.policies if chain.startswith("DOCKER") and chain not in old.policies]
    for chain, policy in new.policies.items():
        was = old.policies.get(chain, "ACCEPT")
        if chain == "FORWARD" and policy == "DROP" and was != policy:
            yield f":{chain} {was} [0:0]"
    remaining = list(old.rules)
    for rule in new.rules:
        if rule in remaining:
            remaining.remove(rule)
        elif rule.split(" ", 2)[1] not in chains and _DOCKER_RULE.search(rule):
            yield f"-D {rule.removeprefix('-A ')}"
    yield from (f"-F {chain}" for chain in chains)
    yield from (f"-X {chain}" for chain in chains)


def _parse(saved: str) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    current = _Table()
    for line in saved.splitlines():
        if line.startswith("*"):
            current = tables.setdefault(line[1:].strip(), _Table())
        elif line.startswith(":"):
            chain, policy, *_ = line[1:].split()
            current.policies[chain] = policy
        elif line.startswith("-A "):
            current.rules.append(line.strip())
    return tables


def leftover_links(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """Names of links that are Docker's bridges and were not there before."""
    return sorted(name for name in set(after) - set(before) if _DOCKER_LINK.fullmatch(name))


def nft_tables(ruleset: str) -> list[str]:
    """`family name` of each table in the output of `nft -j list ruleset`."""
    return [
        f"{table['family']} {table['name']}" for item in json.loads(ruleset)["nftables"] if (table := item.get("table"))
    ]


def empty_tables(before: Iterable[str], ruleset: str) -> list[str]:
    """Tables that iptables made since `before` (as `family name`) and that now do nothing at all.

    `ruleset` is the output of `nft -j list ruleset`. A table does nothing if it has no rules, and no chains but those
    of the kernel's hooks with policy accept.
    """
    busy: set[str] = set()
    for item in json.loads(ruleset)["nftables"]:
        rule, chain = item.get("rule"), item.get("chain")
        if rule:
            busy.add(f"{rule['family']} {rule['table']}")
        elif chain and ("hook" not in chain or chain.get("policy", "accept") != "accept"):
            busy.add(f"{chain['family']} {chain['table']}")
    known = set(before) | busy
    return [
        table
        for table in nft_tables(ruleset)
        if table not in known and table.split(" ")[0] in ("ip", "ip6") and table.split(" ")[1] in _BUILT_IN_TABLES
    ]
