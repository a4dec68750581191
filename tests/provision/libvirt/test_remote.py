"""The provider at a libvirt of another host (`qemu+ssh://`): here one that is reached through an sshd of the test's."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.inventory.lab import ImageSettings
from provision.lab_state import LabState, cache_dir
from provision.machine_image.prepare import is_ready
from provision.providers.libvirt.provider import LibvirtProvider
from provision.providers.provider import MachineState
from tests import libvirtd
from tests.provision.conftest import eventually
from tests.provision.libvirt.labs import lab, machine

PORT = 2200
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOSHtCZU7YUWGCz0qCwTq4NxzTqpJfdwdyNSWU1G9jvA"
MISSING = (
    libvirtd.missing()
    or ("" if is_ready(ImageSettings(), cache_dir()) else "no image was built (python -m provision.machine_image)")
    or (
        ""
        if shutil.which("sshd", path="/usr/sbin") and shutil.which("virt-ssh-helper")
        else "needs sshd, virt-ssh-helper"
    )
)
pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@pytest.fixture
def uri(short_dir: Path) -> Iterator[str]:
    """libvirt's URI of a host that lets root in with a key."""
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(short_dir / name)], check=True)
    (short_dir / "config").write_text(
        f"Port {PORT}\nListenAddress 127.0.0.1\nHostKey {short_dir}/host\nAuthorizedKeysFile {short_dir}/id.pub\n"
        "PidFile none\nStrictModes no\nUsePAM no\n"
    )
    (short_dir / "known_hosts").write_text(f"[127.0.0.1]:{PORT} {(short_dir / 'host.pub').read_text()}")
    # libvirt runs OpenSSH; known_hosts of the test's are not among what its URI can name.
    ssh = short_dir / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec ssh -o UserKnownHostsFile={short_dir}/known_hosts -i {short_dir}/id "$@"\n')
    ssh.chmod(0o755)
    made = not Path("/run/sshd").exists()
    Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-e", "-f", str(short_dir / "config")],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    eventually(_listens)
    with libvirtd.private_libvirtd():
        yield f"qemu+ssh://root@127.0.0.1:{PORT}/system?keyfile={short_dir}/id&command={ssh}&no_tty=1"
    daemon.terminate()
    daemon.wait(10)
    if made:
        Path("/run/sshd").rmdir()


def _listens() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


def test_machines_of_another_host(uri: str, tmp_path: Path) -> None:
    one = lab(machine("m1", memory_mib=256), libvirt_uri=uri)
    (wanted,) = one.machines
    provider = LibvirtProvider(one, LabState(tmp_path / "lab"))
    assert provider.create(wanted, print)
    assert not provider.create(wanted, print)
    assert provider.find()[0].state is MachineState.RUNNING
    # What the machine says is read over libvirt's connection.
    with Path("/var/lib/libvirt/images/ktool-lab/m1.console.log").open("a") as console:
        console.write(f"ktool-host-key: {KEY}\n")
    endpoint = provider.endpoint(wanted, print, timeout=60)
    assert (endpoint.address, endpoint.host_keys) == ("192.168.150.10", (KEY,))
    assert endpoint.jump is not None
    assert (endpoint.jump.address, endpoint.jump.port, endpoint.jump.user) == ("127.0.0.1", PORT, "root")
    assert provider.remove("m1", print)
    assert provider.cleanup(print) == ["network lab", "storage pool ktool-lab"]
