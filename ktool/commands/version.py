"""`ktool version`"""

from __future__ import annotations

import importlib.metadata

import click

from ktool.session import Session, pass_session, run


@click.command("version")
@click.option("--client", "client_only", is_flag=True, help="Only this tool's own version.")
@pass_session
def command(session: Session, client_only: bool) -> None:
    """Print versions of ktool and of the server."""
    click.echo(f"ktool {importlib.metadata.version('ktool')}")
    if not client_only:
        click.echo(run(_server(session)))


async def _server(session: Session) -> str:
    import orjson

    async with session.client() as client:
        found = orjson.loads((await client.raw("GET", "/version")).body)
    return f"server {found['gitVersion']}"
