"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def namespace(function: F) -> F:
    """`-n/--namespace`"""
    option = click.option("-n", "--namespace", default="", help="Namespace [default: the kubeconfig's].")
    return option(function)


def all_namespaces(function: F) -> F:
    """`-A/--all-namespaces`"""
    return click.option("-A", "--all-namespaces", is_flag=True, help="Look in all namespaces.")(function)


def filenames(function: F) -> F:
    """`-f/--filename`, several times"""
    option = click.option(
        "-f", "--filename", "filenames", multiple=True, help="Manifest: a file, a folder, or - for standard input."
    )
    return option(function)


def selector(function: F) -> F:
    """`-l/--selector`"""
    return click.option("-l", "--selector", default="", help="Label selector, such as app=web,tier!=db.")(function)
