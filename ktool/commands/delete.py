"""`ktool delete`"""

from __future__ import annotations

import asyncio
from typing import Any

import click

from ktool.commands import options
from ktool.session import Session, pass_session, run

POLICIES = {"background": "Background", "foreground": "Foreground", "orphan": "Orphan"}


@click.command("delete")
@click.argument("resource", required=False)
@click.argument("names", nargs=-1)
@options.filenames
@options.namespace
@options.selector
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the objects are gone.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait.")
@click.option("--grace-period", type=int, help="Seconds that pods get to end (0: none).")
@click.option("--cascade", type=click.Choice(sorted(POLICIES)), default="background", show_default=True)
@click.option("--ignore-not-found", is_flag=True, help="What is not there is no error.")
@pass_session
def command(session: Session, /, **arguments: Any) -> None:
    """Delete objects: RESOURCE NAME..., KIND/NAME..., RESOURCE -l SELECTOR, or -f MANIFEST."""
    if run(_delete(session, **arguments)):
        raise SystemExit(1)


async def _delete(
    session: Session,
    resource: str | None,
    names: tuple[str, ...],
    filenames: tuple[str, ...],
    namespace: str,
    selector: str,
    wait: bool,
    timeout: float,
    grace_period: int | None,
    cascade: str,
    ignore_not_found: bool,
) -> int:
    from kube.discovery import Discovery
    from kube.dynamic import DynamicClient
    from kube.status import ApiError

    options: dict[str, Any] = {"propagationPolicy": POLICIES[cascade]}
    if grace_period is not None:
        options["gracePeriodSeconds"] = grace_period
    failed = 0
    async with session.client() as client:
        discovery, dynamic = await Discovery.load(client), DynamicClient(client)
        targets = await _targets(session, discovery, dynamic, resource, names, filenames, namespace, selector)
        gone = []
        for kind, where, name in targets:
            title = f'{kind.singular}{f".{kind.group}" if kind.group else ""} "{name}"'
            try:
                await dynamic.delete(kind, name, namespace=where, options=options)
            except ApiError as error:
                if error.code == 404 and (ignore_not_found or filenames):
                    continue
                failed += 1
                click.secho(f"error: {error.message}", fg="red", err=True)
                continue
            click.echo(f"{title} deleted")
            gone.append((kind, where, name))
        if wait:
            await _wait(dynamic, gone, timeout)
    return failed


async def _targets(
    session: Session,
    discovery: Any,
    dynamic: Any,
    resource: str | None,
    names: tuple[str, ...],
    filenames: tuple[str, ...],
    namespace: str,
    selector: str,
) -> list[tuple[Any, str, str]]:
    """(kind, namespace, name) of everything to delete; from manifests in reverse order."""
    where = session.namespace(namespace)
    found: list[tuple[Any, str, str]] = []
    if filenames:
        from ktool.manifests import read

        for manifest in reversed(read(filenames)):
            served = discovery.by_gvk(manifest.object["apiVersion"], manifest.object["kind"])
            if served is not None:
                metadata = manifest.object.get("metadata") or {}
                own = (metadata.get("namespace") or where) if served.kind.namespaced else ""
                found.append((served.kind, own, metadata.get("name", "")))
        return found
    if resource is None:
        raise click.UsageError("say what to delete: RESOURCE NAME, KIND/NAME or -f MANIFEST")
    if "/" in resource:
        pairs = [item.partition("/")[::2] for item in (resource, *names)]
    elif selector:
        kind = discovery.resolve(resource).kind
        listed = await dynamic.list(
            kind, namespace=where if kind.namespaced else "", query=[("labelSelector", selector)]
        )
        pairs = [(resource, item["metadata"]["name"]) for item in listed.get("items") or ()]
    elif names:
        pairs = [(resource, name) for name in names]
    else:
        raise click.UsageError(f"say which {resource}: by name, or with -l SELECTOR")
    for word, name in pairs:
        kind = discovery.resolve(word).kind
        found.append((kind, where if kind.namespaced else "", name))
    return found


async def _wait(dynamic: Any, targets: list[tuple[Any, str, str]], timeout: float) -> None:
    from kube.errors import KtoolError
    from kube.status import ApiError

    try:
        async with asyncio.timeout(timeout):
            for kind, where, name in targets:
                pause = 0.05
                while True:
                    try:
                        await dynamic.get(kind, name, namespace=where)
                    except ApiError as error:
                        if error.code == 404:
                            break
                        raise
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 1.0)
    except TimeoutError:
        raise KtoolError(
            f"some objects are still there after {timeout:g} s",
            mend="look at their finalizers and at pods that end slowly; --no-wait does not wait",
        ) from None
