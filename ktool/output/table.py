"""Server-side tables on the terminal (Kubernetes API concepts, "Receiving resources as Tables")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

# a table must not be wrapped or cut when it goes into a file or a pipe
UNLIMITED = 100_000


def console() -> Console:
    """The console for results: as wide as the terminal, without a limit elsewhere."""
    found = Console(highlight=False, soft_wrap=False)
    return found if found.is_terminal else Console(highlight=False, width=UNLIMITED)


def rows_of(table: dict[str, Any], *, wide: bool, namespaces: bool = False, labels: bool = False) -> list[list[str]]:
    """Cells of a meta/v1 Table as text, headers first."""
    columns = table.get("columnDefinitions") or []
    shown = [i for i, c in enumerate(columns) if wide or not c.get("priority")]
    header = [columns[i]["name"].upper() for i in shown]
    found = [[*(["NAMESPACE"] if namespaces else []), *header, *(["LABELS"] if labels else [])]]
    for row in table.get("rows") or ():
        metadata = (row.get("object") or {}).get("metadata") or {}
        cells = [_text(row["cells"][i]) for i in shown]
        pairs = ",".join(f"{k}={v}" for k, v in sorted((metadata.get("labels") or {}).items()))
        found.append(
            [
                *([metadata.get("namespace", "")] if namespaces else []),
                *cells,
                *([pairs or "<none>"] if labels else []),
            ]
        )
    return found


def print_rows(rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
    """Print rows in columns, without any frame; the first one is the header."""
    if not rows:
        return
    table = Table(box=None, show_header=header, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    for title in rows[0]:
        table.add_column(title, no_wrap=True, overflow="ignore")
    for row in rows[1:]:
        table.add_row(*row)
    target = console()
    if not target.is_terminal:
        target.width = max(1, sum(max(len(r[i]) for r in rows) + 3 for i in range(len(rows[0]))))
    with target.capture() as captured:
        target.print(table)
    # columns are padded to their width; nobody wants blanks at the end of a line
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _text(cell: Any) -> str:
    if cell is None:
        return "<none>"
    return str(cell).lower() if isinstance(cell, bool) else str(cell)
