"""`ktool lab`: machines and the cluster on them, from an inventory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ktool.commands import options as shared
from ktool.session import run

if TYPE_CHECKING:
    from provision.bundle.archive import Archive, ArchiveRole
    from provision.inventory.lab import Lab
    from provision.lab.create import LabResult, MachineResult
    from provision.lab.destroy import Destroyed
    from provision.lab.open_lab import Passwords
    from provision.lab.plan import Action
    from provision.lab.status import LabStatus
    from provision.lab.upgrade import Upgraded
    from provision.lab_state import LabState

PLAN_COLOURS = {"+": "green", "~": "yellow", "-": "red", "?": "cyan", "!": "yellow"}


def inventory_option(function: Any) -> Any:
    """`-i/--inventory`"""
    return click.option(
        "-i",
        "--inventory",
        type=click.Path(exists=True, path_type=Path),
        required=True,
        help="The lab's inventory: a file or folder in Ansible's format.",
    )(function)


def only_option(function: Any) -> Any:
    """`-l/--limit`"""
    return click.option("-l", "--limit", "only", multiple=True, metavar="MACHINE", help="Only these machines.")(
        function
    )


def bundle_option(function: Any) -> Any:
    """`--bundle`"""
    return click.option(
        "--bundle",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="What machines get installed [default: this ktool]; see `ktool bundle create`.",
    )(function)


@click.group("lab")
def command() -> None:
    """Make a lab of machines and a cluster on them, from an Ansible inventory.

    \b
      ktool lab create  -i inventories/lab.yml --plan   what would be done
      ktool lab create  -i inventories/lab.yml          machines, cluster, kubeconfig
      ktool --lab inventories/lab.yml get nodes         any command against that lab
      ktool lab destroy -i inventories/lab.yml          nothing of it is left

    `create` is run again after a change, an interruption or a failure: it does what is missing.
    """


@command.command("create")
@inventory_option
@only_option
@bundle_option
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--reapply", is_flag=True, help="Go over machines that look as they should, too.")
@click.option(
    "--boot-timeout", type=float, default=420.0, show_default=True, help="Seconds until a machine answers SSH."
)
@click.option("--ready-timeout", type=float, default=240.0, show_default=True, help="Seconds until a node is Ready.")
@click.option("-o", "--output", type=click.Choice(("json",)), help="How it ended, as data.")
@shared.passwords
def create_command(
    inventory: Path,
    only: tuple[str, ...],
    bundle: Path | None,
    plan_only: bool,
    reapply: bool,
    boot_timeout: float,
    ready_timeout: float,
    output: str | None,
    passwords: Passwords,
) -> None:
    """Have the machines of an inventory, and the cluster on them.

    Exit status 1 if a machine could not be brought so far; the others are, and the same command does the rest.
    With --plan: 2 if there is something to do.
    """
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor()
    try:
        # Another process reads the inventory, for a second: time for all that does not depend on it.
        reading = pool.submit(read_lab, inventory, only)
        from ktool.output.machines import shown
        from provision.lab.create import CreateOptions, create, plan_create

        archived = pool.submit(archives_for, bundle)
        lab, state = reading.result()
        archives = archived.result()
    finally:
        pool.shutdown(wait=False)
    options = CreateOptions(
        boot_timeout=boot_timeout,
        ready_timeout=ready_timeout,
        reapply=reapply,
        only=frozenset(only),
        passwords=passwords,
    )
    if plan_only:
        actions = run(plan_create(lab, state, archives, options))
        _print_plan(lab, actions)
        raise SystemExit(2 if any(action.mark != "!" for action in actions) else 0)
    with shown([machine.name for machine in lab.machines]) as progress:
        result = run(create(lab, state, archives, progress, options))
    pushed = True
    if bundle is not None and result.kubeconfig is not None:
        pushed = _push_images(lab, state, bundle, only, passwords)
    if output == "json":
        _print_as_data(result)
    else:
        print_result(lab, result)
    if result.failed:
        print_findings(result)
    if result.failed or not pushed:
        raise SystemExit(1)


@command.command("upgrade")
@inventory_option
@only_option
@bundle_option
@click.option("--drain-timeout", type=float, default=300.0, show_default=True, help="Seconds for a node's pods to go.")
@click.option("--ready-timeout", type=float, default=240.0, show_default=True, help="Seconds until a node is Ready.")
@click.option("--force", is_flag=True, help="Go on where pods without a controller are lost.")
@shared.passwords
def upgrade_command(
    inventory: Path,
    only: tuple[str, ...],
    bundle: Path | None,
    drain_timeout: float,
    ready_timeout: float,
    force: bool,
    passwords: Passwords,
) -> None:
    """Bring a lab to this ktool, one machine after the other: drain, install, verify, uncordon.

    Stops at the first failure, with that node uncordoned and the rest untouched; the same command goes on.
    """
    from ktool.output.machines import shown
    from provision.lab.upgrade import UpgradeOptions, upgrade

    lab, state = read_lab(inventory, only)
    options = UpgradeOptions(
        drain_timeout=drain_timeout, ready_timeout=ready_timeout, force=force, only=frozenset(only), passwords=passwords
    )
    with shown([machine.name for machine in lab.machines]) as progress:
        result = run(upgrade(lab, state, archives_for(bundle), progress, options))
    print_upgraded(result)


@command.command("status")
@inventory_option
@click.option("-o", "--output", type=click.Choice(("json",)), help="The same as data.")
@shared.passwords
def status_command(inventory: Path, output: str | None, passwords: Passwords) -> None:
    """Show each machine of a lab: as its provider, its inside and the cluster see it.

    Exit status 1 when something is not well.
    """
    from provision.lab.status import status

    lab, state = read_lab(inventory)
    found = run(status(lab, state, passwords))
    if output == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _print_status(found)
    if not found.well:
        raise SystemExit(1)


@command.command("destroy")
@inventory_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@shared.passwords
def destroy_command(inventory: Path, yes: bool, passwords: Passwords) -> None:
    """Remove a lab: machines that ktool made go, those that were there before lose ktool.

    Only what ktool made is touched. Asks first, unless --yes.
    """
    from ktool.output.machines import shown
    from provision.inventory.lab import ProviderName
    from provision.lab.destroy import destroy, what_there_is
    from provision.lab.plan import MAKING

    lab, state = read_lab(inventory)
    there = run(what_there_is(lab, state, passwords))
    if not there and not state.path.exists():
        click.echo(f"There is nothing of the lab {lab.name}.")
        return
    if not yes:
        off = [m.name for m in lab.machines if m.provider is ProviderName.REDFISH]
        made = [
            one.name
            for one in there
            if one.name not in off and ((m := lab.machine(one.name)) is None or m.provider in MAKING)
        ]
        kept = [m.name for m in lab.machines if m.provider in (ProviderName.SSH, ProviderName.LOCAL)]
        click.echo(f"The lab {lab.name}:")
        if made:
            click.echo(f"  machines to be removed, with their disks: {', '.join(made)}")
        if off:
            click.echo(f"  machines to be switched off, with what is on their disks: {', '.join(off)}")
        if kept:
            click.echo(f"  machines that stay and lose ktool and its pods: {', '.join(kept)}")
        click.confirm("Remove it?", abort=True)
    with shown([one.name for one in there]) as progress:
        result = run(destroy(lab, state, progress, passwords))
    _print_destroyed(lab, result)
    if result.errors:
        raise SystemExit(1)


@command.group("image", invoke_without_command=True)
@click.option(
    "-i",
    "--inventory",
    type=click.Path(exists=True, path_type=Path),
    help="The lab's inventory: a file or folder in Ansible's format.",
)
@bundle_option
@click.pass_context
def image_command(context: click.Context, inventory: Path | None, bundle: Path | None) -> None:
    """Build or fetch the images that a lab's machines need; start emulated ones once and keep their memory.

    `create` does it too; this is for doing it ahead, where there are package sources or there is a network.
    """
    if context.invoked_subcommand is not None:
        if inventory is not None or bundle is not None:
            raise click.UsageError(f"{context.invoked_subcommand} is for the images of all labs: without -i, --bundle")
        return
    if inventory is None:
        raise click.UsageError("Missing option '-i' / '--inventory'.")
    from provision.bundle.archive import ArchiveRole
    from provision.lab.images_ahead import prepare
    from provision.lab_state import cache_dir

    lab, _ = read_lab(inventory)
    layer = archives_for(bundle)[ArchiveRole.CONTROL].path
    for name, paths in prepare(lab, cache_dir(), lambda line: click.echo(line, err=True), layer=layer).items():
        click.echo(f"{name}: {paths}")


@image_command.command("prune")
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def prune_command(plan_only: bool, yes: bool) -> None:
    """Remove images that no lab uses from the cache, and say how much room that gave.

    An image stays while there is a lab that was made from it, a disk that is its clone, or a process that has it open.
    What is removed is made anew when it is wanted. With --plan: exit status 2 if there is something to remove.
    """
    from provision.lab.image_uses import prune_images
    from provision.lab_state import cache_dir
    from provision.machine_image.cache import MIB
    from provision.machine_image.prune import Pruning

    def agree(planned: Pruning) -> bool:
        for path in planned.gone:
            click.echo(f"  - {path.parent.name}/{path.name}")
        if planned.gone and not yes:
            click.confirm(f"Remove them ({planned.size // MIB} MiB)?", abort=True)
        return True

    found = prune_images(cache_dir(), plan_only=plan_only, agree=agree)
    if plan_only:
        for path in found.gone:
            click.echo(f"  - {path.parent.name}/{path.name}")
        click.echo(f"{len(found.gone)} to remove ({found.size // MIB} MiB), {len(found.kept)} in use.")
        raise SystemExit(2 if found.gone else 0)
    click.echo(f"removed {len(found.gone)} images, {found.size // MIB} MiB; {len(found.kept)} are in use.")


@command.command("snapshot")
@inventory_option
@only_option
@click.argument("name", required=False)
@shared.passwords
def snapshot_command(inventory: Path, only: tuple[str, ...], name: str | None, passwords: Passwords) -> None:
    """Keep the state of a lab's machines under a NAME; without one, list what there is."""
    from ktool.output.machines import shown
    from provision.lab.snapshots import list_snapshots, snapshot

    lab, state = read_lab(inventory, only)
    if name is None:
        for machine, names in run(list_snapshots(lab, state, only, passwords)).items():
            click.echo(f"{machine}: {', '.join(names) or '-'}")
        return
    with shown([machine.name for machine in lab.machines]) as progress:
        run(snapshot(lab, state, name, only, progress, passwords))


@command.command("restore")
@inventory_option
@only_option
@click.argument("name")
@shared.passwords
def restore_command(inventory: Path, only: tuple[str, ...], name: str, passwords: Passwords) -> None:
    """Bring the state of a lab's machines back that `snapshot` kept under a NAME."""
    from ktool.output.machines import shown
    from provision.lab.snapshots import restore

    lab, state = read_lab(inventory, only)
    with shown([machine.name for machine in lab.machines]) as progress:
        run(restore(lab, state, name, only, progress, passwords))


def read_lab(inventory: Path, only: tuple[str, ...] = ()) -> tuple[Lab, LabState]:
    """The lab of an inventory and its state; an error if `only` names a machine that it does not have."""
    from kube.errors import KtoolError
    from provision.inventory.read import read
    from provision.lab_state import LabState

    lab = read(inventory)
    unknown = [name for name in only if lab.machine(name) is None]
    if unknown:
        raise KtoolError(
            "no such machine in the inventory",
            found=", ".join(unknown),
            wanted=", ".join(machine.name for machine in lab.machines),
        )
    return lab, LabState.of(lab.name)


def archives_for(bundle: Path | None) -> dict[ArchiveRole, Archive]:
    """What machines get installed: of a bundle's file, or made of this ktool."""
    from provision.bundle.archive import archives
    from provision.lab_state import cache_dir

    return archives(cache_dir(), bundle=bundle, report=lambda line: click.echo(f"· {line}", err=True))


def _push_images(lab: Lab, state: LabState, bundle: Path, only: tuple[str, ...], passwords: Passwords) -> bool:
    """Bring the container images of a bundle to the machines that run pods; False if one does not get there."""
    import tempfile

    from provision.bundle.bundle_file import unpack_images
    from provision.lab.image_push import ids_of, push

    well = True
    with tempfile.TemporaryDirectory(prefix="ktool-images-") as folder:
        for name, archive in unpack_images(bundle, Path(folder)).items():
            pushed = run(push(lab, state, archive, ids_of(archive), only, passwords=passwords))
            well &= not pushed.errors
            for machine, error in pushed.errors.items():
                click.secho(f"✗ {machine}: image {name}: {error}", fg="red", err=True)
    return well


def _print_plan(lab: Lab, actions: list[Action]) -> None:
    if not actions:
        click.echo(f"Lab {lab.name}: nothing to do.")
        return
    width = max(len(action.machine) for action in actions)
    click.echo(f"Lab {lab.name}:")
    for action in actions:
        mark = click.style(action.mark, fg=PLAN_COLOURS[action.mark])
        click.echo(f"  {mark} {action.machine:<{width}}  {action.text}")
    counted = {mark: sum(action.mark == mark for action in actions) for mark in "+~-?"}
    click.echo(
        f"\n{counted['+']} to add, {counted['~']} to change, {counted['-']} to remove, {counted['?']} to look at."
    )


def _print_as_data(result: LabResult) -> None:
    import orjson

    machines = [
        {
            "name": one.name,
            "outcome": one.outcome,
            "did": one.did,
            "errors": [
                {"what": error.what, "found": error.found, "wanted": error.wanted, "mend": error.mend}
                for error in errors_of(one)
            ],
        }
        for one in result.machines
    ]
    found = {
        "changed": result.changed,
        "machines": machines,
        "server": result.server,
        "kubeconfig": str(result.kubeconfig or ""),
        "seconds": round(result.seconds, 2),
        "phases": {name: round(seconds, 2) for name, seconds in result.phases.items()},
    }
    click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def errors_of(one: MachineResult) -> list[Any]:
    """What stopped a machine: all findings of its preflight, or the one error; each with its four parts."""
    return [*(getattr(one.error, "findings", None) or [one.error])] if one.error is not None else []


def print_result(lab: Lab, result: LabResult) -> None:
    """How a run of `create` ended, and what to try next."""
    if result.failed:
        done = [one.name for one in result.machines if one.error is None]
        click.echo(f"\nThe lab {lab.name}: {len(done)} of {len(result.machines)} machines are as they should be.")
        return
    if not result.changed:
        click.echo(f"\nLab {lab.name}: nothing to do ({result.seconds:.1f} s).")
        return
    click.echo(f"\nThe lab {lab.name} is up ({result.seconds:.0f} s).")
    if result.kubeconfig is not None:
        click.echo(f"\nAPI server: {result.server}\nkubeconfig: {result.kubeconfig}\n\nTry next:")
        click.echo(f"  ktool --lab {lab.source} get nodes")
        click.echo(f"  export KUBECONFIG={result.kubeconfig}; kubectl get nodes -o wide")
        click.echo(f"  ktool lab status -i {lab.source}")


def print_findings(result: LabResult) -> None:
    """Each machine that is not as it should be: what was found, what is wanted, what mends it."""
    for one in result.failed:
        click.secho(f"\n✗ {one.name} ({one.outcome})", fg="red", err=True)
        for error in errors_of(one):
            click.echo(f"  {error.what}", err=True)
            for label in ("found", "wanted", "mend"):
                if text := getattr(error, label):
                    click.echo(f"    {label + ':':<8}{text}", err=True)
    click.echo("\nRun the same command again when this has been mended: it does what is missing.", err=True)


def print_upgraded(result: Upgraded) -> None:
    """How an upgrade ended; exit status 1 if it stopped."""
    for name in result.current:
        click.echo(f"{name}: is up to date")
    for name in result.upgraded:
        click.echo(f"{name}: upgraded")
    if result.error is not None:
        click.secho(f"✗ {result.failed}: {result.error}", fg="red", err=True)
        if result.untouched:
            click.echo(f"untouched: {', '.join(result.untouched)}", err=True)
        raise SystemExit(1)


def _print_status(found: LabStatus) -> None:
    from ktool.output.table import print_rows

    rows = [["MACHINE", "PROVIDER", "ROLES", "STATE", "ADDRESS", "NODE", "RUNS", "PROBLEM"]]
    for machine in found.machines:
        node = machine.node.status if machine.node else "-"
        if machine.node and not machine.node.schedulable:
            node += ",SchedulingDisabled"
        rows.append(
            [
                machine.name,
                machine.provider or "-",
                ",".join(machine.roles) or "-",
                machine.state,
                machine.address or "-",
                node,
                ",".join(machine.services) or "-",
                machine.problem or "-",
            ]
        )
    click.echo(f"lab {found.name}, API server {found.server or '-'}\n")
    print_rows(rows)
    for step in found.under_way:
        click.echo(f"under way or interrupted: {step.step} of {step.machine or 'the lab'}", err=True)


def _print_destroyed(lab: Lab, result: Destroyed) -> None:
    for removed in result.removed:
        click.echo(f"removed: {removed}")
    for remains in result.remains:
        click.echo(f"remains: {remains}")
    for name, error in result.errors.items():
        click.secho(f"✗ {name or 'lab'}: {error}", fg="red", err=True)
    if result.errors:
        click.echo("Not all of it could be removed; the same command does the rest.", err=True)
    else:
        click.echo(f"Nothing of the lab {lab.name} is left.")
