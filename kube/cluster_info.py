"""What a cluster tells everybody about itself: the ConfigMap `kube-public/cluster-info` (kubeadm's of the same name).

A machine that joins reads it before it trusts anybody: it holds the cluster's CA, and the hash of that CA's public key
in the join file tells whether it is the right one. Beside kubeadm's key `kubeconfig` there is one of our own, with the
address ranges, which every node must know and no join file should have to repeat.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
import yaml
from cryptography import x509
from msgspec import Struct

from kube import kubeconfig, pki
from kube.client import Client
from kube.errors import KtoolError
from kube.join import JoinConfig
from kube.kubeconfig import Connection
from kube.models import core_v1
from kube.transport import HTTPTransport, Transport

NAME = "cluster-info"
NAMESPACE = "kube-public"
KUBECONFIG_KEY = "kubeconfig"
NETWORKS_KEY = "networks"

log = logging.getLogger(__name__)

Connect = Callable[[Connection], Transport]


class JoinError(KtoolError):
    """This machine cannot join, and trying again would not help."""


_KEYS = {"pod_cidr": "podCIDR", "service_cidr": "serviceCIDR"}


class Networks(msgspec.Struct, frozen=True, kw_only=True, rename=_KEYS):
    """The cluster's address ranges. The defaults hold for a cluster that does not tell them."""

    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"

    def text(self) -> str:
        """As it stands in the ConfigMap (JSON)."""
        return msgspec.json.encode(self).decode()


class ClusterInfo(Struct, frozen=True):
    """The cluster as it describes itself: the URL at which other machines reach it, its CA, its address ranges."""

    server: str
    ca: x509.Certificate
    networks: Networks


async def fetch(client: Client) -> ClusterInfo:
    """The description, as trustworthy as the connection. ApiError, ConnectionError; JoinError if it is malformed."""
    return parse(await client.get(core_v1.ConfigMap, NAME, namespace=NAMESPACE))


async def discover(config: JoinConfig, connect: Connect = HTTPTransport) -> x509.Certificate:
    """The cluster's CA, fetched without trust and checked against the pins.

    Raises JoinError (wrong pin), ApiError, ConnectionError.
    """
    transport = connect(Connection(server=config.server, insecure=True))
    try:
        certificate = (await fetch(Client(transport, user_agent="ktool-agent"))).ca
    finally:
        await transport.close()
    for pin in config.ca_cert_hashes:
        try:
            pki.verify_pin(certificate, pin)
        except pki.PKIError as error:
            log.debug("pin %s: %s", pin, error)
        else:
            return certificate
    raise JoinError(
        f"the server at {config.server} is not the cluster of the join file",
        found=pki.ca_pin(certificate),
        wanted=" or ".join(config.ca_cert_hashes),
        mend="Check the address. If the cluster's CA is new, write a new join file; if not, somebody is in between.",
    )


def parse(found: core_v1.ConfigMap) -> ClusterInfo:
    """What the ConfigMap says; JoinError if it is malformed."""
    try:
        config = yaml.load(found.data.get(KUBECONFIG_KEY, ""), Loader=yaml.CSafeLoader)
        networks = msgspec.json.decode(found.data.get(NETWORKS_KEY, "{}"), type=Networks)
    except yaml.YAMLError as error:
        raise JoinError("the cluster's information is malformed", found="no YAML in its kubeconfig") from error
    except msgspec.MsgspecError as error:
        raise JoinError("the cluster's information is malformed", found=f"its {NETWORKS_KEY}: {error}") from error
    clusters = config.get("clusters") if isinstance(config, dict) else None
    if not isinstance(clusters, list) or not clusters:
        raise JoinError("the cluster's information is malformed", found="no cluster in its kubeconfig")
    # As in kubeadm there is one cluster entry without a context that uses it.
    whole = {**config, "contexts": [{"name": "it", "context": {"cluster": clusters[0].get("name", "")}}]}
    connection = kubeconfig.resolve(whole, source=NAME, context="it")
    certificate = pki.parse_cert(connection.ca_data, source=f"ConfigMap {NAMESPACE}/{NAME}")
    return ClusterInfo(connection.server, certificate, networks)
