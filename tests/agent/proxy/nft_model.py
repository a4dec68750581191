"""A model of nftables that understands just the commands of agent/proxy/ruleset.py and is as strict as the kernel:
what is referred to must exist, what is deleted must exist and must not be referred to, a key has one value."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent.proxy.ruleset import Chain, Ruleset

_JUMP = re.compile(r"\b(?:goto|jump) ([^\s,}]+)")
_LOOKUP = re.compile(r"@([^\s,}]+)")
_COMMAND = re.compile(r"(add|delete|flush) (table|set|map|chain|rule|element) ip (\S+)(?: (\S+))?(?: (.+))?")


class Refused(Exception):
    """The kernel would refuse the transaction."""


class Model:
    """One table, its sets, chains and elements."""

    def __init__(self) -> None:
        self.exists = False
        self._clear()

    def _clear(self) -> None:
        self.sets: dict[str, str] = {}
        self.hooks: dict[str, str] = {}
        self.rules: dict[str, list[str]] = {}
        self.elements: dict[str, dict[str, str]] = {}

    def ruleset(self) -> Ruleset:
        return Ruleset(
            sets=dict(self.sets),
            elements={name: dict(some) for name, some in self.elements.items() if some},
            chains={name: Chain(tuple(rules), self.hooks[name]) for name, rules in self.rules.items()},
        )

    def run(self, commands: Iterable[str]) -> None:
        for command in commands:
            match = _COMMAND.fullmatch(command)
            if match is None:
                raise Refused(f"syntax: {command}")
            verb, kind, _, name, rest = match.groups()
            if kind != "table" and not self.exists:
                raise Refused(f"no table: {command}")
            getattr(self, f"_{verb}_{'set' if kind == 'map' else kind}")(name or "", rest or "", command)

    def _add_table(self, *_: str) -> None:
        self.exists = True

    def _delete_table(self, *_: str) -> None:
        if not self.exists:
            raise Refused("no table to delete")
        self.exists = False
        self._clear()

    def _add_set(self, name: str, rest: str, command: str) -> None:
        if name in self.sets:
            raise Refused(f"exists: {command}")
        self.sets[name] = f"{command.split()[1]} {rest}"
        self.elements[name] = {}

    def _delete_set(self, name: str, _: str, command: str) -> None:
        if name not in self.sets or self.sets[name].split()[0] != command.split()[1]:
            raise Refused(f"no such set or map: {command}")
        if any(name in _LOOKUP.findall(rule) for rules in self.rules.values() for rule in rules):
            raise Refused(f"in use: {command}")
        del self.sets[name], self.elements[name]

    def _add_chain(self, name: str, rest: str, command: str) -> None:
        if name in self.rules:
            raise Refused(f"exists: {command}")
        self.rules[name] = []
        self.hooks[name] = rest.removeprefix("{ ").removesuffix(" }")

    def _flush_chain(self, name: str, _: str, command: str) -> None:
        if name not in self.rules:
            raise Refused(f"no such chain: {command}")
        self.rules[name] = []

    def _delete_chain(self, name: str, _: str, command: str) -> None:
        verdicts = (value for elements in self.elements.values() for value in elements.values())
        rules = (rule for rules in self.rules.values() for rule in rules)
        if self.rules.get(name) != [] or any(name in _JUMP.findall(text) for text in (*verdicts, *rules)):
            raise Refused(f"in use or not there: {command}")
        del self.rules[name], self.hooks[name]

    def _add_rule(self, name: str, rest: str, command: str) -> None:
        if name not in self.rules:
            raise Refused(f"no such chain: {command}")
        if not self.rules.keys() >= {*_JUMP.findall(rest)} or not self.sets.keys() >= {*_LOOKUP.findall(rest)}:
            raise Refused(f"refers to what is not there: {command}")
        self.rules[name].append(rest)

    def _add_element(self, name: str, rest: str, command: str) -> None:
        for text in rest.removeprefix("{ ").removesuffix(" }").split(", "):
            key, _, value = text.partition(" : ")
            if name not in self.elements or self.elements[name].get(key, value) != value:
                raise Refused(f"no such set, or another value: {command}")
            if not self.rules.keys() >= {*_JUMP.findall(value)}:
                raise Refused(f"refers to what is not there: {command}")
            self.elements[name][key] = value

    def _delete_element(self, name: str, rest: str, command: str) -> None:
        for key in rest.removeprefix("{ ").removesuffix(" }").split(", "):
            if key not in self.elements.get(name, {}):
                raise Refused(f"no such element: {command}")
            del self.elements[name][key]
