"""`ktool status`"""

from __future__ import annotations

from typing import Any

import click

from ktool.session import Session, pass_session, run

# roles that have a condition of their own
ROLE_CONDITIONS = {"proxy": "ServiceProxyReady", "routes": "PodRoutesReady"}
# conditions of a Node that are well when they are true; all others tell of trouble then
GOOD = ("Ready", *ROLE_CONDITIONS.values())


@click.command("status")
@click.option("-o", "--output", type=click.Choice(("json",)), help="The same as data.")
@pass_session
def command(session: Session, output: str | None) -> None:
    """Show nodes with their real CPU and memory, the roles' health, and pods.

    Exit status 1 when something is not well.
    """
    found = run(_status(session))
    if output == "json":
        import orjson

        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    else:
        _print(found)
    if not found["healthy"]:
        raise SystemExit(1)


async def _status(session: Session) -> dict[str, Any]:
    """Everything that `status` shows, as plain data."""
    from kube.dynamic import DynamicClient
    from kube.kinds import known
    from kube.models import core_v1

    async with session.client() as client:
        dynamic = DynamicClient(client)
        version = await _version(client)
        checks = await _checks(client)
        nodes = (await client.list(core_v1.Node)).items
        pods = (await client.list(core_v1.Pod)).items
        table = await dynamic.table(known("", "v1", "pods"))
    found: dict[str, Any] = {
        "server": version,
        "master": checks,
        "nodes": [_node(node, pods) for node in sorted(nodes, key=lambda n: n.metadata.name or "")],
        "pods": _pods(table),
    }
    well = [n["ready"] and not any(n["roles"].values()) for n in found["nodes"]]
    found["healthy"] = all(checks.values()) and bool(well) and all(well)
    return found


async def _version(client: Any) -> str:
    import orjson

    version: str = orjson.loads((await client.raw("GET", "/version")).body)["gitVersion"]
    return version


async def _checks(client: Any) -> dict[str, bool]:
    """The master's checks by name, from /readyz?verbose."""
    from kube.transport import Request

    # an answer that says "not ready" is no error here: it names the checks that failed
    response = await client.transport.send(Request("GET", "/readyz", [("verbose", "true")]))
    text = response.body.decode()
    found = {}
    for line in text.splitlines():
        if line.startswith(("[+]", "[-]")):
            found[line[3:].split(" ", 1)[0]] = line.startswith("[+]")
    return found or {"readyz": "ok" in text}


def _node(node: Any, pods: list[Any]) -> dict[str, Any]:
    """A node as status tells it; amounts in cores and bytes."""
    from kube import objects, quantity

    status = node.status
    ready = objects.condition(status.conditions, "Ready") if status else None
    own = [p for p in pods if p.spec and p.spec.nodeName == node.metadata.name]
    running = [p for p in own if p.status and p.status.phase == "Running"]
    capacity = status.capacity if status else {}
    prefix = "ktool.io/"
    measured = {k.removeprefix(prefix): v for k, v in node.metadata.annotations.items() if k.startswith(prefix)}
    conditions = [c.type for c in (status.conditions if status else ()) if c.type not in GOOD and c.status == "True"]
    return {
        "name": node.metadata.name,
        "ready": ready is not None and ready.status == "True",
        "message": (ready.message or "") if ready else "has not reported yet",
        "pressure": conditions,
        "unschedulable": bool(node.spec and node.spec.unschedulable),
        "cpu": float(quantity.parse(capacity.get("cpu", "0"))),
        "memory": quantity.value(capacity.get("memory", "0")),
        "measured": measured,
        "pods": {"all": len(own), "running": len(running)},
        "roles": _roles(
            ready,
            {role: objects.condition(status.conditions if status else (), c) for role, c in ROLE_CONDITIONS.items()},
        ),
    }


def _roles(ready: Any, others: dict[str, Any]) -> dict[str, str]:
    """What is wrong with each role of an agent (empty: nothing), from its Node's conditions; `others` by role."""
    if ready is None or ready.status == "Unknown":
        silent = "has not reported" if ready is None else "has stopped reporting"
        return dict.fromkeys(("kubelet", "runtime", *others), silent)
    roles = {"kubelet": "", "runtime": "" if ready.status == "True" else ready.message or "not ready"}
    for role, condition in others.items():
        if condition is not None:
            roles[role] = "" if condition.status == "True" else condition.message or "failing"
    return roles


def _pods(table: dict[str, Any]) -> list[dict[str, Any]]:
    names = [c["name"].lower() for c in table.get("columnDefinitions") or ()]
    found = []
    for row in table.get("rows") or ():
        cells = dict(zip(names, row["cells"], strict=False))
        metadata = (row.get("object") or {}).get("metadata") or {}
        found.append(
            {
                "namespace": metadata.get("namespace", ""),
                **{field: cells.get(field) for field in ("name", "ready", "status", "restarts", "age", "ip", "node")},
            }
        )
    return found


def _print(found: dict[str, Any]) -> None:
    from ktool.output.table import print_rows

    bad = [name for name, good in found["master"].items() if not good]
    state = f"not ready: {', '.join(bad)}" if bad else f"ready ({len(found['master'])} checks)"
    click.echo(f"master   {state}, {found['server']}\n")
    rows = [["NODE", "STATUS", "ROLES", "CPU", "USED", "LOAD", "MEMORY", "AVAILABLE", "DISK FREE", "PODS"]]
    for node in found["nodes"]:
        measured = node["measured"]
        status = "Ready" if node["ready"] else f"NotReady ({node['message']})"
        status += "".join(f",{p}" for p in node["pressure"]) + (",SchedulingDisabled" if node["unschedulable"] else "")
        rows.append(
            [
                node["name"],
                status,
                ", ".join(f"{role} {problem or 'ok'}" for role, problem in node["roles"].items()),
                f"{node['cpu']:g}",
                _percent(measured.get("cpu-percent")),
                measured.get("load", "-"),
                _bytes(node["memory"]),
                _bytes(measured.get("memory-available")),
                _bytes(measured.get("disk-available")),
                f"{node['pods']['running']}/{node['pods']['all']}",
            ]
        )
    print_rows(rows)
    if not found["nodes"]:
        click.echo("no nodes have registered", err=True)
    if found["pods"]:
        click.echo()
        fields = ("namespace", "name", "ready", "status", "restarts", "age", "node")
        print_rows([[f.upper() for f in fields], *([str(p[f]) for f in fields] for p in found["pods"])])


def _percent(value: str | None) -> str:
    return f"{float(value):.0f}%" if value else "-"


def _bytes(value: Any) -> str:
    """`3.9 GiB`, from a number of bytes or a quantity."""
    if value in (None, ""):
        return "-"
    from kube import quantity

    return f"{quantity.value(value) / 2**30:.1f} GiB"
