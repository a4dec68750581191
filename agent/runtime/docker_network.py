"""The pods' network on Docker Engine: one bridge with the node's pod CIDR.

The bridge has a fixed name (`ktool0`) so that the proxy's rules and a person with `ip link` find it. Pods reach each
other over it (Docker: ICC). The engine masquerades those that leave the node, unless the proxy does.

Since version 28 an engine drops what comes from other machines to a container's own address, in a table before all
others (`raw`), where no accept rule of ours helps. Pods of other nodes must get through, so the network says that it
wants the mode of before (Docker: gateway mode `nat-unprotected`). Older engines do not know that word.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from typing import Any

import docker
from msgspec import Struct
from msgspec.structs import replace

from agent.runtime import docker_labels
from agent.runtime.docker_engine import DockerEngine
from agent.runtime.errors import ContainerError, NetworkError, NotFound

_BRIDGE_NAME = "com.docker.network.bridge.name"
_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
_GATEWAY_MODE = "com.docker.network.bridge.gateway_mode_ipv4"
_UNPROTECTED = "nat-unprotected"
_GATEWAY_MODE_SINCE = 28

_log = logging.getLogger(__name__)


class BridgeNetwork(Struct, frozen=True):
    """The wanted network. `subnet` is the node's pod CIDR; its first address is the bridge's own. `unprotected` says
    that other machines may reach pods, to an engine that must be told."""

    subnet: str
    name: str = "ktool"
    bridge: str = "ktool0"
    masquerade: bool = True
    unprotected: bool = False


def creation(network: BridgeNetwork, cluster: str) -> dict[str, Any]:
    """The arguments of the SDK's `create_network` for a network."""
    gateway = str(next(ipaddress.ip_network(network.subnet).hosts()))
    return {
        "name": network.name,
        "driver": "bridge",
        "check_duplicate": True,
        "labels": {docker_labels.CLUSTER: cluster},
        "ipam": {"Driver": "default", "Config": [{"Subnet": network.subnet, "Gateway": gateway}]},
        "options": {
            _BRIDGE_NAME: network.bridge,
            "com.docker.network.bridge.enable_icc": "true",
            _MASQUERADE: str(network.masquerade).lower(),
            **({_GATEWAY_MODE: _UNPROTECTED} if network.unprotected else {}),
        },
    }


def difference(found: Mapping[str, Any], wanted: BridgeNetwork) -> list[str]:
    """In what an inspected network is not as wanted, in words; empty when it is."""
    subnets = [str(entry.get("Subnet", "")) for entry in (found.get("IPAM") or {}).get("Config") or []]
    bridge = (found.get("Options") or {}).get(_BRIDGE_NAME, "")
    facets = (
        ("driver", found.get("Driver"), "bridge"),
        ("subnet", ", ".join(subnets), wanted.subnet),
        ("bridge", bridge, wanted.bridge),
    )
    return [f"{name} {have} instead of {want}" for name, have, want in facets if have != want]


def small_difference(found: Mapping[str, Any], wanted: BridgeNetwork) -> list[str]:
    """In what an inspected network behaves otherwise than wanted, although pods can live in it; empty: in nothing."""
    options = found.get("Options") or {}
    facets = (
        ("masquerading", options.get(_MASQUERADE, "true"), str(wanted.masquerade).lower()),
        ("gateway mode", options.get(_GATEWAY_MODE, "nat"), _UNPROTECTED if wanted.unprotected else "nat"),
    )
    return [f"{name} {have} instead of {want}" for name, have, want in facets if have != want]


async def ensure(engine: DockerEngine, network: BridgeNetwork, cluster: str) -> None:
    """Make the network unless it is there; make it anew if it is otherwise and nothing uses it.

    Raises NetworkError: it is another cluster's, it is in use, its addresses or its bridge are taken.
    """
    what = f"make the pod network {network.name}"
    network = replace(network, unprotected=_needs_gateway_mode(await engine.call("ask for its version", _version)))
    found = await _find(engine, network.name)
    if found is not None:
        owner = (found.get("Labels") or {}).get(docker_labels.CLUSTER)
        if owner != cluster:
            raise NetworkError(
                f"cannot {what}: there is one that this cluster did not make",
                found=f"owner {owner}" if owner else "a network without an owner's label",
                wanted=f"{docker_labels.CLUSTER}={cluster}",
                mend=f"Remove it (docker network rm {network.name}) or choose another network name.",
            )
        wrong, less = difference(found, network), small_difference(found, network)
        if not wrong and not less:
            return
        if not wrong and found.get("Containers"):
            _log.warning("pod network %s: %s, until this node has been drained once", network.name, "; ".join(less))
            return
        if found.get("Containers"):
            raise NetworkError(
                f"cannot {what}: the existing one is different and in use",
                found="; ".join(wrong),
                wanted=f"subnet {network.subnet}, bridge {network.bridge}",
                mend="Drain this node, then start the agent again.",
            )
        _log.info("pod network %s is made anew: %s", network.name, "; ".join([*wrong, *less]))
        await remove(engine, found["Id"])
    try:
        await engine.call(what, lambda api: api.create_network(**creation(network, cluster)))
    except ContainerError as error:
        raise NetworkError(
            f"cannot {what}",
            found=error.found,
            wanted=f"subnet {network.subnet}, bridge {network.bridge}",
            mend="See what has these addresses: docker network ls, ip address. Or choose another pod CIDR.",
        ) from error
    _log.info("pod network %s: bridge %s, %s", network.name, network.bridge, network.subnet)


def _version(api: docker.APIClient) -> str:
    return str(api.version().get("Version", ""))


def _needs_gateway_mode(version: str) -> bool:
    """Whether an engine of this version keeps other machines away from containers unless told otherwise."""
    major = version.partition(".")[0]
    return major.isdigit() and int(major) >= _GATEWAY_MODE_SINCE


async def of_cluster(engine: DockerEngine, cluster: str) -> list[str]:
    """The ids of the networks that this cluster made."""
    filters = docker_labels.filters(cluster)
    found = await engine.call("list networks", lambda api: api.networks(filters=filters))
    return [str(network["Id"]) for network in found]


async def remove(engine: DockerEngine, network_id: str) -> None:
    """Remove a network; nothing happens if it is gone."""
    try:
        await engine.call(f"remove network {network_id}", lambda api: api.remove_network(network_id))
    except NotFound:
        _log.debug("network %s is gone already", network_id)


async def _find(engine: DockerEngine, name: str) -> dict[str, Any] | None:
    def find(api: docker.APIClient) -> dict[str, Any] | None:
        # The engine's own filter matches parts of names.
        exact = [network for network in api.networks(names=[name]) if network["Name"] == name]
        return dict(api.inspect_network(exact[0]["Id"])) if exact else None

    return await engine.call(f"inspect network {name}", find)
