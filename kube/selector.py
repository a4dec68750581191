"""Selectors: which objects are meant, by labels, by fields, or (for nodes) by node selector terms.

A selector is read once, checked, and then asked many times (`matches`). Three spellings of label selectors become the
same `Selector`: the text of a URL (`app=web,tier in (a,b),!old`), the LabelSelector of an object, and the plain map of
a Service. The rules that surprise, as in Kubernetes: an absent LabelSelector selects nothing and an empty one selects
everything; `!=` and `notin` also select what does not have the label at all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

from msgspec import Struct

from kube import names
from kube.errors import KtoolError


class SelectorError(KtoolError, ValueError):
    """Not a selector that can be understood."""


class Operator(StrEnum):
    """How a requirement looks at a value; the values are those of LabelSelectorRequirement and NodeSelector."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


_LABEL_OPERATORS = (Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.DOES_NOT_EXIST)
_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)


class Requirement(Struct, frozen=True):
    """One condition on one label."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        found = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return found in self.values
            case Operator.NOT_IN:
                return found not in self.values
            case Operator.EXISTS:
                return found is not None
            case Operator.DOES_NOT_EXIST:
                return found is None
        if found is None or not _INTEGER.fullmatch(found):
            return False
        (bound,) = self.values
        return int(found) > int(bound) if self.operator is Operator.GT else int(found) < int(bound)

    def __str__(self) -> str:
        values = sorted(self.values)
        match self.operator:
            case Operator.IN:
                return f"{self.key}={values[0]}" if len(values) == 1 else f"{self.key} in ({','.join(values)})"
            case Operator.NOT_IN:
                return f"{self.key}!={values[0]}" if len(values) == 1 else f"{self.key} notin ({','.join(values)})"
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return f"!{self.key}"
            case Operator.GT:
                return f"{self.key}>{values[0]}"
            case Operator.LT:
                return f"{self.key}<{values[0]}"


class Selector(Struct, frozen=True):
    """A label selector: all requirements must hold. No requirements select everything, unless `nothing` is set."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        """Whether an object with these labels (None: no labels) is selected."""
        if self.nothing:
            return False
        found = labels or {}
        return all(requirement.matches(found) for requirement in self.requirements)

    @property
    def everything(self) -> bool:
        """Whether it selects every object."""
        return not self.nothing and not self.requirements

    def query(self) -> str:
        """The text of a `labelSelector` parameter; SelectorError for the selector of nothing, which has no text."""
        if self.nothing:
            raise SelectorError("a selector that selects nothing cannot be sent as a query")
        return ",".join(str(requirement) for requirement in self.requirements)

    def __str__(self) -> str:
        return "<nothing>" if self.nothing else self.query()


EVERYTHING = Selector()
NOTHING = Selector(nothing=True)


def from_map(labels: Mapping[str, str] | None) -> Selector:
    """Selector of objects that have all these labels with these values (matchLabels, a Service's selector)."""
    return Selector(tuple(_requirement(k, Operator.IN, (v,)) for k, v in sorted((labels or {}).items())))


def from_label_selector(selector: Any) -> Selector:
    """Selector of a LabelSelector: a typed object, plain JSON data, or None (which selects nothing).

    SelectorError if an operator is unknown, a key or value is malformed, or values are missing or too many.
    """
    if selector is None:
        return NOTHING
    requirements = list(from_map(_get(selector, "matchLabels")).requirements)
    for expression in _get(selector, "matchExpressions") or ():
        requirements.append(_from_expression(expression, _LABEL_OPERATORS))
    return Selector(tuple(requirements))


# --- the text form -------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\s*(==|!=|[=!,()<>]|[^\s=!,()<>]+)")
_SYMBOLS = frozenset({"==", "!=", "=", "!", ",", "(", ")", "<", ">"})


@lru_cache(maxsize=1024)
def parse(text: str) -> Selector:
    """Selector of the text form: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, `a>1`, `a<1`.

    Requirements are separated by commas and all must hold. Empty text selects everything. SelectorError tells where
    the text stops making sense.
    """
    return _Parser(text).selector()


class _Parser:
    """Reads a label selector from left to right; `_at` is the next token."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _TOKEN.findall(text)
        self._at = 0

    def selector(self) -> Selector:
        if not self._tokens:
            return EVERYTHING
        requirements = [self._requirement()]
        while self._peek():
            self._expect(",")
            requirements.append(self._requirement())
        return Selector(tuple(sorted(requirements, key=lambda r: r.key)))

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _expect(self, wanted: str) -> None:
        token = self._next()
        if token != wanted:
            raise self._error(token, f"'{wanted}'")

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._next()
            return self._made(self._key(), Operator.DOES_NOT_EXIST, ())
        key = self._key()
        token = self._peek()
        if token in ("", ","):
            return self._made(key, Operator.EXISTS, ())
        self._next()
        match token:
            case "=" | "==":
                return self._made(key, Operator.IN, (self._value(),))
            case "!=":
                return self._made(key, Operator.NOT_IN, (self._value(),))
            case ">":
                return self._made(key, Operator.GT, (self._value(),))
            case "<":
                return self._made(key, Operator.LT, (self._value(),))
            case "in":
                return self._made(key, Operator.IN, self._values())
            case "notin":
                return self._made(key, Operator.NOT_IN, self._values())
        raise self._error(token, "one of = == != in notin > < after a key, or ','")

    def _key(self) -> str:
        token = self._next()
        if token == "" or token in _SYMBOLS:
            raise self._error(token, "a label key")
        return token

    def _value(self) -> str:
        token = self._peek()
        if token in ("", ",", ")"):  # `a=` means the empty value
            return ""
        if token in _SYMBOLS:
            raise self._error(token, "a label value")
        return self._next()

    def _values(self) -> list[str]:
        self._expect("(")
        values = [self._value()]
        while self._peek() == ",":
            self._next()
            values.append(self._value())
        self._expect(")")
        return values

    def _made(self, key: str, operator: Operator, values: Iterable[str]) -> Requirement:
        return _requirement(key, operator, values, source=self._text)

    def _error(self, token: str, wanted: str) -> SelectorError:
        found = f"'{token}' in {self._text!r}" if token else f"the end of {self._text!r}"
        return SelectorError("not a label selector", found=found, wanted=wanted)


def _requirement(key: str, operator: Operator, values: Iterable[str], *, source: str = "") -> Requirement:
    """A checked requirement; `source` is the whole selector's text, where there is one."""
    found = frozenset(values)
    where = f" in {source!r}" if source else ""
    for message in names.qualified_name(key):
        raise SelectorError("not a label key", found=f"{key!r}{where}", wanted=message)
    if operator in (Operator.IN, Operator.NOT_IN):
        if not found:
            raise SelectorError(f"no values for {operator}", found=f"{key!r}", wanted="at least one value")
        for value in found:
            for message in names.label_value(value):
                raise SelectorError("not a label value", found=f"{value!r}{where}", wanted=message)
    elif operator in (Operator.GT, Operator.LT):
        if len(found) != 1 or not all(_INTEGER.fullmatch(value) for value in found):
            raise SelectorError(
                f"{operator} compares with one integer", found=f"{sorted(found)}{where}", wanted="one integer"
            )
    elif found:
        raise SelectorError(f"values for {operator}", found=f"{sorted(found)}", wanted="none")
    return Requirement(key, operator, found)


def _from_expression(expression: Any, operators: Collection[Operator]) -> Requirement:
    key, word = _get(expression, "key"), _get(expression, "operator")
    operator = next((o for o in operators if o == word), None)
    if operator is None:
        raise SelectorError("not an operator", found=repr(word), wanted=f"one of {', '.join(operators)}")
    return _requirement(key or "", operator, _get(expression, "values") or ())


def _get(obj: Any, name: str) -> Any:
    """A field of plain JSON data or of a typed object."""
    return obj.get(name) if isinstance(obj, Mapping) else getattr(obj, name)


# --- field selectors -----------------------------------------------------------------------------------------------


class FieldRequirement(Struct, frozen=True):
    """One condition on one field: its value is (`equal`) or is not `value`."""

    field: str
    value: str
    equal: bool = True

    def __str__(self) -> str:
        escaped = re.sub(r"([\\,=])", r"\\\1", self.value)
        return f"{self.field}{'=' if self.equal else '!='}{escaped}"


class FieldSelector(Struct, frozen=True):
    """A field selector: all requirements must hold; without any it selects everything."""

    requirements: tuple[FieldRequirement, ...] = ()

    def matches(self, fields: Mapping[str, str]) -> bool:
        """Whether an object with these values of its selectable fields is selected; an absent field is empty."""
        return all((fields.get(r.field, "") == r.value) == r.equal for r in self.requirements)

    def exact(self, field: str) -> str | None:
        """The value that the field must have, if the selector says so: lets a server look up instead of scanning."""
        return next((r.value for r in self.requirements if r.equal and r.field == field), None)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


# A term up to an unescaped comma; inside it the first unescaped operator.
_FIELD_TERM = re.compile(r"(?:\\.|[^\\,])+|\\$", re.DOTALL)
_FIELD_PARTS = re.compile(r"([^\\=!]*)(==|!=|=)((?:\\[\\,=]|[^\\=])*)", re.DOTALL)


def parse_fields(text: str, supported: Collection[str] | None = None) -> FieldSelector:
    r"""Field selector of the text form: `a.b=c`, `a.b==c`, `a.b!=c`, separated by commas; `\,` `\=` `\\` in values.

    `supported` are the fields that the kind can be selected by (None: not checked here). SelectorError if the text
    makes no sense or a field is not supported.
    """
    requirements = []
    for term in _FIELD_TERM.findall(text):
        match = _FIELD_PARTS.fullmatch(term)
        if match is None:
            raise SelectorError(
                "not a field selector", found=repr(term), wanted=r"field=value or field!=value (\\ \, \= in values)"
            )
        field, operator, value = match.groups()
        if supported is not None and field not in supported:
            raise SelectorError(
                f"field label not supported: {field}",
                found=repr(field),
                wanted=f"one of {', '.join(sorted(supported))}",
            )
        requirements.append(FieldRequirement(field, re.sub(r"\\(.)", r"\1", value), equal=operator != "!="))
    return FieldSelector(tuple(requirements))


# --- node selectors ------------------------------------------------------------------------------------------------

_NODE_OPERATORS = tuple(Operator)
_NODE_NAME_FIELD = "metadata.name"


class NodeSelectorTerm(Struct, frozen=True):
    """One way in which a node is acceptable: all label and field requirements hold; none at all accept no node."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str], name: str) -> bool:
        """Whether a node with these labels and this name is acceptable."""
        if not self.labels and not self.fields:
            return False
        fields = {_NODE_NAME_FIELD: name}
        return all(r.matches(labels) for r in self.labels) and all(r.matches(fields) for r in self.fields)


class NodeSelector(Struct, frozen=True):
    """Terms of which one must accept the node; without terms no node is acceptable."""

    terms: tuple[NodeSelectorTerm, ...] = ()

    def matches(self, labels: Mapping[str, str], name: str) -> bool:
        """Whether a node with these labels and this name is acceptable."""
        return any(term.matches(labels, name) for term in self.terms)


def from_node_selector_term(term: Any) -> NodeSelectorTerm:
    """NodeSelectorTerm of a typed object or plain JSON data; SelectorError if it is malformed."""
    labels = [_from_expression(e, _NODE_OPERATORS) for e in _get(term, "matchExpressions") or ()]
    fields = []
    for expression in _get(term, "matchFields") or ():
        key, word, values = (_get(expression, part) for part in ("key", "operator", "values"))
        if key != _NODE_NAME_FIELD:
            raise SelectorError("not a field that nodes are selected by", found=repr(key), wanted=_NODE_NAME_FIELD)
        if word not in (Operator.IN, Operator.NOT_IN) or len(values or ()) != 1:
            raise SelectorError("not a condition on a node's name", found=repr(word), wanted="In or NotIn, one value")
        fields.append(Requirement(key, Operator(word), frozenset(values)))
    return NodeSelectorTerm(tuple(labels), tuple(fields))


def from_node_selector(selector: Any) -> NodeSelector:
    """NodeSelector of a typed object or plain JSON data (`requiredDuringScheduling...`); SelectorError if malformed.

    An absent node selector is no condition at all: do not ask this with None.
    """
    return NodeSelector(tuple(from_node_selector_term(term) for term in _get(selector, "nodeSelectorTerms") or ()))
