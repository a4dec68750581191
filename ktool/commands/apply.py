"""`ktool apply`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ktool.commands import options
from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from ktool.manifests import Manifest
    from kube.discovery import Discovery
    from kube.dynamic import DynamicClient


@click.command("apply")
@options.filenames
@options.namespace
@click.option("--dry-run", is_flag=True, help="Let the server check everything and change nothing.")
@pass_session
def command(session: Session, filenames: tuple[str, ...], namespace: str, dry_run: bool) -> None:
    """Create or change objects as manifests want them.

    What was applied last is remembered in the same annotation as kubectl's, so the two can be mixed.
    """
    from ktool.manifests import read

    if not filenames:
        raise click.UsageError("name at least one manifest with -f")
    if run(apply_all(session, read(filenames), namespace, dry_run=dry_run)):
        raise SystemExit(1)


async def apply_all(session: Session, manifests: list[Manifest], namespace: str, *, dry_run: bool = False) -> int:
    """Apply objects in their order, telling what became of each; the number of those that failed."""
    from kube.discovery import Discovery
    from kube.dynamic import DynamicClient
    from kube.status import ApiError

    failed = 0
    async with session.client() as client:
        discovery = await Discovery.load(client)
        dynamic = DynamicClient(client)
        for manifest in manifests:
            where = (manifest.object.get("metadata") or {}).get("namespace") or session.namespace(namespace)
            try:
                told = await _apply(dynamic, discovery, manifest, where, dry_run=dry_run)
            except ApiError as error:
                failed += 1
                click.secho(f"error: {manifest.source}: {error.message}", fg="red", err=True)
                for cause in error.causes if len(error.causes) > 1 else ():
                    click.echo(f"  {cause.get('field')}: {cause.get('message')}", err=True)
                continue
            click.echo(told)
    return failed


async def _apply(
    dynamic: DynamicClient, discovery: Discovery, manifest: Manifest, namespace: str, *, dry_run: bool
) -> str:
    from kube import schema
    from kube.client import PatchType
    from kube.errors import KtoolError
    from kube.patch import last_applied
    from kube.status import ApiError

    obj: dict[str, Any] = manifest.object
    served = discovery.by_gvk(obj["apiVersion"], obj["kind"])
    if served is None:
        raise KtoolError(
            f"{manifest.source}: the server has no kind {obj['kind']!r} in {obj['apiVersion']!r}",
            wanted="a kind that it serves (`kubectl api-resources`)",
            mend="check the spelling of apiVersion and kind",
        )
    kind = served.kind
    name = (obj.get("metadata") or {}).get("name", "")
    if not name:
        raise KtoolError(f"{manifest.source}: metadata.name is missing", wanted="a name: apply finds objects by it")
    where = namespace if kind.namespaced else ""
    if where:
        # as kubectl records it, so that its applies and ours can be mixed
        obj = {**obj, "metadata": {**obj["metadata"], "namespace": where}}
    title = f"{kind.singular}{f'.{kind.group}' if kind.group else ''}/{name}"
    suffix = " (dry run)" if dry_run else ""
    query = [("fieldManager", "ktool-apply"), ("fieldValidation", "Strict"), *([("dryRun", "All")] if dry_run else [])]
    try:
        current = await dynamic.get(kind, name, namespace=where)
    except ApiError as error:
        if error.code != 404:
            raise
        await dynamic.create(kind, last_applied.annotated(obj), namespace=where, query=query)
        return f"{title} created{suffix}"
    known = schema.load()
    has_schema = known.definition_name(kind.group, kind.version, kind.kind) is not None
    node = known.kind(kind.group, kind.version, kind.kind) if has_schema else None
    patch = last_applied.plan(obj, current, node)
    if not patch:
        return f"{title} unchanged{suffix}"
    patch_type = PatchType.STRATEGIC if node is not None else PatchType.MERGE
    after = await dynamic.patch(kind, name, patch, namespace=where, patch_type=patch_type, query=query)
    same = after["metadata"].get("resourceVersion") == current["metadata"].get("resourceVersion")
    return f"{title} {'unchanged' if same and not dry_run else 'configured'}{suffix}"
