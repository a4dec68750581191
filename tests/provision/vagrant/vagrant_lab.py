"""A lab that the checkout's Vagrantfile makes, in a libvirtd of the test's own; and what it leaves."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import libvirt

from provision.inventory.lab import ImageSettings
from provision.lab_state import cache_dir
from provision.machine_image.recipe import recipe_for
from tests import libvirtd

CHECKOUT = Path(__file__).parents[3]
KTOOL = str(Path(sys.executable).with_name("ktool"))
UP_SECONDS = 1200.0


def missing() -> str:
    """Why no such lab can be made here, or an empty string."""
    if why := libvirtd.missing():
        return why
    if shutil.which("vagrant") is None:
        return "not installed: vagrant"
    root = cache_dir() / "roots" / recipe_for(ImageSettings()).key
    return "" if root.is_dir() else "no image was built (python -m provision.machine_image)"


class VagrantLab:
    """Vagrant in the checkout, with its files in `folder`; `took` are the seconds of each command, by its name."""

    def __init__(self, folder: Path, *, workers: int, settings: Mapping[str, str] | None = None) -> None:
        self.kept = folder / ".vagrant"
        self._folder = folder
        self.took: dict[str, float] = {}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("VAGRANT", "ANSIBLE"))},
            "HOME": str(folder / "home"),
            "VAGRANT_HOME": str(folder / "vagrant"),
            "VAGRANT_DOTFILE_PATH": str(self.kept),
            "VAGRANT_NO_COLOR": "1",
            "KTOOL_VAGRANT_WORKERS": str(workers),
            **(settings or {}),
        }
        (folder / "home").mkdir()

    def vagrant(self, *arguments: str, check: bool = True, timeout: float = UP_SECONDS) -> str:
        """Run `vagrant ARGUMENTS`; what it said. With `check`, that it ended well is asserted."""
        return self._run(arguments[0], ["vagrant", *arguments], check=check, timeout=timeout)

    def ktool(self, *arguments: str) -> str:
        """Run `ktool ARGUMENTS` on the cluster, with the kubeconfig that Vagrant left."""
        argv = [KTOOL, "--kubeconfig", str(self.kept / "kubeconfig"), *arguments]
        return self._run("ktool", argv, check=True, timeout=120)

    def inventory(self) -> str:
        """What ktool understands of inventories/vagrant.yml beside these files; it is for a master and two workers."""
        example = self._folder / "inventories/vagrant.yml"
        example.parent.mkdir(exist_ok=True)
        shutil.copy(CHECKOUT / "inventories/vagrant.yml", example)
        return self._run("inventory", [KTOOL, "inventory", "show", "-i", str(example)], check=True, timeout=120)

    def make_box(self) -> None:
        """Have the box ready; `vagrant up` would do it as well."""
        self._run("box", [str(CHECKOUT / "scripts/vagrant-box")], check=True, timeout=600)

    def _run(self, name: str, argv: list[str], *, check: bool, timeout: float) -> str:
        began = time.monotonic()
        done = subprocess.run(
            argv,
            cwd=CHECKOUT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        self.took[name] = round(time.monotonic() - began, 1)
        # Progress is written over itself.
        said = "\n".join(line.rsplit("\r", 1)[-1] for line in done.stdout.split("\n"))
        assert not check or done.returncode == 0, f"{' '.join(argv)}: exit status {done.returncode}\n{said[-6000:]}"
        return said


@contextlib.contextmanager
def vagrant_lab(*, workers: int) -> Iterator[VagrantLab]:
    """A lab in a libvirtd of its own; machines, daemons and files are gone when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="ktvg-", dir="/var/tmp"))
    try:
        with libvirtd.private_libvirtd():
            yield VagrantLab(folder, workers=workers)
    finally:
        shutil.rmtree(folder)


def leftovers() -> dict[str, set[str]]:
    """What is in libvirt and in this network namespace, by kind."""
    connection = libvirt.open(libvirtd.URI)
    try:
        return {
            "machines": {domain.name() for domain in connection.listAllDomains()},
            "networks": {network.name() for network in connection.listAllNetworks()},
            "disks": {
                volume.name()
                for pool in connection.listAllStoragePools()
                for volume in pool.listAllVolumes()
                if "_vagrant_box_image_" not in volume.name()  # the box itself stays, for the next lab
            },
            "links": {path.name for path in Path("/sys/class/net").iterdir()},
            "processes": set(_processes()),
        }
    finally:
        connection.close()


def _processes() -> Iterator[str]:
    own = os.readlink("/proc/self/ns/net")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "ns/net") == own and (command := (process / "cmdline").read_bytes()):
                yield command.replace(b"\0", b" ").decode(errors="replace").strip()[:100]
