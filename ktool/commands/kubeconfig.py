"""`ktool kubeconfig`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ktool.session import Session, pass_session, run


@click.command("kubeconfig")
@click.option("--path", "only_path", is_flag=True, help="Print where it is, not what is in it.")
@click.option("--server", default="", metavar="URL", help="Print it for use elsewhere, with this URL of the server.")
@click.option("--external", is_flag=True, help="The same, with the URL that the cluster tells other machines.")
@pass_session
def command(session: Session, /, only_path: bool, server: str, external: bool) -> None:
    """Print the administrator's kubeconfig, or where it is.

    \b
    export KUBECONFIG=$(ktool kubeconfig --path)
    kubectl get nodes
    ktool kubeconfig --external > for-my-workstation.kubeconfig
    """
    import yaml

    from kube.kubeconfig import load

    if (only_path and (server or external)) or (server and external):
        raise click.UsageError("--path, --server and --external exclude each other")
    path = session.kubeconfig_path()
    config = load(path)
    if server or external:
        url = server or run(_told(session))
        _check(session, url)
        click.echo(yaml.safe_dump(with_server(config, url), sort_keys=False), nl=False)
    else:
        click.echo(path if only_path else path.read_text(), nl=only_path)


def with_server(config: dict[str, Any], url: str) -> dict[str, Any]:
    """The kubeconfig with another URL for the cluster of its current context."""
    contexts = {entry.get("name"): entry.get("context") or {} for entry in config.get("contexts") or ()}
    chosen = contexts.get(config.get("current-context"), {}).get("cluster")
    clusters = [
        {**entry, "cluster": {**entry["cluster"], "server": url}} if entry.get("name") == chosen else entry
        for entry in config.get("clusters") or ()
    ]
    return {**config, "clusters": clusters}


async def _told(session: Session) -> str:
    from kube import cluster_info

    async with session.client() as client:
        return (await cluster_info.fetch(client)).server


def _check(session: Session, url: str) -> None:
    """KtoolError unless the API server's certificate, where this machine has it, is good for the URL."""
    from urllib.parse import urlsplit

    from kube import pki
    from kube.errors import KtoolError

    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise KtoolError("this is no URL of an API server", found=url, wanted="such as https://192.0.2.1:6443")
    certificate: Path = session.data_dir / "pki" / "apiserver.crt"
    if session.kubeconfig_path() != session.local_kubeconfig or not certificate.is_file():
        return
    names = pki.server_names(pki.load_cert(certificate))
    if parts.hostname.lower() not in names:
        raise KtoolError(
            "the API server's certificate is not good for this address",
            found=", ".join(sorted(names)),
            wanted=parts.hostname,
            mend=f"ktool up --tls-san {parts.hostname}, with the options of before",
        )
