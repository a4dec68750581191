"""What ktool remembers of each machine that it installed: a file per machine in the lab's folder.

It holds no secret: the host key is the public half, and a BMC's password is read from the inventory each time.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from kube.files import write_secret
from provision.inventory.lab import Machine, RedfishSettings
from provision.providers.redfish.actions import Phase

_SUFFIX = ".json"


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """One machine. `host_key` is "ssh-ed25519 AAAA...", known from phase WRITTEN on, as are `address` and `disk`.

    `image` is the digest of what was written. The BMC's place is kept for a machine that left the inventory.
    """

    name: str
    phase: Phase
    mac: str
    image: str = ""
    host_key: str = ""
    address: str = ""
    disk: str = ""
    bmc_url: str = ""
    bmc_system: str = ""
    bmc_user: str = ""
    bmc_verify: bool = True
    bmc_ca_file: str = ""

    @property
    def bmc(self) -> RedfishSettings:
        """The BMC's settings as they were in the inventory."""
        return RedfishSettings(
            url=self.bmc_url,
            system=self.bmc_system,
            user=self.bmc_user,
            verify=self.bmc_verify,
            ca_file=Path(self.bmc_ca_file) if self.bmc_ca_file else None,
        )


# Made here, once: threads must not be the first, side by side, that make msgspec learn a type.
_INSTALLATION = msgspec.json.Decoder(Installation)


def begun(machine: Machine, settings: RedfishSettings, *, image: str) -> Installation:
    """What is to be remembered when an installation begins."""
    return Installation(
        name=machine.name,
        phase=Phase.INSTALLING,
        mac=machine.mac.lower(),
        image=image,
        bmc_url=settings.url,
        bmc_system=settings.system,
        bmc_user=settings.user,
        bmc_verify=settings.verify,
        bmc_ca_file=str(settings.ca_file or ""),
    )


class Installations:
    """The memory of one lab, in a folder that need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "machines"

    def of(self, name: str) -> Installation | None:
        """What is remembered of a machine; None if nothing is."""
        try:
            return _INSTALLATION.decode(self._path(name).read_bytes())
        except FileNotFoundError:
            return None

    def all(self) -> list[Installation]:
        """Everything that is remembered, by name."""
        found = (self.of(path.name.removesuffix(_SUFFIX)) for path in sorted(self._folder.glob(f"*{_SUFFIX}")))
        return [installation for installation in found if installation is not None]

    def keep(self, installation: Installation) -> None:
        """Remember, in place of what was remembered of this machine."""
        write_secret(self._path(installation.name), msgspec.json.encode(installation))

    def forget(self, name: str) -> None:
        """Remember nothing of a machine any more."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"
