"""`ktool bundle`"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from ktool.commands.image import docker_socket_option, engine_socket
from ktool.session import Session, pass_session


@click.group("bundle")
def command() -> None:
    """One file with everything that a lab's machines get: for places without internet, and without this ktool."""


@command.command("create")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write."
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="REF|FILE",
    help="A container image to take along: its name in this machine's engine, or a file. May be repeated.",
)
@docker_socket_option
@pass_session
def create(session: Session, output: Path, images: tuple[str, ...], docker_socket: Path | None) -> None:
    """Write the runtimes of masters and workers, playbooks and roles, and container images into one file.

    The runtimes are made of this ktool and the packages installed beside it; nothing is downloaded.
    """
    from provision import ansible
    from provision.bundle import bundle_file
    from provision.bundle.archive import archives
    from provision.lab_state import cache_dir

    def report(line: str) -> None:
        click.echo(f"· {line}", err=True)

    with tempfile.TemporaryDirectory(prefix="ktool-bundle-") as folder:
        saved = []
        if images:
            saved = bundle_file.save_images(images, Path(folder), socket=docker_socket or engine_socket(session))
        index = bundle_file.create(
            output.absolute(),
            archives=archives(cache_dir(), report=report),
            images=saved,
            folders={"ansible": ansible.CONTENT},
        )
    click.echo(f"{output}: {output.stat().st_size / 1e6:.0f} MB, {len(index.files)} files")


@command.command("show")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--check", is_flag=True, help="Read all of it and compare it with its checksums.")
def show(file: Path, check: bool) -> None:
    """Tell what is in a bundle."""
    from ktool.output.table import print_rows
    from provision.bundle import bundle_file

    index = bundle_file.verify(file) if check else bundle_file.read_index(file)
    sizes = {entry.name: entry.size for entry in index.files}
    rows = [["KIND", "NAME", "FOR", "SIZE"]]
    for one in index.manifests:
        size = sizes.get(f"runtimes/{one.file_name}", 0)
        rows.append([f"{one.role} runtime", one.key, f"{one.python} {one.arch}", f"{size / 1e6:.1f} MB"])
    rows += [["image", name, "", f"{sizes[where] / 1e6:.1f} MB"] for name, where in index.images.items()]
    playbooks = sorted(name for name in sizes if name.startswith("ansible/") and name.count("/") == 1)
    rows += [["playbook", name.removeprefix("ansible/"), "", ""] for name in playbooks if name.endswith(".yml")]
    click.echo(
        f"made by ktool {index.version}, {len(index.files)} files" + (", all as they should be" if check else "")
    )
    print_rows(rows)
