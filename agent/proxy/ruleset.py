"""A table of nftables as plain data, and the shortest way from one state of it to another.

A `Ruleset` holds what the kernel should hold: sets and maps (declarations), their elements, and chains with their
rules, all as nft text. `difference` gives the commands that turn one state into another. They are meant for one
transaction, in an order that the kernel accepts: what is referred to is made before and removed after what refers to
it. Only elements and chains that differ are touched, so counters, timeouts and the learned elements of dynamic sets
stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

TABLE = "ktool-proxy"
FAMILY = "ip"


class Chain(Struct, frozen=True):
    """A chain: `hook` is the text between the braces of a base chain (empty for a regular one)."""

    rules: tuple[str, ...]
    hook: str = ""


class Ruleset(Struct, frozen=True):
    """The content of a table.

    `sets`: name → declaration as nft writes it, with its keyword: `map { type ... : verdict; }`;
    `elements`: name of set or map → key → value (empty in a set). Dynamic sets, which packets fill, have no entry;
    `chains`: name → chain.
    """

    sets: Mapping[str, str] = field(default_factory=dict)
    elements: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)

    @property
    def rule_count(self) -> int:
        return sum(len(chain.rules) for chain in self.chains.values())

    @property
    def element_count(self) -> int:
        return sum(len(elements) for elements in self.elements.values())


EMPTY = Ruleset()
_NONE: Mapping[str, str] = {}


def compatible(old: Ruleset, new: Ruleset) -> bool:
    """Whether `difference` can lead from old to new: what both declare, they declare alike."""
    return all(new.sets.get(name, text) == text for name, text in old.sets.items()) and all(
        new.chains[name].hook == chain.hook for name, chain in old.chains.items() if name in new.chains
    )


def difference(old: Ruleset, new: Ruleset, *, table: str = TABLE) -> list[str]:
    """The nft commands, one per line, that turn `old` into `new` in one transaction; empty if they are equal.

    Raises ValueError if a set or base chain changed its declaration: that takes `replacement`.
    """
    if not compatible(old, new):
        raise ValueError("a declaration changed: replace the table")
    where = f"{FAMILY} {table}"
    lines: list[str] = []
    for name in new.sets.keys() - old.sets.keys():
        keyword, _, body = new.sets[name].partition(" ")
        lines.append(f"add {keyword} {where} {name} {body}")
    for name in new.chains.keys() - old.chains.keys():
        lines.append(_add_chain(where, name, new.chains[name]))
    lines.sort()  # the same change is always told in the same words

    changed = sorted(name for name, chain in new.chains.items() if old.chains.get(name, _NO_CHAIN) != chain)
    surplus: list[str] = []
    for name in sorted(old.elements.keys() | new.elements.keys()):
        before, after = old.elements.get(name, _NONE), new.elements.get(name, _NONE)
        if before is after:
            continue
        # plain loops: three times as fast as differences of items(), which hash every pair
        gone = sorted(key for key, value in before.items() if after.get(key) != value)
        if gone and name in new.sets:  # a set that goes takes its elements along
            lines.append(f"delete element {where} {name} {{ {', '.join(gone)} }}")
        fresh = sorted((key, value) for key, value in after.items() if before.get(key) != value)
        if fresh:
            surplus.append(_add_elements(where, name, fresh))
    for name in changed:
        if name in old.chains:
            lines.append(f"flush chain {where} {name}")
        lines.extend(f"add rule {where} {name} {rule}" for rule in new.chains[name].rules)
    lines.extend(surplus)

    gone_chains = sorted(old.chains.keys() - new.chains.keys())
    # what goes may refer to each other (jumps, lookups, verdicts in maps): emptied first, then deleted
    lines.extend(f"flush chain {where} {name}" for name in gone_chains)
    for name in sorted(old.sets.keys() - new.sets.keys()):
        lines.append(f"delete {old.sets[name].partition(' ')[0]} {where} {name}")
    lines.extend(f"delete chain {where} {name}" for name in gone_chains)
    return lines


def replacement(new: Ruleset, *, table: str = TABLE) -> list[str]:
    """The commands that put `new` in place of whatever the table holds now, if it exists at all."""
    where = f"{FAMILY} {table}"
    # adding first makes the deletion succeed where there is no table
    return [f"add table {where}", f"delete table {where}", f"add table {where}", *difference(EMPTY, new, table=table)]


def removal(*, table: str = TABLE) -> list[str]:
    """The commands that leave nothing of the table."""
    return [f"add table {FAMILY} {table}", f"delete table {FAMILY} {table}"]


def merge(parts: Iterable[Ruleset]) -> Ruleset:
    """All parts in one ruleset; where two say something about the same key, the later one holds."""
    sets: dict[str, str] = {}
    elements: dict[str, dict[str, str]] = {}
    chains: dict[str, Chain] = {}
    for part in parts:
        sets.update(part.sets)
        chains.update(part.chains)
        for name, some in part.elements.items():
            elements.setdefault(name, {}).update(some)
    return Ruleset(sets, elements, chains)


_NO_CHAIN = Chain(())


def _add_chain(where: str, name: str, chain: Chain) -> str:
    return f"add chain {where} {name} {{ {chain.hook} }}" if chain.hook else f"add chain {where} {name}"


def _add_elements(where: str, name: str, elements: Iterable[tuple[str, str]]) -> str:
    texts = (f"{key} : {value}" if value else key for key, value in elements)
    return f"add element {where} {name} {{ {', '.join(texts)} }}"
