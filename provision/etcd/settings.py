"""The configuration file of a machine's etcd (etcd: "Configuration flags", `--config-file`).

A file, since how a member came into the cluster is said once and for all: etcd ignores it when it has data, and a
command line that changed with every new master would have all of them restarted.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from kube.etcd_certificates import EtcdCertificates
from provision.etcd.membership import client_url, peer_url

LOCAL = client_url("127.0.0.1")
# Twice what etcd has by default: state of a few thousand pods, with its history between two compactions.
QUOTA_BYTES = 4 * 1024**3
# etcd's defaults suit disks and processors of its own. Masters share theirs with pods, and a leader that is late once
# must not cost an election: five times as patient, which a lost master's clients notice as three seconds.
HEARTBEAT_MS = 250
ELECTION_MS = 2500


def new_token() -> str:
    """The name of a new cluster (etcd: `initial-cluster-token`; no secret). Another each time: where one begins anew
    on the same machine, members of the one before must not take it for theirs."""
    return f"ktool-{secrets.token_hex(8)}"


def config_text(
    *, name: str, address: str, data_dir: Path, certificates: EtcdCertificates, token: str, cluster: str = ""
) -> bytes:
    """The file's content. `cluster` names the members that there are (etcd: `initial-cluster`) for one that joins;
    empty for the first, which begins a cluster, named `token`. `data_dir` is the member's own folder."""
    import yaml

    security = {"client-cert-auth": True, "trusted-ca-file": str(certificates.ca_cert)}
    settings = {
        "name": name,
        "data-dir": str(data_dir),
        "listen-client-urls": ",".join((LOCAL, client_url(address))),
        "advertise-client-urls": client_url(address),
        "listen-peer-urls": peer_url(address),
        "initial-advertise-peer-urls": peer_url(address),
        "initial-cluster": cluster or f"{name}={peer_url(address)}",
        "initial-cluster-state": "existing" if cluster else "new",
        "initial-cluster-token": token,
        "client-transport-security": security
        | {"cert-file": str(certificates.server_cert), "key-file": str(certificates.server_key)},
        "peer-transport-security": security
        | {"cert-file": str(certificates.peer_cert), "key-file": str(certificates.peer_key)},
        "heartbeat-interval": HEARTBEAT_MS,
        "election-timeout": ELECTION_MS,
        "quota-backend-bytes": QUOTA_BYTES,
        # Without this line a configuration file turns it off; members are asked and changed through it.
        "enable-grpc-gateway": True,
        "logger": "zap",
        "log-outputs": ["stderr"],
    }
    text: str = yaml.safe_dump(settings, sort_keys=False)
    return b"# Written by ktool when this member was made.\n" + text.encode()
