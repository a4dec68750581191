"""`python -m bench`: measure everything and print one table. Run it by `make bench` (root, a namespace of its own)."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.figure import Figure, markdown

STYLES = {"ok": "green", "missed": "red", "within noise": "yellow"}


def parts(*, quick: bool) -> dict[str, Callable[[], list[Figure]]]:
    """What there is to measure, by name; each is imported when it is run."""

    def module(name: str) -> object:
        return importlib.import_module(f"bench.{name}")

    return {
        "startup": lambda: module("start_up").master(starts=3 if quick else 7),  # type: ignore[attr-defined]
        "cluster": lambda: _cluster(quick),
        "hollow": lambda: module("hollow").run(rounds=1 if quick else 3),  # type: ignore[attr-defined]
        "api": lambda: module("api").run(operations=1500 if quick else 6000),  # type: ignore[attr-defined]
        "store": lambda: _store(quick),
        "etcd": lambda: _etcd(quick),
        "scheduler": lambda: module("scheduler").run(decisions=100 if quick else 300),  # type: ignore[attr-defined]
        "proxy": lambda: _proxy(quick),
        "labs": lambda: module("labs").run(hosts=3 if quick else 5, rounds=1 if quick else 3),  # type: ignore[attr-defined]
    }


def _cluster(quick: bool) -> list[Figure]:
    from bench import start_up

    reason = start_up.missing()
    if reason:
        raise RuntimeError(reason)
    return start_up.cluster(rounds=1 if quick else 3, idle_seconds=10 if quick else 30)


def _store(quick: bool) -> list[Figure]:
    from bench import store

    group = "store (SQLite, every put synced, 3 KB values, 32 writers)"
    return _store_figures(group, store.run(seconds=1.0 if quick else 3.0))


def _etcd(quick: bool) -> list[Figure]:
    from bench import api, store
    from tests import etcd

    if reason := etcd.missing():
        raise RuntimeError(reason)
    group = "store (etcd, one member on this machine, TLS, 3 KB values, 32 writers)"
    figures = _store_figures(group, store.run_etcd(seconds=1.0 if quick else 3.0))
    return [*figures, *api.run_etcd(operations=500 if quick else 1500)]


def _store_figures(group: str, found: dict[str, float]) -> list[Figure]:
    units = {"per_second": "/s", "ms": "ms", "s": "s"}
    names = {
        "puts_per_second": "puts",
        "put_p50_ms": "put, p50",
        "put_p99_ms": "put, p99",
        "single_put_p50_ms": "put of a lone writer, p50",
        "watch_p50_ms": "put to a watcher, p50",
        "gets_per_second": "point reads, one after another",
        "range_10k_ms": "range of 10,000 keys",
        "compact_s": "compaction of all that",
        "open_ms": "opening again",
    }
    return [
        Figure(group, names.get(key, key), value, next(u for end, u in units.items() if key.endswith(end)))
        for key, value in found.items()
    ]


def _proxy(quick: bool) -> list[Figure]:
    from bench import proxy

    group = "proxy (nftables, 1,000 Services of 5 endpoints)"
    found = proxy.run(repeat=2 if quick else 5)
    names = {
        "plan_ms": "planning all rules",
        "full_sync_ms": "telling the kernel all",
        "replace_ms": "reading and replacing all, after a restart",
        "one_plan_ms": "one endpoint changed: planning",
        "one_sync_ms": "one endpoint changed: telling the kernel",
        "check_ms": "has anybody touched the table",
    }
    return [Figure(group, text, found[key], "ms") for key, text in names.items() if key in found]


def main() -> int:
    """Print the table; exit status 1 if something could not be measured. A missed target is shown, not an error."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(parts(quick=True))}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a minute instead of several")
    parser.add_argument("--markdown", type=Path, help="write the table to this file as well, as Markdown")
    options = parser.parse_args()
    todo = parts(quick=options.quick)
    unknown = set(options.parts) - todo.keys()
    if unknown:
        parser.error(f"unknown part: found {', '.join(sorted(unknown))}, wanted some of {', '.join(todo)}")
    errors = Console(stderr=True, highlight=False)
    figures: list[Figure] = []
    failed: dict[str, Exception] = {}
    for name, measure in todo.items():
        if options.parts and name not in options.parts:
            continue
        begun = time.monotonic()
        errors.print(f"{name} ...", end=" ")
        try:
            figures += measure()
        except Exception as error:  # noqa: BLE001 (the other parts are worth measuring; it is told, and the exit status)
            failed[name] = error
        errors.print(f"{time.monotonic() - begun:.0f} s")
    _print(figures)
    for name, error in failed.items():
        told = str(error)[-2000:]
        errors.print(f"{name} could not be measured: {type(error).__name__}: {told}", style="red", markup=False)
    if options.markdown:
        options.markdown.write_text(_machine() + "\n\n" + markdown(figures))
    return 1 if failed else 0


def _machine() -> str:
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} CPUs, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load average {load:.1f}"
    )


def _print(figures: list[Figure]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 140
    table = Table(title=_machine(), title_justify="left", show_lines=False)
    table.add_column("figure", overflow="fold")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("how", style="dim", overflow="fold")
    group = ""
    for figure in figures:
        if figure.group != group:
            group = figure.group
            table.add_section()
            table.add_row(f"[bold]{group}[/bold]")
        verdict = figure.verdict
        style = STYLES.get(verdict, "")
        mark = f"[{style}]{verdict}[/{style}]" if style else ""
        table.add_row(figure.name, figure.shown, figure.wanted, mark, figure.note)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
