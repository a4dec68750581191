"""`ktool token`"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kube.client import Client
    from kube.join import ControlPlane, JoinConfig

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+)([smhd])")
_TOKEN_ID = re.compile(r"([a-z0-9]{6})(\.[a-z0-9]{16})?")


class Duration(click.ParamType[float]):
    """`90s`, `15m`, `2h`, `1d`; the value is in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = _DURATION.fullmatch(str(value))
        if found is None or int(found[1]) == 0:
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 2h or 1d", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


@click.group("token")
def command() -> None:
    """Bootstrap tokens: by one of them a machine joins the cluster (Kubernetes: "Bootstrap Tokens").

    \b
    ktool token create --node worker-1 --join-file worker-1.json    on the master, or with its kubeconfig
    ktool join worker-1.json                                        on the new machine, as root
    """


@command.command("create")
@click.option(
    "--node", "nodes", multiple=True, help="The name under which the machine is to register; several: a token for each."
)
@click.option(
    "--server", default="", metavar="URL", help="The API server as the machine reaches it [default: as told]."
)
@click.option("--ttl", type=Duration(), default="15m", show_default=True, help="How long the token is valid.")
@click.option("--join-file", default="", metavar="FILE|-", help="Write all that `ktool join` needs (mode 0600).")
@click.option(
    "--control-plane",
    is_flag=True,
    help="For a machine that becomes a master, too: the join file has the cluster's keys. Only on a master, as root.",
)
@click.option("--description", default="", help="What `token list` shows of it.")
@pass_session
def create(session: Session, /, **options: Any) -> None:
    """Make a token, and print it or write a join file with it.

    A token is a secret: whoever has it can have a machine join until it expires. A join file for a master is worth the
    whole cluster, for as long as that lives: pass it on through a pipe (--join-file -), or remove it once it was used.
    """
    if len(options["nodes"]) > 1 and options["join_file"] not in ("", "-"):
        raise click.UsageError("a join file is for one node: give one --node, or --join-file -")
    if options["control_plane"] and not options["join_file"]:
        raise click.UsageError("--control-plane wants --join-file: a token alone makes no master")
    options["nodes"] = options["nodes"] or ("",)
    run(_create(session, **options))


async def _create(
    session: Session,
    *,
    nodes: tuple[str, ...],
    server: str,
    ttl: float,
    join_file: str,
    control_plane: bool,
    description: str,
) -> None:
    from kube import join
    from kube.clock import SystemClock
    from provision import bootstrap_token

    check_names(nodes)
    made = []
    async with session.client() as client:
        # First what can fail: a token that nobody gets to know should not be there.
        config = await _invitation(session, client, server=server) if join_file else None
        keys = await _keys(session) if control_plane else None
        for node in nodes:
            why = description or f"{f'for {node}, ' if node else ''}made by ktool token create"
            made.append(await bootstrap_token.create(client, clock=SystemClock(), description=why, lifetime=ttl))
    if config is None:
        for token in made:
            click.echo(token.text)
        return
    import msgspec

    for node, token in zip(nodes, made, strict=True):
        one = msgspec.structs.replace(config, token=token.text, node_name=node, control_plane=keys)
        if join_file == "-":
            click.echo(join.text_of(one), nl=False)
        else:
            join.write(Path(join_file), one)
            told = f"{join_file}: for {node or 'any node'}, token {token.id}, valid for {ttl / 60:g} minutes"
            click.echo(told, err=True)


def check_names(nodes: Iterable[str]) -> None:
    """KtoolError for what can be no node's name; an empty one stands for any."""
    from kube import names
    from kube.errors import KtoolError

    for node in nodes:
        if node and (problems := names.dns1123_subdomain(node)):
            raise KtoolError("this node name cannot be used", found=node, wanted="; ".join(problems))


async def join_files(session: Session, nodes: Sequence[str], *, server: str, description: str) -> list[str]:
    """The text of a join file for each of these nodes, with a token of its own: secrets."""
    from msgspec import structs

    from kube import join
    from kube.clock import SystemClock
    from provision import bootstrap_token

    found = []
    async with session.client() as client:
        config = await _invitation(session, client, server=server)
        for node in nodes:
            token = await bootstrap_token.create(client, clock=SystemClock(), description=f"for {node}, {description}")
            found.append(join.text_of(structs.replace(config, token=token.text, node_name=node)).decode())
    return found


async def _keys(session: Session) -> ControlPlane:
    from ktool.commands.up import local_config
    from provision.local_cluster.control_plane import invitation_of

    return await invitation_of(local_config(session))


async def _invitation(session: Session, client: Client, *, server: str) -> JoinConfig:
    """A join file's content, without a token and a node's name."""
    from urllib.parse import urlsplit

    from kube import cluster_info, pki
    from kube.errors import KtoolError
    from kube.join import JoinConfig

    info = await cluster_info.fetch(client)
    # The CA by which this very connection is trusted, not one that somebody tells.
    trusted = session.connection().ca_data
    ca = pki.parse_cert(trusted, source=str(session.kubeconfig_path())) if trusted else info.ca
    chosen = server or info.server
    url = urlsplit(chosen)
    if url.scheme != "https" or not url.hostname:
        raise KtoolError("this is no URL of an API server", found=chosen, wanted="such as https://192.0.2.1:6443")
    if not server and url.hostname in ("127.0.0.1", "localhost", "::1"):
        raise KtoolError(
            "other machines cannot reach this master",
            found=f"it tells them {chosen}",
            wanted="an address that they can reach",
            mend="name one with --server, or run `ktool up --advertise-address ADDRESS`",
        )
    return JoinConfig(server=chosen, token="", ca_cert_hashes=(pki.ca_pin(ca),))


@command.command("list")
@click.option("-o", "--output", type=click.Choice(("json",)), help="As JSON.")
@pass_session
def list_tokens(session: Session, /, output: str | None) -> None:
    """Show the cluster's tokens, without their secrets."""
    run(_list(session, output))


async def _list(session: Session, output: str | None) -> None:
    from ktool.output.table import print_rows
    from kube import times
    from kube.clock import SystemClock
    from provision import bootstrap_token

    async with session.client() as client:
        found = await bootstrap_token.find_all(client)
    if output:
        rows = [
            {"id": t.id, "expires": times.rfc3339(t.expires) if t.expires else None, "description": t.description}
            for t in found
        ]
        click.echo(json.dumps(rows))
        return
    now = SystemClock().time()
    print_rows([["ID", "EXPIRES", "DESCRIPTION"], *([t.id, _left(t.expires, now), t.description] for t in found)])


def _left(expires: float | None, now: float) -> str:
    if expires is None:
        return "never"
    seconds = expires - now
    return f"in {seconds / 60:.0f} minutes" if seconds > 0 else "expired"


@command.command("delete")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@pass_session
def delete(session: Session, /, ids: tuple[str, ...]) -> None:
    """Make tokens worthless at once; ID is the part before the dot."""
    run(_delete(session, ids))


async def _delete(session: Session, ids: tuple[str, ...]) -> None:
    from kube.errors import KtoolError
    from kube.status import ApiError
    from provision import bootstrap_token

    async with session.client() as client:
        for given in ids:
            match = _TOKEN_ID.fullmatch(given)
            if match is None:
                raise KtoolError("not a token's ID", found="something else", wanted="six letters and digits")
            try:
                await bootstrap_token.delete(client, match[1])
            except ApiError as error:
                if error.code != 404:
                    raise
                raise KtoolError(
                    "there is no such token", found=match[1], wanted="one of `ktool token list`"
                ) from error
            click.echo(f"token {match[1]} deleted")
