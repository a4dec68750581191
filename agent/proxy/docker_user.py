"""Letting Service and pod traffic through Docker's firewall. Pure: what to say to iptables, given what it lists.

Docker drops what it does not know in iptables' FORWARD chain. An accept in a table of our own does not help: a packet
must pass every table. Docker's documented place for exceptions is the chain DOCKER-USER; without Docker, a FORWARD
policy of DROP is met in FORWARD itself. Each rule carries a comment that names its owner; whatever bears it is ours to
delete, and nothing else is touched.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence

from agent.proxy.rules import MASQUERADE_MARK
from agent.proxy.service_port import NodeNetwork

COMMENT = "ktool-proxy"
DOCKER_USER = "DOCKER-USER"
FORWARD = "FORWARD"

_MARK = f"{MASQUERADE_MARK:#x}/{MASQUERADE_MARK:#x}"


def rules(node: NodeNetwork) -> list[list[str]]:
    """What has to pass: from pods, to pods, and Service connections that this node masquerades (their endpoint may be
    a process on another node). As arguments of iptables, in the form in which `iptables -S` shows them."""
    owner = ["-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"]
    return [
        ["-s", node.cluster_cidr, *owner],
        ["-d", node.cluster_cidr, *owner],
        ["-m", "connmark", "--mark", _MARK, *owner],
    ]


def insertions(listing: str, node: NodeNetwork) -> list[list[str]]:
    """The iptables arguments that add what is missing; `listing` is the output of `iptables -S`."""
    lines = [shlex.split(line) for line in listing.splitlines()]
    if ["-N", DOCKER_USER] in lines:
        chain = DOCKER_USER
    elif ["-P", FORWARD, "DROP"] in lines:
        chain = FORWARD
    else:
        return []
    return [["-I", chain, *rule] for rule in rules(node) if ["-A", chain, *rule] not in lines]


def deletions(listing: str) -> list[list[str]]:
    """The iptables arguments that delete all rules of ours."""
    lines = (shlex.split(line) for line in listing.splitlines())
    return [["-D", *line[1:]] for line in lines if line[:1] == ["-A"] and _is_ours(line)]


def _is_ours(line: Sequence[str]) -> bool:
    return any(pair == ("--comment", COMMENT) for pair in itertools.pairwise(line))
