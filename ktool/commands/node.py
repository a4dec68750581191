"""`ktool node`: one machine of a lab, or one node of a cluster."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ktool.commands import options
from ktool.commands.lab import (
    archives_for,
    bundle_option,
    inventory_option,
    print_findings,
    print_result,
    print_upgraded,
    read_lab,
)
from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from provision.inventory.lab import Lab, Machine
    from provision.lab.open_lab import Passwords
    from provision.lab.removal import Removed
    from provision.lab_state import LabState


@click.group("node")
def command() -> None:
    """One node: of a lab (with -i INVENTORY), or of any cluster (cordon, uncordon, drain).

    \b
      ktool node why worker-1 -i inventories/lab.yml     what keeps it from being Ready, and the mend
      ktool node ssh worker-1 -i inventories/lab.yml     a shell on it
      ktool node drain worker-1                          its pods move away, it takes no new ones
    """


def _drain_options(function: Any) -> Any:
    for option in (
        click.option("--force", is_flag=True, help="Go on where pods without a controller are lost."),
        click.option("--timeout", type=float, default=300.0, show_default=True, help="Seconds for pods to go."),
    ):
        function = option(function)
    return function


# ---- any cluster


@command.command("cordon")
@click.argument("name")
@pass_session
def cordon_command(session: Session, name: str) -> None:
    """Have a node take no new pods."""
    run(_cordon(session, name, unschedulable=True))


@command.command("uncordon")
@click.argument("name")
@pass_session
def uncordon_command(session: Session, name: str) -> None:
    """Have a node take new pods again."""
    run(_cordon(session, name, unschedulable=False))


async def _cordon(session: Session, name: str, *, unschedulable: bool) -> None:
    from provision.lab.drain import cordon

    async with session.client() as client:
        changed = await cordon(client, name, unschedulable=unschedulable)
    word = "cordoned" if unschedulable else "uncordoned"
    click.echo(f"node/{name} {word if changed else f'already {word}'}")


@command.command("drain")
@click.argument("name")
@_drain_options
@pass_session
def drain_command(session: Session, name: str, timeout: float, force: bool) -> None:
    """Move a node's pods away, and have it take no new ones."""
    run(_drain(session, name, timeout=timeout, force=force))


async def _drain(session: Session, name: str, *, timeout: float, force: bool) -> None:
    from provision.lab.drain import drain

    async with session.client() as client:
        gone = await drain(
            client, name, timeout=timeout, force=force, report=lambda line: click.echo(f"· {line}", err=True)
        )
    click.echo(f"node/{name} drained: {len(gone)} pods moved away")


# ---- labs


@command.command("add")
@click.argument("name")
@inventory_option
@bundle_option
@options.passwords
def add_command(inventory: Path, name: str, bundle: Path | None, passwords: Passwords) -> None:
    """Bring one machine of the inventory into its lab: put it into the file, then call this."""
    _create(inventory, name, bundle, passwords)


@command.command("remove")
@click.argument("name")
@inventory_option
@_drain_options
@click.option("--keep-machine", is_flag=True, help="Clear a machine that ktool made, but let it be.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.passwords
def remove_command(
    inventory: Path, name: str, timeout: float, force: bool, keep_machine: bool, yes: bool, passwords: Passwords
) -> None:
    """Take a machine out of its lab: pods move away, the node goes, ktool goes, and what ktool made goes.

    The machine's entry in the inventory is for you to remove; otherwise `lab create` brings it back.
    """
    lab, state = read_lab(inventory)
    if not yes:
        click.confirm(f"Take {name} out of the lab {lab.name}?", abort=True)
    _remove(lab, state, name, timeout=timeout, force=force, keep_machine=keep_machine, passwords=passwords)


@command.command("replace")
@click.argument("name")
@inventory_option
@bundle_option
@_drain_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.passwords
def replace_command(
    inventory: Path, name: str, bundle: Path | None, timeout: float, force: bool, yes: bool, passwords: Passwords
) -> None:
    """Make a machine of the lab anew, under the same name."""
    lab, state = read_lab(inventory, (name,))
    if not yes:
        click.confirm(f"Take {name} out of the lab {lab.name} and make it anew?", abort=True)
    _remove(lab, state, name, timeout=timeout, force=force, keep_machine=False, passwords=passwords)
    _create(inventory, name, bundle, passwords)


@command.command("reset")
@click.argument("name")
@inventory_option
@_drain_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.passwords
def reset_command(inventory: Path, name: str, timeout: float, force: bool, yes: bool, passwords: Passwords) -> None:
    """Undo on a machine what ktool did to it, and tell what remains. The machine itself stays."""
    lab, state = read_lab(inventory, (name,))
    if not yes:
        click.confirm(f"Take ktool and its pods off {name}?", abort=True)
    _remove(lab, state, name, timeout=timeout, force=force, keep_machine=True, passwords=passwords)


@command.command("upgrade")
@click.argument("name")
@inventory_option
@bundle_option
@_drain_options
@options.passwords
def upgrade_command(
    inventory: Path, name: str, bundle: Path | None, timeout: float, force: bool, passwords: Passwords
) -> None:
    """Bring one node to this ktool: drain, install, verify, uncordon."""
    from ktool.output.machines import shown
    from provision.lab.upgrade import UpgradeOptions, upgrade

    lab, state = read_lab(inventory, (name,))
    how = UpgradeOptions(drain_timeout=timeout, force=force, only=frozenset({name}), passwords=passwords)
    with shown([name]) as progress:
        result = run(upgrade(lab, state, archives_for(bundle), progress, how))
    print_upgraded(result)


@command.command("why")
@click.argument("name")
@inventory_option
@click.option("-o", "--output", type=click.Choice(("json",)), help="The same as data.")
@options.passwords
def why_command(inventory: Path, name: str, output: str | None, passwords: Passwords) -> None:
    """Say in plain words why a node is not Ready, and what mends it.

    Looks from outside (its provider, SSH) and from inside (services, logs, the Node's conditions). Exit status 1 if
    something is found.
    """
    from provision.lab.evidence import gather
    from provision.lab.why import explain

    lab, state = read_lab(inventory, (name,))
    reasons = explain(run(gather(lab, state, _machine(lab, name), passwords)), inventory=str(inventory))
    if output == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(reasons)).decode())
    elif not reasons:
        click.echo(f"{name} is well: it runs, its agent runs, its node is Ready.")
    for reason in reasons if output is None else ():
        click.secho(f"✗ {reason.what}", fg="red")
        for line in reason.evidence.splitlines():
            click.echo(f"    {line}")
        if reason.mend:
            click.echo(f"  mend: {reason.mend}")
    raise SystemExit(1 if reasons else 0)


class CommandAtTheEnd(click.Command):
    """`[OPTION]... NAME [OPTION]... [COMMAND]...`: from the second word on all is the COMMAND's own, as with ssh."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        return super().parse_args(ctx, command_apart(args))


def command_apart(args: list[str], with_value: tuple[str, ...] = ("-i", "--inventory")) -> list[str]:
    """The arguments with `--` before the second one that is no option; `with_value` are options that take a value."""
    words = 0
    for at, argument in enumerate(args):
        if argument == "--":
            break
        if argument.startswith("-") or (at > 0 and args[at - 1] in with_value):
            continue
        words += 1
        if words == 2:
            return [*args[:at], "--", *args[at:]]
    return args


@command.command("ssh", cls=CommandAtTheEnd)
@click.argument("name")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]...")
@inventory_option
@options.passwords
def ssh_command(inventory: Path, name: str, arguments: tuple[str, ...], passwords: Passwords) -> None:
    """A shell on a machine of the lab, or a command there, with the lab's key and pinned host keys.

    With -k, or `ansible_password` in the inventory, ssh need not ask for the password. Nobody becomes root here, so
    -K does nothing more: sudo asks on your terminal.
    """
    from provision.ansible.hosts import JUMP, Host, SSHFiles, known_hosts, ssh_arguments, ssh_config
    from provision.providers.factory import provider_for

    lab, state = read_lab(inventory, (name,))
    machine = _machine(lab, name)
    provider = provider_for(lab, state, machine)
    endpoint = provider.endpoint(machine, lambda line: click.echo(line, err=True), timeout=20)
    endpoint = passwords.given_to(endpoint)
    host = Host(name=name, endpoint=endpoint)
    files = SSHFiles(state.identity.with_name(f"{name}.config"), state.identity.with_name(f"{name}.known_hosts"))
    state.create()
    files.config.parent.mkdir(mode=0o700, exist_ok=True)
    files.config.write_text(ssh_config([host], files))
    files.known_hosts.write_text(known_hosts([host]))
    line = ["ssh", *ssh_arguments(name, endpoint, files), "-p", str(endpoint.port)]
    line.append(f"{endpoint.user}@{endpoint.address}")
    if arguments:
        line.append(shlex.join(arguments) if len(arguments) > 1 else arguments[0])
    if endpoint.password:
        from provision.ssh import terminal

        raise SystemExit(terminal.run(line, password=endpoint.password, jump=JUMP))
    os.execvp(line[0], line)  # noqa: S606 (the terminal is the user's from here on)


def _machine(lab: Lab, name: str) -> Machine:
    machine = lab.machine(name)
    assert machine is not None, "read_lab has seen to it"
    return machine


def _create(inventory: Path, name: str, bundle: Path | None, passwords: Passwords) -> None:
    from ktool.output.machines import shown
    from provision.lab.create import CreateOptions, create

    lab, state = read_lab(inventory, (name,))
    with shown([name]) as progress:
        how = CreateOptions(only=frozenset({name}), passwords=passwords)
        result = run(create(lab, state, archives_for(bundle), progress, how))
    print_result(lab, result)
    if result.failed:
        print_findings(result)
        raise SystemExit(1)


def _remove(
    lab: Lab, state: LabState, name: str, *, timeout: float, force: bool, keep_machine: bool, passwords: Passwords
) -> None:
    from ktool.output.machines import shown
    from provision.lab.removal import RemovalOptions, remove_machine

    how = RemovalOptions(drain_timeout=timeout, force=force, keep_machine=keep_machine, passwords=passwords)
    with shown([name]) as progress:
        removed: Removed = run(remove_machine(lab, state, name, progress, how))
    for text in removed.did:
        click.echo(f"{name}: {text}")
    for text in removed.remains:
        click.echo(f"{name}: remains: {text}")
