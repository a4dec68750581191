"""`ktool tunnel`"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import NoReturn

import click

from ktool.session import Session, pass_session

LOOK_SECONDS = 0.5


@click.command("tunnel", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The tunnel's port here [default: a free one].")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@pass_session
def command(session: Session, port: int, command: tuple[str, ...]) -> None:
    """Keep a way to a cluster through SSH open, for kubectl and others.

    Alone it prints a kubeconfig's path and stays until Ctrl-C; with a COMMAND it runs that with KUBECONFIG set, and
    ends with it. Everything goes through: logs -f, exec, port-forward.

    \b
    ktool --via ssh://admin@master tunnel
    ktool --via ssh://admin@master tunnel -- kubectl exec -it web-0 -- sh
    ktool --lab inventories/lab.yml tunnel -- kubectl get pods -A
    """
    if not session.via and not session.lab:
        raise click.UsageError("say where to: ktool --via ssh://USER@HOST tunnel, or ktool --lab INVENTORY tunnel")
    signal.signal(signal.SIGTERM, _terminate)
    tunnel = session.tunnel(local_port=port)
    if command:
        environment = os.environ | {"KUBECONFIG": str(tunnel.kubeconfig)}
        try:
            sys.exit(subprocess.call(command, env=environment))
        except FileNotFoundError as error:
            from kube.errors import KtoolError

            raise KtoolError(f"there is no command {command[0]!r}", wanted="a command in $PATH") from error
    click.echo(f"export KUBECONFIG={tunnel.kubeconfig}")
    click.echo(f"{tunnel.server}; until Ctrl-C", err=True)
    try:
        while tunnel.active:
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        return
    from kube.errors import KtoolError

    raise KtoolError("the SSH connection was lost", wanted="one that stands", mend="call `ktool tunnel` again")


def _terminate(number: int, frame: object) -> NoReturn:
    """As at Ctrl-C: what is open is closed, and the kubeconfig removed."""
    raise KeyboardInterrupt
