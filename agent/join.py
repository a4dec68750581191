"""Joining a cluster: from a token and a pin to a node's own certificate (Kubernetes: "TLS bootstrapping").

The problem: a new machine knows nobody's certificate, and whoever answers at the master's address may be an impostor
who wants the token.

The answer, in this order:
1. ask for the ConfigMap `kube-public/cluster-info` without trust and without the token; it holds the cluster's CA;
2. compare the CA's public key with the pin from the join file, which came by a safe way: wrong, and nothing more is
   sent;
3. from now on trust this CA only; show the token, and ask for a client certificate `system:node:<name>`;
4. keep certificate and key in a kubeconfig that only root can read. The token is not needed again.

Each step can be interrupted and is taken up again: the key of an open request is kept.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from agent import certificates
from agent.certificates import Files
from kube import join as join_file
from kube import kubeconfig, pki
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.cluster_info import Connect, JoinError, discover
from kube.files import write_atomic
from kube.join import JoinConfig
from kube.kubeconfig import Connection
from kube.status import ApiError
from kube.transport import HTTPTransport

T = TypeVar("T")

RETRY_SECONDS = (0.2, 10.0)
# An agent that is started beside its master waits for the join file, which the master makes possible.
JOIN_FILE_SECONDS = 300.0
JOIN_FILE_PERIOD = 0.2
# A master that has just started may not know its own tokens yet.
REFUSALS = 5

log = logging.getLogger(__name__)


class Identity(Struct, frozen=True):
    """Who this agent is in the cluster, and where its files lie.

    `pin` is the cluster's identity: the hash of its CA's public key.
    """

    node_name: str
    connection: Connection
    kubeconfig: Path
    ca: Path
    client: Files
    serving: Files
    pin: str


def files(data_dir: Path) -> tuple[Path, Files, Files]:
    """(kubeconfig, client certificate, serving certificate) of an agent's data directory."""
    pki_dir = data_dir / "pki"
    return data_dir / "kubelet.kubeconfig", Files.of(pki_dir, "kubelet-client"), Files.of(pki_dir, "kubelet-serving")


async def identify(
    data_dir: Path,
    *,
    join: Path | None,
    node_name: str,
    clock: Clock | None = None,
    connect: Connect = HTTPTransport,
) -> Identity:
    """This agent's identity: the one it has, or a new one by joining with the join file.

    Waits for the join file, some minutes, and keeps trying while the master cannot be reached.

    Raises JoinError and CertificateError when there is no use in
    that: wrong pin, refused token, denied request, no join file.
    """
    now = clock or SystemClock()
    known = load(data_dir, node_name=node_name, clock=now)
    if known is not None:
        return known
    if join is None:
        raise JoinError(
            "this machine has not joined a cluster",
            found=f"no valid certificate in {data_dir}",
            wanted="a join file",
            mend="Give one with --join FILE.",
        )
    await _until_there(join, now)
    config = join_file.read(join)
    name = node_name or config.node_name
    if not name:
        raise JoinError("this node has no name", found=f"none in {join}", mend="Give one with --node-name.")
    log.info("joining %s as node %s", config.server, name)
    ca = await _until_reached(lambda: discover(config, connect), now, config)
    trusted = Connection(server=config.server, ca_data=pki.cert_pem(ca), token=config.token)
    path, client_files, _ = files(data_dir)
    pair = await _until_reached(lambda: _bootstrap(trusted, name, client_files, now, connect), now, config)
    client_files.save(pair)
    write_atomic(data_dir / "pki" / "ca.crt", pki.cert_pem(ca))
    save_kubeconfig(path, replace(trusted, token=""), pair, name)
    log.info("joined: this is node %s", name)
    identity = load(data_dir, node_name=name, clock=now)
    assert identity is not None, "what was written can be read"
    return identity


def load(data_dir: Path, *, node_name: str, clock: Clock) -> Identity | None:
    """The identity that this agent has already; None if there is none, or its certificate has ended.

    JoinError if it is another node's.
    """
    path, client_files, serving_files = files(data_dir)
    pair = client_files.load() if path.exists() else None
    if pair is None:
        return None
    user, _ = pki.identity(pair.certificate)
    name = user.removeprefix("system:node:")
    if node_name and name != node_name:
        raise JoinError(
            "this machine has joined under another name",
            found=name,
            wanted=node_name,
            mend=f"Start it as {name}, or remove it first: python -m agent reset --data-dir {data_dir}",
        )
    if pki.expires_at(pair.certificate) <= clock.time():
        log.warning("the node's certificate has ended; joining again")
        return None
    connection = kubeconfig.connect(path)
    # The pair is written before the kubeconfig: if the agent was killed in between, the pair is the newer one.
    connection = replace(connection, client_cert=pair.cert_pem, client_key=pair.key_pem)
    pin = pki.ca_pin(pki.parse_cert(connection.ca_data, source=str(path)))
    return Identity(name, connection, path, data_dir / "pki" / "ca.crt", client_files, serving_files, pin)


def save_kubeconfig(path: Path, connection: Connection, pair: pki.KeyPair, node_name: str) -> None:
    """Write the agent's kubeconfig (0600)."""
    kubeconfig.save(
        path,
        kubeconfig.build(
            server=connection.server,
            ca_data=connection.ca_data,
            client_cert=pair.cert_pem,
            client_key=pair.key_pem,
            user=certificates.node_user(node_name),
        ),
    )


async def _until_there(path: Path, clock: Clock) -> None:
    """Wait for the join file; what it means if there is none after all says whoever reads it."""
    for _ in range(round(JOIN_FILE_SECONDS / JOIN_FILE_PERIOD)):
        if os.path.exists(path):  # noqa: ASYNC240 (a look at one name)
            return
        await clock.sleep(JOIN_FILE_PERIOD)


async def _bootstrap(
    trusted: Connection, name: str, client_files: Files, clock: Clock, connect: Connect
) -> pki.KeyPair:
    transport = connect(trusted)
    try:
        client = Client(transport, user_agent="ktool-agent")
        return await certificates.obtain(client, certificates.client_request(name), client_files.pending, clock=clock)
    finally:
        await transport.close()


async def _until_reached(step: Callable[[], Awaitable[T]], clock: Clock, config: JoinConfig) -> T:
    """Take a step, again and again while the master is away; a few times if it refuses."""
    refusals, pause = 0, RETRY_SECONDS[0]
    while True:
        try:
            return await step()
        except ApiError as error:
            if error.code in (401, 403):
                refusals += 1
                if refusals >= REFUSALS:
                    raise JoinError(
                        "the cluster does not accept the join token",
                        found=f"token {config.token_id}: {error.message}",
                        wanted="a bootstrap token that has not expired",
                        mend="Write a new join file (on one machine: ktool up does it).",
                    ) from error
            log.warning("the master at %s cannot help yet: %s", config.server, error)
        except (ConnectionError, TimeoutError) as error:
            log.warning("the master at %s cannot be reached: %s", config.server, error)
        await clock.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
        pause = min(2 * pause, RETRY_SECONDS[1])
