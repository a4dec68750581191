"""`ktool certs`"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ktool.commands import options
from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from provision.certificates import CertificateView
    from provision.lab.open_lab import Passwords

DAY = 86400.0


@click.command("certs")
@click.option(
    "-i",
    "--inventory",
    type=click.Path(exists=True, path_type=Path),
    help="Look on all machines of this lab [default: on this machine].",
)
@click.option("--within", type=float, default=30.0, show_default=True, help="Days that a certificate must be good for.")
@click.option("-o", "--output", type=click.Choice(("json",)), help="The same as data.")
@options.passwords
@pass_session
def command(
    session: Session, inventory: Path | None, within: float, output: str | None, passwords: Passwords | None
) -> None:
    """Show certificates and how long they are good.

    They are renewed by themselves: the master's by the master, a node's by its agent. Exit status 1 if one ends
    within the given days, or a machine does not answer.
    """
    import msgspec

    silent = False
    if inventory and passwords is not None:
        found, silent = _of_lab(inventory, passwords)
    else:
        found = {"": _of_this_machine(session)}
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(found if inventory else found[""])).decode())
    else:
        _print(found)
    now = time.time()
    ending = any(view.problem or view.left(now) < within * DAY for views in found.values() for view in views)
    raise SystemExit(1 if ending or silent else 0)


def _of_this_machine(session: Session) -> list[CertificateView]:
    from kube.errors import KtoolError
    from provision.certificates import certificates

    found = list(certificates(session.data_dir))
    if not found:
        raise KtoolError(
            "there are no certificates here",
            found=f"none in {session.data_dir}",
            wanted="a machine of a cluster",
            mend="run it as root on one, or name a lab with -i",
        )
    return found


def _of_lab(inventory: Path, passwords: Passwords) -> tuple[dict[str, list[CertificateView]], bool]:
    """Certificates by machine, and whether a machine did not answer."""
    from ktool.commands.lab import read_lab
    from provision.certificates import CertificateView
    from provision.lab.asked import asked

    lab, state = read_lab(inventory)
    # a machine's exit status says whether one ends soon there; that is for us to judge
    question = ["ktool", "certs", "-o", "json"]
    answers = run(asked(lab, state, question, answer=list[CertificateView], passwords=passwords))
    for name, problem in answers.problems.items():
        click.secho(f"✗ {name}: {problem}", fg="red", err=True)
    return answers.found, bool(answers.problems)


def _print(found: dict[str, list[CertificateView]]) -> None:
    from ktool.output.table import print_rows

    now = time.time()
    several = list(found) != [""]
    rows = [[*(["MACHINE"] if several else []), "CERTIFICATE", "SUBJECT", "ISSUER", "EXPIRES", "LEFT"]]
    for machine, views in found.items():
        for view in views:
            day = time.strftime("%Y-%m-%d", time.gmtime(view.expires)) if view.expires else "-"
            left = f"{view.left(now) / DAY:.0f} days" if not view.problem else view.problem
            rows.append([*([machine] if several else []), view.file, view.subject, view.issuer, day, left])
    print_rows(rows)
