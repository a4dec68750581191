"""`ktool image`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ktool.commands import options
from ktool.session import Session, pass_session

if TYPE_CHECKING:
    from provision.lab.open_lab import Passwords

DEFAULT_SOCKET = Path("/var/run/docker.sock")

docker_socket_option = click.option(
    "--docker-socket",
    type=click.Path(path_type=Path),
    help="Where the engine answers [default: this machine's agent's engine, else /var/run/docker.sock].",
)


@click.group("image")
def command() -> None:
    """Side-load images into the machine's engine, without a registry."""


@command.command("load")
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path))
@docker_socket_option
@pass_session
def load(session: Session, archive: Path, docker_socket: Path | None) -> None:
    """Load an image archive (`docker save`, `skopeo copy ... docker-archive:`) into this machine's engine.

    Pods use it with imagePullPolicy IfNotPresent or Never.
    """
    from provision.images import load_image

    for reference in load_image(archive, socket=docker_socket or engine_socket(session)):
        click.echo(f"loaded {reference}")


@command.command("list")
@docker_socket_option
@pass_session
def list_images(session: Session, docker_socket: Path | None) -> None:
    """List the images that this machine's engine has."""
    from ktool.output.table import print_rows
    from provision.images import images

    found = images(socket=docker_socket or engine_socket(session))
    rows = [[i.reference, i.id[:19], f"{i.size / 1e6:.1f} MB"] for i in found]
    print_rows([["IMAGE", "ID", "SIZE"], *sorted(rows)])


@command.command("push")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "-i",
    "--inventory",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="The lab's inventory: a file or folder in Ansible's format.",
)
@click.option("-l", "--limit", "only", multiple=True, metavar="MACHINE", help="Only these machines.")
@docker_socket_option
@options.passwords
@pass_session
def push(
    session: Session,
    images: tuple[str, ...],
    inventory: Path,
    only: tuple[str, ...],
    docker_socket: Path | None,
    passwords: Passwords,
) -> None:
    """Bring images to all machines of a lab, over SSH.

    IMAGE is one of this machine's engine, or an archive (`docker save`). Machines that have it already are left alone.
    """
    from ktool.commands.lab import read_lab
    from ktool.session import run
    from provision.lab.image_push import push as push_to
    from provision.lab.image_push import saved

    lab, state = read_lab(inventory, only)
    failed = False
    for image in images:
        made = None
        archive, ids = Path(image), dict[str, str]()
        try:
            if not archive.is_file():
                archive, ids = saved(image, socket=docker_socket or engine_socket(session))
                made = archive
            result = run(
                push_to(lab, state, archive, ids, only, lambda line: click.echo(f"· {line}", err=True), passwords)
            )
        finally:
            if made is not None:
                made.unlink(missing_ok=True)
        for name, text in result.did.items():
            click.echo(f"{name}: {text}")
        for name, error in result.errors.items():
            click.secho(f"✗ {name}: {error}", fg="red", err=True)
        failed |= bool(result.errors)
    raise SystemExit(1 if failed else 0)


def engine_socket(session: Session) -> Path:
    """Socket of the engine that runs this machine's pods, as its agent noted it down."""
    from agent import record

    try:
        known = record.read(session.data_dir / "agent")
    except PermissionError:
        known = None
    return Path(known.docker_socket) if known is not None and known.docker_socket else DEFAULT_SOCKET
