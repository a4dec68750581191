"""A machine's network by what its `ip` says: addresses, hardware addresses, routes. Pure functions over text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from provision.facts.probe import ELSEWHERE

NOWHERE = ("unreachable", "blackhole", "prohibit")
# Routes made by ktool's agent and proxy carry these protocol numbers.
OWN_PROTOCOLS = ("107", "108")
# Links that are no way to the machine: they belong to what runs on it.
MADE = ("docker", "br-", "veth", "ktool", "cni", "flannel", "virbr")


def network(text: str) -> dict[str, Any]:
    """The fields `addresses`, `macs`, `routes` and `node_address` of RemoteFacts, from what `ip -json` says of links,
    of the main table's routes, and of the way to ELSEWHERE: a list each. ValueError if it is none of that."""
    entries = [entry for several in _lists(text) for entry in several]
    links = [entry for entry in entries if entry.get("ifname", "lo") != "lo"]
    asked = [entry for entry in entries if entry.get("dst") == ELSEWHERE]
    listed = [entry for entry in entries if "dst" in entry and entry not in asked]
    global_ones = [
        (link, one["local"], one.get("family"))
        for link in links
        for one in link.get("addr_info", ())
        if one.get("scope") == "global" and one.get("local")
    ]
    own = [local for link, local, family in global_ones if family == "inet" and not _made(link)]
    defaults = [route for route in listed if route["dst"] == "default"]
    preferred = [route["prefsrc"] for route in defaults if route.get("prefsrc")]
    if defaults:
        preferred += [way["prefsrc"] for way in asked[:1] if way.get("prefsrc") and way.get("dev") != "lo"]
    return {
        "addresses": [local for _, local, _ in global_ones],
        "macs": [
            link["address"]
            for link in links
            if link.get("address") and link.get("link_type") == "ether" and not _made(link)
        ],
        "routes": list(_routes(listed)),
        "node_address": (preferred or own[:1] or [""])[-1],
    }


def _made(link: Mapping[str, Any]) -> bool:
    return str(link["ifname"]).startswith(MADE)


def _routes(listed: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, str]]:
    for route in listed:
        destination = route["dst"]
        if destination == "default" or route.get("type") in NOWHERE or str(route.get("protocol")) in OWN_PROTOCOLS:
            continue
        whole = destination if "/" in destination else f"{destination}/32"
        yield {"destination": whole, "interface": route.get("dev", "")}


def _lists(text: str) -> Iterable[list[dict[str, Any]]]:
    decoder = json.JSONDecoder()
    text = text.strip()
    while text:
        found, end = decoder.raw_decode(text)
        yield found
        text = text[end:].lstrip()
