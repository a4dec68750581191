"""Settings of the controllers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from control.controllers import node_health, pod_gc
from kube import pki


class ControllersConfig(Struct, frozen=True, kw_only=True):
    """Settings of the controllers (kube-controller-manager's flags). Durations in seconds.

    `identity` is this master's unique name, which holds the Lease. `server_url` is where machines that join reach the
    API server, `advertise_addresses` and `secure_port` where pods reach it through the Service `kubernetes`.
    `ca_cert_file` is published to all namespaces; without `ca_key_file` nothing is signed.
    """

    identity: str
    ca_cert_file: Path
    ca_key_file: Path | None
    server_url: str
    advertise_addresses: Sequence[str]
    secure_port: int = 6443
    service_cidr: str = "10.96.0.0/16"
    pod_cidr: str = "10.244.0.0/16"
    # several masters: the Lease is watched closely; one alone renews it seldom
    several_masters: bool = False
    node_monitor_grace: float = node_health.GRACE_SECONDS
    node_startup_grace: float = node_health.STARTUP_GRACE_SECONDS
    cluster_signing_duration: float = pki.CERT_LIFETIME
    terminated_pod_threshold: int = pod_gc.ENDED_THRESHOLD
    # None: the API server drops events by itself
    event_ttl: float | None = None
