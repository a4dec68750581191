"""`ktool kubeconfig`"""

from __future__ import annotations

import click

from ktool.session import Session, pass_session


@click.command("kubeconfig")
@click.option("--path", "only_path", is_flag=True, help="Print where it is, not what is in it.")
@pass_session
def command(session: Session, only_path: bool) -> None:
    """Print the administrator's kubeconfig, or where it is.

    \b
    export KUBECONFIG=$(ktool kubeconfig --path)
    kubectl get nodes
    """
    from kube.kubeconfig import load

    path = session.kubeconfig_path()
    load(path)
    click.echo(path if only_path else path.read_text(), nl=only_path)
