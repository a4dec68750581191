"""A node that was removed, at a real master: its certificate lets it in no more, until it joins anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kube import kubeconfig, pki, removed_nodes
from kube.client import Client
from kube.clock import SystemClock, VirtualClock
from kube.kubeconfig import Connection
from kube.models import core_v1, meta_v1
from kube.status import ApiError
from kube.transport import HTTPTransport
from tests.control import master_process
from tests.control.master_process import MasterProcess


@pytest.fixture
def master(tmp_path: Path) -> Iterator[MasterProcess]:
    found = master_process.start(tmp_path / "master")
    yield found
    found.stop()


@asynccontextmanager
async def client(connection: Connection) -> AsyncIterator[Client]:
    transport = HTTPTransport(connection)
    try:
        yield Client(transport)
    finally:
        await transport.close()


async def test_a_removed_node_is_refused_until_it_joins_anew(master: MasterProcess) -> None:
    admin = kubeconfig.connect(master.kubeconfig)
    folder = master.data_dir / "pki"
    ca = pki.load_pair(cert=folder / "ca.crt", key=folder / "ca.key")

    def joined(name: str) -> Connection:
        pair = pki.issue_client(ca, f"system:node:{name}", organizations=("system:nodes",), clock=SystemClock())
        return replace(admin, client_cert=pair.cert_pem, client_key=pair.key_pem)

    before, other = joined("one"), joined("two")
    async with client(admin) as administrator, client(before) as one, client(other) as two:
        for name, node in (("one", one), ("two", two)):
            await node.create(core_v1.Node(metadata=meta_v1.ObjectMeta(name=name)))
        await asyncio.sleep(1.1)  # stamps are whole seconds
        for _ in range(2):  # removing it again is fine
            await removed_nodes.note(administrator, "one", clock=SystemClock())
        with pytest.raises(ApiError, match="node one was removed from the cluster") as refused:
            await one.get(core_v1.Node, "one")
        assert refused.value.code == 401
        with pytest.raises(ApiError, match="was removed"):
            await one.create(core_v1.Node(metadata=meta_v1.ObjectMeta(name="one")))
        await two.get(core_v1.Node, "two")
        async with client(joined("one")) as again:
            await again.get(core_v1.Node, "one")

        # a note that is older than any certificate is forgotten with the next one
        late = VirtualClock(SystemClock().time() + pki.CERT_LIFETIME + 3600)
        await removed_nodes.note(administrator, "three", clock=late)
        notes = await administrator.list(core_v1.ConfigMap, namespace=removed_nodes.NAMESPACE)
        names = {one.metadata.name for one in notes.items if one.metadata}
        assert not {removed_nodes.object_name(name) for name in ("one", "three")} & names
