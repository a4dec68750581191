"""`ktool get`"""

from __future__ import annotations

from typing import Any

import click

from ktool.commands import options
from ktool.session import Session, pass_session, run

OUTPUTS = ("wide", "yaml", "json", "name")


@click.command("get")
@click.argument("resource")
@click.argument("names", nargs=-1)
@options.namespace
@options.all_namespaces
@options.selector
@click.option("--field-selector", default="", help="Field selector, such as status.phase=Running.")
@click.option("-o", "--output", type=click.Choice(OUTPUTS), help="What to print [default: a table].")
@click.option("-w", "--watch", is_flag=True, help="Go on printing changes.")
@click.option("--show-labels", is_flag=True, help="Add a column with the labels.")
@click.option("--no-headers", is_flag=True, help="Leave the table's header out.")
@pass_session
def command(session: Session, /, **arguments: Any) -> None:
    """Show objects, as tables or as YAML, JSON or names.

    RESOURCE is a name that the server knows (pods, po, deploy), several with commas, `all`, or KIND/NAME.
    """
    run(_get(session, **arguments))


async def _get(
    session: Session,
    resource: str,
    names: tuple[str, ...],
    namespace: str,
    all_namespaces: bool,
    selector: str,
    field_selector: str,
    output: str | None,
    watch: bool,
    show_labels: bool,
    no_headers: bool,
) -> None:
    from kube.discovery import Discovery
    from kube.dynamic import DynamicClient

    query = [(k, v) for k, v in (("labelSelector", selector), ("fieldSelector", field_selector)) if v]
    where = "" if all_namespaces else session.namespace(namespace)
    async with session.client() as client:
        discovery = await Discovery.load(client)
        targets = _targets(discovery, resource, names)
        dynamic = DynamicClient(client)
        if watch:
            if len(targets) != 1 or output not in (None, "wide"):
                raise click.UsageError("--watch follows one resource, as a table")
            kind, name = targets[0]
            if name:
                query.append(("fieldSelector", f"metadata.name={name}"))
            await _watch(dynamic, kind, where, query, all_namespaces, output == "wide")
            return
        if output in ("yaml", "json", "name"):
            found = [await _objects(dynamic, kind, where, name, query) for kind, name in targets]
            _print_objects([o for part in found for o in part], output, single=bool(names) and len(targets) == 1)
            return
        await _print_tables(dynamic, targets, where, query, all_namespaces, output == "wide", show_labels, no_headers)


def _targets(discovery: Any, resource: str, names: tuple[str, ...]) -> list[tuple[Any, str]]:
    """(kind, name or empty) for everything that was asked for."""
    if "/" in resource:
        found = []
        for item in (resource, *names):
            word, _, name = item.partition("/")
            if not name:
                raise click.UsageError(f"{item!r}: with KIND/NAME every argument has this form")
            found.append((discovery.resolve(word).kind, name))
        return found
    kinds = []
    for word in resource.split(","):
        category = discovery.category(word)
        kinds += [r.kind for r in category] if category else [discovery.resolve(word).kind]
    if names and len(kinds) > 1:
        raise click.UsageError("names need one resource; several are written as KIND/NAME")
    return [(kind, name) for kind in kinds for name in names or ("",)]


async def _objects(
    dynamic: Any, kind: Any, where: str, name: str, query: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    if name:
        return [await dynamic.get(kind, name, namespace=where)]
    found = await dynamic.list(kind, namespace=where, query=query)
    return [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in found.get("items") or ()]


def _print_objects(objects: list[dict[str, Any]], output: str, *, single: bool) -> None:
    if output == "name":
        for obj in objects:
            group = obj["apiVersion"].partition("/")[0] if "/" in obj["apiVersion"] else ""
            kind = obj["kind"].lower() + (f".{group}" if group else "")
            click.echo(f"{kind}/{obj['metadata']['name']}")
        return
    document = objects[0] if single else {"apiVersion": "v1", "kind": "List", "items": objects}
    if output == "json":
        import orjson

        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        return
    import yaml

    click.echo(yaml.safe_dump(document, sort_keys=False, default_flow_style=False), nl=False)


async def _print_tables(
    dynamic: Any,
    targets: list[tuple[Any, str]],
    where: str,
    query: list[tuple[str, str]],
    namespaces: bool,
    wide: bool,
    labels: bool,
    no_headers: bool,
) -> None:
    from ktool.output.table import print_rows, rows_of

    printed = 0
    for kind, name in targets:
        table = await dynamic.table(kind, namespace=where, name=name, query=[] if name else query)
        rows = rows_of(table, wide=wide, namespaces=namespaces and kind.namespaced, labels=labels)
        if len(rows) == 1:
            continue
        several = len({k.plural for k, _ in targets}) > 1
        if several:
            column = 1 if namespaces and kind.namespaced else 0
            rows = [rows[0], *([*r[:column], f"{kind.singular}/{r[column]}", *r[column + 1 :]] for r in rows[1:])]
        if printed and several:
            click.echo()
        print_rows(rows, header=not no_headers and not (printed and not several))
        printed += 1
    if not printed:
        click.echo(f"no resources found{f' in namespace {where}' if where else ''}", err=True)


async def _watch(
    dynamic: Any, kind: Any, where: str, query: list[tuple[str, str]], namespaces: bool, wide: bool
) -> None:
    from ktool.output.table import rows_of

    widths: list[int] = []

    def show(rows: list[list[str]]) -> None:
        for row in rows:
            for position, cell in enumerate(row):
                if position == len(widths):
                    widths.append(0)
                widths[position] = max(widths[position], len(cell) + 3)
            click.echo("".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=False)).rstrip())

    table = await dynamic.table(kind, namespace=where, query=query)
    own = namespaces and kind.namespaced
    show(rows_of(table, wide=wide, namespaces=own))
    columns = table.get("columnDefinitions")
    version = (table.get("metadata") or {}).get("resourceVersion", "")
    async for event in dynamic.watch(kind, namespace=where, query=[*query, ("resourceVersion", version)], table=True):
        if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
            change = {**event["object"], "columnDefinitions": event["object"].get("columnDefinitions") or columns}
            show(rows_of(change, wide=wide, namespaces=own)[1:])
