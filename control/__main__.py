"""`python -m control`: run a master in the foreground until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import sys
from pathlib import Path

from control import memory
from control.store.etcd.config import DEFAULT_PREFIX, Endpoint, EtcdConfig, parse_endpoints
from kube import collector, late_arguments, names
from kube.errors import KtoolError

# Before numpy is imported: its threads would cost memory and gain nothing on arrays of this size.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m control",
        description=__doc__,
        fromfile_prefix_chars=late_arguments.PREFIX,
        epilog="@FILE stands for the arguments in that file, one a line, and is waited for.",
    )
    parser.add_argument("--data-dir", type=Path, default=Path("/var/lib/ktool"), help="where all state is kept")
    parser.add_argument("--bind-address", type=_address, default="0.0.0.0", help="address to listen on")  # noqa: S104
    parser.add_argument("--port", type=int, default=6443, help="port of the API server")
    parser.add_argument("--advertise-address", type=_address, default=None, help="address that others reach it at")
    parser.add_argument(
        "--tls-san",
        type=_server_name,
        action="append",
        default=[],
        metavar="NAME|ADDRESS",
        help="another name or address for the certificate, such as a load balancer's; may be repeated",
    )
    parser.add_argument("--pod-cidr", type=_network, default="10.244.0.0/16", help="range of pod addresses")
    parser.add_argument("--service-cidr", type=_network, default="10.96.0.0/16", help="range of Service addresses")
    parser.add_argument("--cluster-name", default="ktool", help="name in kubeconfigs and certificates")
    parser.add_argument(
        "--store", choices=("sqlite", "etcd"), default="sqlite", help="embedded, or an etcd that several masters share"
    )
    parser.add_argument(
        "--etcd-endpoints",
        type=_etcd_endpoints,
        default=(),
        metavar="URL,URL",
        help="client URLs of etcd's members, in the order in which they are tried",
    )
    parser.add_argument("--etcd-ca", type=Path, metavar="FILE", help="CA of etcd's certificates")
    parser.add_argument("--etcd-cert", type=Path, metavar="FILE", help="client certificate for etcd")
    parser.add_argument("--etcd-key", type=Path, metavar="FILE", help="its key")
    parser.add_argument("--etcd-prefix", default=DEFAULT_PREFIX, metavar="PATH", help="where all keys are in etcd")
    parser.add_argument("--roles", default="api,scheduler,controllers", help="parts that this process runs")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    found = parser.parse_args(arguments)
    found.roles = tuple(role.strip() for role in found.roles.split(",") if role.strip())
    unknown = [role for role in found.roles if role not in ("api", "scheduler", "controllers")]
    if unknown or not found.roles:
        parser.error(f"--roles: found {', '.join(unknown) or 'none'}, wanted some of api, scheduler, controllers")
    found.etcd = _etcd(parser, found)
    if not 0 < found.port < 65536:
        parser.error(f"--port: found {found.port}, wanted a number from 1 to 65535")
    if not found.advertise_address:
        found.advertise_address = "127.0.0.1" if found.bind_address in ("0.0.0.0", "::") else found.bind_address  # noqa: S104
    return found


def _etcd(parser: argparse.ArgumentParser, found: argparse.Namespace) -> EtcdConfig | None:
    """Where etcd is; None with the embedded store."""
    if found.store == "sqlite":
        flags = ("endpoints", "ca", "cert", "key")
        given = [f"--etcd-{flag}" for flag in flags if getattr(found, f"etcd_{flag}")]
        if given:
            parser.error(f"{given[0]}: found --store sqlite, wanted --store etcd. Add it, or leave {given[0]} out")
        return None
    try:
        return EtcdConfig(
            endpoints=found.etcd_endpoints,
            ca=_absolute(found.etcd_ca),
            cert=_absolute(found.etcd_cert),
            key=_absolute(found.etcd_key),
            prefix=found.etcd_prefix,
        )
    except KtoolError as error:
        parser.error(str(error))


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path else None


def _etcd_endpoints(text: str) -> tuple[Endpoint, ...]:
    try:
        return parse_endpoints(text)
    except KtoolError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted an IP address") from error


def _server_name(text: str) -> str:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(text))
    problems = names.dns1123_subdomain(text.lower())
    if problems:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted an IP address or a DNS name")
    return text.lower()


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a range such as 10.96.0.0/16") from error


def main() -> int:
    """Run a master; the exit status is 1 for what a user can mend, told on standard error."""
    collector.put_off()
    memory.limit_arenas()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr
    )
    late_arguments.wait(sys.argv[1:], _load)
    options = parse_arguments()
    logging.getLogger().setLevel(options.log_level.upper())
    import uvloop

    import kube.quick_aiohttp  # noqa: F401 (before others import aiohttp)
    from control.master import Master, MasterConfig

    config = MasterConfig(
        data_dir=options.data_dir.absolute(),
        bind_address=options.bind_address,
        port=options.port,
        advertise_address=options.advertise_address,
        pod_cidr=options.pod_cidr,
        service_cidr=options.service_cidr,
        cluster_name=options.cluster_name,
        roles=options.roles,
        tls_sans=tuple(options.tls_san),
        etcd=options.etcd,
    )

    async def run() -> None:
        master = Master(config)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, master.stop)
        await master.run()

    try:
        uvloop.run(run())
    except KtoolError as error:
        logging.getLogger("control").error("%s", error)
        return 1
    return 0


def _load() -> None:
    """Import what a master needs, and what it would import later."""
    import uvloop  # noqa: F401

    import kube.quick_aiohttp  # noqa: F401 (before others import aiohttp)
    from control import master  # noqa: F401
    from control.controllers import controllers  # noqa: F401
    from control.scheduler import scheduler  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
