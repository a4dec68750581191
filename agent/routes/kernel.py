"""The kernel's routes by netlink: read as plain data, changed one by one."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from agent.routes.plan import ROUTE_PROTOCOL, SEVERAL, Plan, Problem, Route, removal
from kube.errors import KtoolError

if TYPE_CHECKING:
    from pyroute2 import IPRoute

MAIN_TABLE = 254
_UNICAST = 1

log = logging.getLogger(__name__)


class KernelRoutes:
    """The main table of the network namespace of the calling thread. All methods block for milliseconds."""

    def read(self) -> list[Route]:
        """All unicast IPv4 routes. KtoolError if the kernel does not tell them."""
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            with IPRoute() as netlink:
                return [*_unicast(netlink.get_routes(family=socket.AF_INET, table=MAIN_TABLE))]
        except (NetlinkError, OSError) as error:
            raise KtoolError("cannot read the routes", found=str(error)) from error

    def apply(self, plan: Plan) -> list[Problem]:
        """Carry a plan out; what the kernel refuses, by the route's destination in the place of the node's name.

        Deletions come first: an address may have moved from one node to another.
        """
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            found = [_change(netlink, "del", route) for route in plan.delete]
            found += [_change(netlink, "replace", route) for route in plan.replace]
            found += [_change(netlink, "add", route) for route in plan.add]
        return [problem for problem in found if problem is not None]


def remove(*, cluster_cidr: str) -> None:
    """Take away all routes of ours, whoever made them. KtoolError if one resists."""
    kernel = KernelRoutes()
    problems = kernel.apply(Plan(delete=removal(kernel.read(), cluster_cidr=cluster_cidr)))
    if problems:
        raise KtoolError("cannot remove routes to other nodes' pods", found="; ".join(map(str, problems)))


def _unicast(messages: Iterable[Any]) -> Iterator[Route]:
    for message in messages:
        if message["type"] != _UNICAST:
            continue
        several = message.get_attr("RTA_MULTIPATH") or message.get_attr("RTA_VIA")
        yield Route(
            destination=f"{message.get_attr('RTA_DST') or '0.0.0.0'}/{message['dst_len']}",  # noqa: S104
            gateway=SEVERAL if several else message.get_attr("RTA_GATEWAY") or "",
            protocol=message["proto"],
            metric=message.get_attr("RTA_PRIORITY") or 0,
        )


def _change(netlink: IPRoute, verb: str, route: Route) -> Problem | None:
    from pyroute2.netlink.exceptions import NetlinkError

    more = {"priority": route.metric} if route.metric else {}
    try:
        netlink.route(verb, dst=route.destination, gateway=route.gateway, proto=ROUTE_PROTOCOL, **more)
    except NetlinkError as error:
        if verb == "del" and error.code == errno.ESRCH:
            return None  # it went with its link
        return Problem(route.destination, f"the kernel refuses the route via {route.gateway}: {error}")
    log.info("route %s: %s via %s", verb, route.destination, route.gateway)
    return None
