"""libvirtd goes away in the middle, at each of a method's calls in turn: what it says is told with its mend.

By libvirt's own driver for tests, whose objects are wrapped: the call that is the n-th fails as one to a daemon that
has ended does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from kube.errors import KtoolError
from provision.lab_state import LabState
from provision.providers.libvirt import power
from provision.providers.libvirt.definitions import network_xml, pool_xml, volume_xml
from provision.providers.libvirt.names import addresses
from provision.providers.libvirt.provider import LibvirtProvider
from tests.provision.libvirt.labs import lab
from tests.provision.libvirt.test_ownership import define

OBJECTS = (libvirt.virDomain, libvirt.virNetwork, libvirt.virStoragePool, libvirt.virStorageVol)
CALLS = 60
SAID = "internal error: client socket is closed"


class Daemon:
    """Counts calls; the one that is `fails` finds nobody there, and so do all after it."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails = -1

    def wrapped(self, real: Any) -> Any:
        if isinstance(real, list):
            return [self.wrapped(one) for one in real]
        return Remote(self, real) if isinstance(real, OBJECTS) else real


class Remote:
    """An object of libvirt's, as far as that daemon."""

    def __init__(self, daemon: Daemon, real: Any) -> None:
        self._daemon = daemon
        self._real = real

    def isAlive(self) -> int:  # noqa: N802 (libvirt's)
        return 1

    def name(self) -> str:
        return str(self._real.name())

    def close(self) -> None:
        self._real.close()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            daemon = self._daemon
            daemon.calls += 1
            if 0 <= daemon.fails < daemon.calls:
                error = libvirt.libvirtError(SAID)
                error.err = (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, SAID, 2, None, None, None, 0, 0)
                raise error
            return daemon.wrapped(getattr(self._real, method)(*arguments))

        return call


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[LibvirtProvider]:
    (tmp_path / "node.xml").write_text("<node/>")
    state = LabState(tmp_path / "lab")
    state.create()
    made = LibvirtProvider(lab("m1", libvirt_uri=f"test://{tmp_path}/node.xml"), state)
    handle = made._connection.handle
    define(made, state.id)
    handle.lookupByName("lab-m1").create()
    network = made._network
    leases = addresses(network._lab, network.wanted)
    handle.networkDefineXML(
        network_xml(network.wanted, leases, names=network._names(), domain="lab", uuid=state.id)
    ).create()
    pool = handle.storagePoolDefineXML(pool_xml(made._storage.pool, made._storage.path, state.id))
    pool.create()
    pool.createXML(volume_xml("m1.qcow2", capacity=1 << 20, form="qcow2"))
    yield made
    made._connection.close()


ASKED: dict[str, Callable[[LibvirtProvider, Any], object]] = {
    "find": lambda provider, machine: provider.find(),
    "diagnose": lambda provider, machine: provider.diagnose(machine),
    "endpoint": lambda provider, machine: provider.endpoint(machine, print, timeout=0),
    "snapshots": lambda provider, machine: provider.snapshots(machine),
    "snapshot": lambda provider, machine: provider.snapshot(machine, "kept", print),
    "restore": lambda provider, machine: provider.restore(machine, "kept", print),
    "stop": lambda provider, machine: provider.stop(machine, print),
    "remove": lambda provider, machine: provider.remove("m1", print),
    "cleanup": lambda provider, machine: provider.cleanup(print),
    "network": lambda provider, machine: provider._network.ensure(print),
    "disk": lambda provider, machine: provider._storage.resize("m1.qcow2", 2 << 20),
    "architecture": lambda provider, machine: provider._images.arch,
}


@pytest.mark.parametrize("method", ASKED)
def test_every_call_that_fails_is_told_with_its_mend(
    provider: LibvirtProvider, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test driver's machines do not hear the power button.
    monkeypatch.setattr(power, "STOP_SECONDS", 0.05)
    monkeypatch.setattr(power, "_POLL_SECONDS", 0.02)
    daemon = Daemon()
    provider._connection._handle = Remote(daemon, provider._connection._handle)
    machine = provider._lab.machines[0]
    told: list[KtoolError] = []
    for call in range(CALLS):
        daemon.calls, daemon.fails = 0, call
        try:
            ASKED[method](provider, machine)
        except KtoolError as error:
            told.append(error)
        if daemon.calls <= call:
            break
    else:
        pytest.fail(f"more than {CALLS} calls")
    lost = [error for error in told if SAID in error.found]
    assert lost, "libvirt was not asked"
    for error in lost:
        assert error.what
        assert error.wanted
        assert "systemctl status libvirtd" in error.mend
