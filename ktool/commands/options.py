"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
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


def passwords(function: Any) -> Any:
    """`-k/--ask-pass` and `-K/--ask-become-pass`; gives `passwords` (Passwords; None without an
    inventory), asked for before anything is shown."""

    @wraps(function)
    def asking(*arguments: Any, ask_pass: bool, ask_become_pass: bool, **more: Any) -> Any:
        if more.get("inventory") is None:
            # This machine alone is meant, and a lab's machines do not have what makes labs.
            return function(*arguments, passwords=None, **more)
        from provision.lab.passwords import Passwords

        given = Passwords(
            login=click.prompt("SSH password", hide_input=True, err=True) if ask_pass else "",
            become=click.prompt("Password for sudo", hide_input=True, err=True) if ask_become_pass else "",
        )
        return function(*arguments, passwords=given, **more)

    for option in (
        click.option("-K", "--ask-become-pass", is_flag=True, help="Ask for the password of sudo, if it is another."),
        click.option("-k", "--ask-pass", is_flag=True, help="Ask for the SSH password (as Ansible does)."),
    ):
        asking = option(asking)
    return asking
