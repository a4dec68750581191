"""`ktool up`"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ktool.output.report import output_option, reporting
from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from kube.client import Client
    from provision.local_cluster.config import LocalCluster, LocalClusterConfig

F = TypeVar("F", bound=Callable[..., Any])

SUPERVISOR: dict[str, Any] = {"type": click.Choice(("auto", "systemd", "supervisord")), "default": "auto"}
EXAMPLE = "web.yaml"
EXAMPLE_PORT = 30080
REQUESTS = 9
RUNNING_SECONDS = 120.0


def node_options(function: F) -> F:
    """What `up` and `join` ask about this machine's node."""
    for option in (
        click.option(
            "--ready-timeout",
            type=click.FloatRange(min=1),
            default=60.0,
            show_default=True,
            help="Seconds until each part must be ready; slow machines need more.",
        ),
        click.option("--supervisor", **SUPERVISOR, show_default=True, help="What keeps the services running."),
        click.option(
            "--docker-root",
            type=click.Path(path_type=Path),
            help="Where an engine that ktool starts keeps all its files, if not at Docker's own places.",
        ),
        click.option(
            "--docker-socket",
            type=click.Path(path_type=Path),
            help="The engine's socket [default: /var/run/docker.sock].",
        ),
        click.option(
            "--taint",
            "taints",
            multiple=True,
            metavar="KEY[=VALUE]:EFFECT",
            help="Taint of a new Node; may be repeated.",
        ),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar="KEY=VALUE",
            help="Label of the Node; may be repeated. One that is left out later is taken away again.",
        ),
        click.option("--node-address", default="", help="Its address [default: the one of the default route]."),
        click.option("--node-name", help="This machine's name in the cluster [default: its host name]."),
    ):
        function = option(function)
    return function


def master_options(function: F) -> F:
    """What `up` and `join --control-plane` ask about this machine's master."""
    for option in (
        click.option(
            "--tls-san",
            "tls_sans",
            multiple=True,
            metavar="NAME|ADDRESS",
            help="One more name or address for the API server's certificate (a load balancer's); may be repeated.",
        ),
        click.option("--api-port", type=int, default=6443, show_default=True, help="The API server's port."),
        click.option(
            "--advertise-address", default="", help="Where others reach the API server [default: the node's address]."
        ),
        click.option(
            "--schedulable", is_flag=True, help="With --control-plane: without the taint, so that pods run here too."
        ),
        click.option("--agent/--no-agent", default=True, help="Whether a master is a node as well [default: it is]."),
    ):
        function = option(function)
    return function


@click.command("up")
@click.option("--example", is_flag=True, help="Run examples/web.yaml as well and show it answering.")
@node_options
@master_options
@click.option(
    "--control-plane/--no-control-plane",
    default=False,
    help="Mark the node as one that runs a master (label and taint node-role.kubernetes.io/control-plane).",
)
@click.option(
    "--store",
    type=click.Choice(("sqlite", "etcd")),
    help="Where the cluster's state is kept: etcd for what is to have several masters [default: as it is, or sqlite].",
)
@click.option(
    "--invite",
    "guests",
    multiple=True,
    metavar="NODE",
    help="With -o json: the report has a join file for that node, too, which is a secret; may be repeated.",
)
@click.option("--pod-cidr", default="10.244.0.0/16", show_default=True, help="Addresses of pods.")
@click.option("--service-cidr", default="10.96.0.0/16", show_default=True, help="Addresses of Services.")
@output_option
@pass_session
def command(session: Session, /, **options: Any) -> None:
    """Bring this machine up as a cluster: Docker Engine, master, agent.

    Running it again mends what is missing and changes nothing else. Other machines join with `ktool token create` (on
    this one) and `ktool join` (on them).
    """
    run(_up(session, **options))


def local_config(
    session: Session,
    *,
    node_name: str | None = None,
    store: str | None = None,
    docker_socket: Path | None = None,
    docker_root: Path | None = None,
    agent: bool = True,
    labels: Sequence[str] = (),
    **settings: Any,
) -> LocalClusterConfig:
    """The local cluster that the options describe. KtoolError for a malformed label."""
    from provision.docker_engine import EnginePaths
    from provision.local_cluster.config import AGENT, MASTER, LocalClusterConfig

    paths = EnginePaths()
    if docker_root is not None:
        root = docker_root.absolute()
        paths = EnginePaths(
            socket=docker_socket or root / "docker.sock",
            data_root=root / "data",
            exec_root=root / "exec",
            pid_file=root / "docker.pid",
        )
    elif docker_socket is not None:
        paths = EnginePaths(socket=docker_socket.absolute())
    if node_name:
        settings["node_name"] = node_name
    return LocalClusterConfig(
        data_dir=session.data_dir,
        docker=paths,
        roles=frozenset({MASTER, AGENT} if agent else {MASTER}),
        labels=dict(_label(text) for text in labels),
        store=store or "",
        **settings,
    )


def _label(text: str) -> tuple[str, str]:
    from kube.errors import KtoolError

    key, equals, value = text.partition("=")
    if not equals:
        raise KtoolError("not a label", found=text, wanted="KEY=VALUE")
    return key, value


async def _up(session: Session, *, example: bool, output: str | None, guests: tuple[str, ...], **options: Any) -> None:
    from provision.local_cluster.start import up

    started = time.monotonic()
    if guests and not output:
        raise click.UsageError("--invite wants -o json: join files are for programs that pass them on")
    with reporting(output) as (progress, report):
        config = local_config(session, **options)
        if guests:
            from ktool.commands.token import check_names

            check_names(guests)
        if example and not options["agent"]:
            raise click.UsageError("--example wants a node to run on, and --no-agent gives none")
        cluster = await up(config, progress)
        report.fields |= {
            "node": cluster.node_name if options["agent"] else "",
            "address": cluster.node_address,
            "server": f"https://{config.advertise_address or cluster.node_address}:{config.api_port}",
            "kubeconfig": str(cluster.kubeconfig),
        }
        own = Session(kubeconfig=cluster.kubeconfig, data_dir=session.data_dir)
        if guests:
            report.fields |= await _invitations(own, guests, report.fields["server"])
        if example:
            await _start_example(own, config, progress)
    if output:
        return
    click.echo(f"\nThe cluster is up ({time.monotonic() - started:.1f} s).\n")
    await _show(own)
    if example:
        await _ask_example(cluster)
    _next_steps(cluster, example=example)


async def _invitations(session: Session, guests: Sequence[str], server: str) -> dict[str, Any]:
    """Join files, for the report. The cluster is up also where its API server cannot make them at this moment (an etcd
    without a leader): the report says why, and `ktool token create` makes them later."""
    from ktool.commands.token import join_files
    from kube.status import ApiError

    try:
        return {"joinFiles": await join_files(session, guests, server=server, description="made by ktool up")}
    except (ApiError, ConnectionError, TimeoutError) as error:
        return {"joinFiles": [], "notInvited": str(error)}


async def _start_example(session: Session, config: LocalClusterConfig, progress: Any) -> None:
    """Load the example's image, apply its manifest, wait until all its pods are ready."""
    import contextlib
    import io

    from ktool.commands.apply import apply_all
    from ktool.manifests import read
    from kube import objects
    from kube.errors import KtoolError
    from kube.models import apps_v1
    from provision.images import ensure_image, example_image
    from provision.journal import Journal
    from provision.progress import step

    async with step(progress, "image", "Image of the example application") as doing:
        image = example_image()
        journal = Journal(config.journal_file)
        loaded = await asyncio.to_thread(ensure_image, image, socket=config.docker.socket, journal=journal)
        doing.changed, doing.result = loaded, ", ".join(image.references)
    async with step(progress, "example", f"examples/{EXAMPLE}") as doing:
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            failed = await apply_all(session, read([str(example_path())]), "")
        if failed:
            raise KtoolError("the example could not be applied", found=told.getvalue().strip())
        doing.changed = any(not line.endswith("unchanged") for line in told.getvalue().splitlines())
        async with session.client() as client:
            deadline = time.monotonic() + RUNNING_SECONDS
            while True:
                found = await client.get(apps_v1.Deployment, "web", namespace="web")
                status = found.status or apps_v1.DeploymentStatus()
                wanted = (found.spec.replicas if found.spec else None) or 0
                current = status.observedGeneration == found.metadata.generation
                if current and status.availableReplicas == wanted and status.updatedReplicas == wanted:
                    break
                if time.monotonic() > deadline:
                    raise KtoolError(
                        "the example's pods do not become ready",
                        found=f"{status.availableReplicas or 0} of {wanted} available",
                        wanted=f"all within {RUNNING_SECONDS:g} s",
                        mend=f"kubectl -n web describe {objects.name(found)}, or: ktool get events -n web",
                    )
                doing.detail(f"{status.readyReplicas or 0} of {wanted} ready")
                await asyncio.sleep(0.1)
        doing.result = f"{wanted} pods ready"


def example_path() -> Path:
    """examples/web.yaml, beside the package in a checkout or inside it when installed."""
    import ktool

    package = Path(ktool.__file__).parent
    places = (package.parent / "examples" / EXAMPLE, package / "examples" / EXAMPLE)
    return next((p for p in places if p.is_file()), places[0])


async def _show(session: Session) -> None:
    from ktool.output.table import print_rows, rows_of
    from kube.dynamic import DynamicClient
    from kube.kinds import known

    async with session.client() as client:
        dynamic = DynamicClient(client)
        for plural in ("nodes", "pods"):
            kind = known("", "v1", plural)
            table = await dynamic.table(kind)
            rows = rows_of(table, wide=True, namespaces=kind.namespaced)
            if len(rows) > 1:
                # the last columns of a pod (nominated node, gates) say nothing here
                print_rows([row[:8] if kind.namespaced else row for row in rows])
                click.echo()


async def _ask_example(cluster: LocalCluster) -> None:
    """Ask the Service, each time over a new connection, and show who answered; an error if nobody does."""
    import collections

    import aiohttp

    from kube.client import Client
    from kube.errors import KtoolError
    from kube.kubeconfig import connect
    from kube.transport import HTTPTransport

    client: Client = Client(HTTPTransport(connect(cluster.kubeconfig)), user_agent="ktool-up")
    try:
        address = await _cluster_ip(client)
    finally:
        await client.close()
    urls = [f"http://{address}/", f"http://{cluster.node_address}:{EXAMPLE_PORT}/"]
    click.echo(f"Asking the Service web ({REQUESTS} requests each to its cluster IP and its node port):")
    answers: collections.Counter[str] = collections.Counter()
    timeout = aiohttp.ClientTimeout(total=5)
    for url in urls:
        seen: collections.Counter[str] = collections.Counter()
        for _ in range(REQUESTS):
            try:
                async with (
                    aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as http,
                    http.get(url) as response,
                ):
                    response.raise_for_status()
                    seen[(await response.text()).strip()] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                raise KtoolError(
                    f"the example does not answer at {url}",
                    found=str(error) or type(error).__name__,
                    wanted="an answer from one of its pods",
                    mend="ktool get pods,endpointslices -n web; the agent's log is in the data directory",
                ) from error
        for text, count in sorted(seen.items()):
            click.echo(f"  {url:<28} {count} × {text}")
        answers += seen
    click.echo(f"{sum(answers.values())} answers from {len(answers)} pods.\n")


async def _cluster_ip(client: Client) -> str:
    from kube.models import core_v1

    service = await client.get(core_v1.Service, "web", namespace="web")
    return (service.spec.clusterIP if service.spec else None) or ""


def _next_steps(cluster: LocalCluster, *, example: bool) -> None:
    click.echo(f"kubeconfig: {cluster.kubeconfig}\n\nTry next:")
    has_kubectl = shutil.which("kubectl") is not None  # a fresh Debian has neither it nor curl
    if has_kubectl:
        click.echo(f"  export KUBECONFIG={cluster.kubeconfig}; kubectl get nodes,pods,svc -A -o wide")
    else:
        click.echo(f"  export PATH={Path(sys.executable).parent}:$PATH; ktool get pods -A")
    if example:
        fetch = "curl" if shutil.which("curl") else "busybox wget -qO-"
        click.echo(f"  {fetch} http://{cluster.node_address}:{EXAMPLE_PORT}/")
        click.echo("  kubectl -n web scale deployment web --replicas 5" if has_kubectl else "  ktool status")
    else:
        click.echo("  ktool status")
        click.echo("  ktool up --example")
