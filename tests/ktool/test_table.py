"""Server-side tables as text."""

from __future__ import annotations

from typing import Any

import pytest

from ktool.output.table import print_rows, rows_of

TABLE: dict[str, Any] = {
    "columnDefinitions": [{"name": "Name"}, {"name": "Ready", "priority": 0}, {"name": "IP", "priority": 1}],
    "rows": [
        {"cells": ["a", "1/1", None], "object": {"metadata": {"namespace": "x", "labels": {"k": "v"}}}},
        {"cells": ["a-long-name", True, "10.0.0.1"], "object": {"metadata": {"namespace": "y"}}},
    ],
}


def test_columns_by_priority_namespace_and_labels() -> None:
    assert rows_of(TABLE, wide=False) == [["NAME", "READY"], ["a", "1/1"], ["a-long-name", "true"]]
    assert rows_of(TABLE, wide=True, namespaces=True, labels=True) == [
        ["NAMESPACE", "NAME", "READY", "IP", "LABELS"],
        ["x", "a", "1/1", "<none>", "k=v"],
        ["y", "a-long-name", "true", "10.0.0.1", "<none>"],
    ]


def test_columns_are_aligned_without_blanks_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(rows_of(TABLE, wide=False))
    assert capsys.readouterr().out.splitlines() == ["NAME          READY", "a             1/1", "a-long-name   true"]
