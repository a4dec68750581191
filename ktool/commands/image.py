"""`ktool image`"""

from __future__ import annotations

from pathlib import Path

import click


@click.group("image")
def command() -> None:
    """Side-load images into the machine's engine, without a registry."""


@command.command("load")
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--docker-socket",
    type=click.Path(path_type=Path),
    default=Path("/var/run/docker.sock"),
    show_default=True,
    help="Where the engine answers.",
)
def load(archive: Path, docker_socket: Path) -> None:
    """Load an image archive (`docker save`, `skopeo copy ... docker-archive:`) into this machine's engine.

    Pods use it with imagePullPolicy IfNotPresent or Never.
    """
    from provision.images import load_image

    for reference in load_image(archive, socket=docker_socket):
        click.echo(f"loaded {reference}")


@command.command("list")
@click.option(
    "--docker-socket",
    type=click.Path(path_type=Path),
    default=Path("/var/run/docker.sock"),
    show_default=True,
    help="Where the engine answers.",
)
def list_images(docker_socket: Path) -> None:
    """List the images that this machine's engine has."""
    from ktool.output.table import print_rows
    from provision.images import images

    rows = [[i.reference, i.id[:19], f"{i.size / 1e6:.1f} MB"] for i in images(socket=docker_socket)]
    print_rows([["IMAGE", "ID", "SIZE"], *sorted(rows)])
