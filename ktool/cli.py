"""The root command: global options, and commands that are imported only when they are used.

`ktool --help` must answer at once, so the list of commands with their one-line helps stands here and everything heavy
(HTTP, Docker, psutil) is imported by the command that needs it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

SECTIONS: dict[str, dict[str, str]] = {
    "The machine": {
        "up": "Bring this machine up as a cluster: Docker Engine, master, agent",
        "join": "Make this machine a node of a cluster whose master runs elsewhere",
        "preload": "Load agent and master ahead: they wait for `up` or `join`",
        "down": "Remove all of it again, and show that nothing is left",
        "reset": "The same on any machine of a lab, and what remains there afterwards",
        "status": "Nodes with their real CPU and memory, the roles' health, pods",
    },
    "The cluster": {
        "get": "Show objects, as tables or as YAML, JSON or names",
        "apply": "Create or change objects as manifests want them",
        "delete": "Delete objects, by name or as manifests name them",
        "logs": "Print what a pod's containers wrote",
    },
    "A lab of machines": {
        "lab": "Machines and the cluster on them, from an Ansible inventory",
        "node": "Add, remove, replace, drain, upgrade a node; ask why it is not Ready",
        "inventory": "Show and check inventories, compare them with what there is",
    },
    "Access and images": {
        "image": "Side-load images into the machine's engine, without a registry",
        "bundle": "One file with everything that a lab's machines get",
        "kubeconfig": "Print the administrator's kubeconfig, or where it is",
        "tunnel": "Keep a way to a cluster through SSH open, for kubectl and others",
        "certs": "Show certificates and how long they are good",
        "token": "Bootstrap tokens and join files, by which machines join",
        "etcd": "The store that several masters share: its members",
        "backup": "Write the cluster's state and keys into a file, on a master",
        "restore": "Have this machine's master serve what a backup holds",
    },
    "This tool": {
        "completion": "Print the shell's completion script",
        "version": "Print versions of ktool and of the server",
    },
}


# What concerns this machine, or says by an inventory what it concerns: --via and --lab would be ignored there.
ON_THIS_MACHINE = frozenset(
    {"up", "join", "preload", "down", "reset", "etcd", "backup", "restore", "image", "lab", "bundle", "certs"}
)


class LazyGroup(click.Group):
    """A group whose commands live in `ktool/commands/<name>.py`, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"ktool.commands.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([*commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"there is no command {args[0]!r}.{hint}", ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        from ktool.output.failure import reported

        with reported(verbose=bool(ctx.params.get("verbose"))):
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Which cluster to talk to [default: $KUBECONFIG, this machine's cluster, ~/.kube/config].",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/lib/ktool"),
    show_default=True,
    help="Where this machine's cluster keeps its state.",
)
@click.option(
    "--via",
    default="",
    metavar="ssh://[USER@]HOST[:PORT]",
    help="Reach the cluster through SSH to its master; --kubeconfig and --data-dir are paths there. No port is opened.",
)
@click.option(
    "--lab",
    default="",
    metavar="INVENTORY",
    help="The cluster of the lab that was made from this inventory (or has this name).",
)
@click.option("-v", "--verbose", is_flag=True, help="Tell what goes on; show tracebacks of errors.")
@click.pass_context
def cli(ctx: click.Context, kubeconfig: Path | None, data_dir: Path, via: str, lab: str, verbose: bool) -> None:
    """From bare machines to a running cluster that speaks the Kubernetes API.

    \b
    First steps:
      ktool up --example        this machine becomes a cluster and runs a sample application
      ktool status              what there is, at a glance
      ktool get pods -A         objects, as kubectl would show them
      ktool down                everything is gone again

    kubectl works as well: export KUBECONFIG=$(ktool kubeconfig --path)
    """
    import logging

    from ktool.session import Session

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if via and lab:
        raise click.UsageError("--via or --lab, not both")
    if lab and kubeconfig is not None:
        raise click.UsageError("--lab or --kubeconfig, not both")
    if (via or lab) and ctx.invoked_subcommand in ON_THIS_MACHINE:
        option = "--via" if via else "--lab"
        raise click.UsageError(f"`ktool {ctx.invoked_subcommand}` does not work through {option}")
    session = Session(kubeconfig=kubeconfig, data_dir=data_dir.absolute(), via=via, lab=lab)
    ctx.obj = session
    ctx.call_on_close(session.close)
