"""`ktool logs`"""

from __future__ import annotations

import sys

import click

from ktool.commands import options
from ktool.session import Session, pass_session, run


@click.command("logs")
@click.argument("pod")
@click.option("-c", "--container", default="", help="Container [default: the pod's only or first one].")
@options.namespace
@click.option("-f", "--follow", is_flag=True, help="Go on as the container writes.")
@click.option("--tail", type=int, help="Only the last lines.")
@click.option("--since", type=int, help="Only what is not older than so many seconds.")
@click.option("-p", "--previous", is_flag=True, help="The container that ended before the present one.")
@click.option("--timestamps", is_flag=True, help="Each line with its time.")
@pass_session
def command(
    session: Session,
    pod: str,
    container: str,
    namespace: str,
    follow: bool,
    tail: int | None,
    since: int | None,
    previous: bool,
    timestamps: bool,
) -> None:
    """Print what a pod's containers wrote."""
    flags = {"follow": follow, "previous": previous, "timestamps": timestamps}
    values = {"container": container, "tailLines": tail, "sinceSeconds": since}
    query = [(k, "true") for k, v in flags.items() if v] + [
        (k, str(v)) for k, v in values.items() if v not in (None, "")
    ]
    run(_logs(session, pod.removeprefix("pod/"), namespace, container, query))


async def _logs(session: Session, pod: str, namespace: str, container: str, query: list[tuple[str, str]]) -> None:
    from kube.kinds import known
    from kube.models import core_v1

    where = session.namespace(namespace)
    async with session.client() as client:
        if not container:
            found = await client.get(core_v1.Pod, pod, namespace=where)
            containers = found.spec.containers if found.spec else []
            if len(containers) > 1:
                names = ", ".join(c.name or "" for c in containers)
                click.echo(f"the first of these containers: {names} (choose with -c)", err=True)
            if containers:
                query.append(("container", containers[0].name or ""))
        path = known("", "v1", "pods").path(where, pod, "log")
        response = await client.raw("GET", path, query=query, stream=True)
        try:
            if response.stream is not None:
                async for chunk in response.stream:
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.buffer.flush()
        finally:
            await response.close()
