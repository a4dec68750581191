"""Errors as users see them: what, found, wanted, mend; a traceback only when asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

INTERRUPTED = 130


@contextmanager
def reported(*, verbose: bool) -> Iterator[None]:
    """Print errors that a user can understand, and exit with status 1."""
    from kube.errors import KtoolError
    from kube.status import ApiError

    try:
        yield
    except KtoolError as error:
        _print(error.what, {"found": error.found, "wanted": error.wanted, "mend": error.mend})
        _exit(verbose=verbose)
    except ApiError as error:
        causes = {c.get("field", ""): c.get("message", "") for c in error.causes if c.get("field")}
        text = f"the server refused: {error.message}" if len(causes) < 2 else f"the server refused ({error.reason}):"
        _print(text, causes if len(causes) > 1 else {})
        _exit(verbose=verbose)
    except ModuleNotFoundError as error:
        # A node's runtime has no commands for other machines; a plain `make setup` no libraries for provisioning.
        _print(
            "this installation of ktool cannot do that",
            {
                "found": f"no module {error.name}",
                "wanted": "ktool with its extra `provision`",
                "mend": "make setup-provision (or: pip install 'ktool[provision]'); on a node: go to the workstation",
            },
        )
        _exit(verbose=verbose)
    except BrokenPipeError:
        # the reader (`head`) has seen enough
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)


def _print(what: str, fields: dict[str, str]) -> None:
    click.secho(f"error: {what}", fg="red", err=True)
    width = max((len(name) for name, text in fields.items() if text), default=0)
    for name, text in fields.items():
        if text:
            click.echo(f"  {name + ':':<{width + 1}} {text}", err=True)


def _exit(*, verbose: bool) -> None:
    if verbose:
        raise
    sys.exit(1)
