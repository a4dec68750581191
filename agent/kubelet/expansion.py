"""`$(NAME)` in commands, arguments and values of variables (Kubernetes: "Define a Command and Arguments"). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace each `$(NAME)` that has a value; one without stays as it stands, `$$` is a single dollar sign."""

    def replaced(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        return variables.get(match[1], match[0])

    return _REFERENCE.sub(replaced, text)


def references(text: str) -> list[str]:
    """The names that `text` refers to, in order."""
    return [match[1] for match in _REFERENCE.finditer(text) if match[1] is not None]
