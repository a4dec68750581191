"""`ktool etcd`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from provision.etcd.membership import Member


@click.group("etcd")
def command() -> None:
    """The store that several masters share, seen from one of them (as root there).

    Masters come with `ktool join --control-plane` and go with `ktool down`; this is for looking, and for a master that
    is gone for good.
    """


@command.command("members")
@click.option("-o", "--output", type=click.Choice(("json",)), help="The same as data.")
@pass_session
def members(session: Session, /, output: str | None) -> None:
    """Show the members, and which of them are well (etcdctl: `member list`, `endpoint health`).

    Exit status 1 if one is not.
    """
    import msgspec

    found, healthy = run(_members(session))
    if output:
        rows = [{**msgspec.to_builtins(one), "healthy": one.id in healthy} for one in found]
        click.echo(msgspec.json.encode(rows).decode())
    else:
        from ktool.output.table import print_rows

        print_rows(
            [
                ["NAME", "ID", "CLIENTS", "STATUS"],
                *([one.name or "(not started)", one.id, one.client_url, _status(one, healthy)] for one in found),
            ]
        )
    raise SystemExit(0 if all(one.id in healthy for one in found) else 1)


async def _members(session: Session) -> tuple[list[Member], set[str]]:
    from ktool.commands.up import local_config
    from provision.local_cluster import etcd

    return await etcd.members(local_config(session))


def _status(member: Member, healthy: set[str]) -> str:
    if member.learner:
        return "learner, without a vote"
    return "healthy" if member.id in healthy else "does not answer"


@command.command("start")
@pass_session
def start(session: Session, /) -> None:
    """Start this machine's member if it was stopped, and do not wait for the others.

    Where a majority has been stopped, each has to be started before one of them serves.
    """
    click.echo("started" if run(_start(session)) else "nothing to do")


async def _start(session: Session) -> bool:
    from ktool.commands.up import local_config
    from provision.local_cluster import etcd
    from provision.services.detect import detect

    config = local_config(session)
    return await etcd.start(config, detect(config.data_dir, wanted=config.supervisor))


@command.command("remove")
@click.argument("name")
@pass_session
def remove(session: Session, /, name: str) -> None:
    """Take out the member NAME (or its ID) of a master that does not come back.

    Refused where the others would lose their quorum. Running it again is fine.
    """
    done = run(_remove(session, name))
    click.echo("; ".join(f"removed: {one}" for one in done) or f"there is no member {name}")


async def _remove(session: Session, name: str) -> list[str]:
    from ktool.commands.up import local_config
    from provision.local_cluster import etcd

    return await etcd.remove(local_config(session), name)
