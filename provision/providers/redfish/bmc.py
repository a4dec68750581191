"""A machine's BMC, spoken to by Redfish: power and boot device (DMTF DSP0266; through OpenStack's sushy).

The password comes from the inventory's `ktool_redfish_password` (which may be vaulted) or, where a machine has left
the inventory, from the environment; it travels in a request's headers or body only, never in an argument list or log.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from kube.errors import KtoolError
from provision.inventory.lab import RedfishSettings

PASSWORD_KEY = "ktool_redfish_password"  # noqa: S105 - a variable's name
PASSWORD_VARIABLE = "KTOOL_REDFISH_PASSWORD"  # noqa: S105
logger = logging.getLogger("sushy")

ROOT_PREFIX = "/redfish/v1/"
CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0  # BMCs are slow computers
RETRIES = 3
RETRY_SECONDS = 2.0
LOOK_SECONDS = 1.0


class Power(StrEnum):
    """What a BMC says of the machine's power (Redfish: PowerState); UNKNOWN stands for any other word."""

    ON = "On"
    OFF = "Off"
    POWERING_ON = "PoweringOn"
    POWERING_OFF = "PoweringOff"
    UNKNOWN = "Unknown"


class BootDevice(StrEnum):
    """Where the machine boots from next (Redfish: BootSourceOverrideTarget); OTHER is any that ktool never sets."""

    NETWORK = "Pxe"
    DISK = "Hdd"
    OTHER = "Other"


@dataclass(frozen=True, slots=True, kw_only=True)
class BmcStatus:
    """What a BMC tells of its machine. `once`: the boot device holds for one boot. `health` as Redfish says it."""

    power: Power
    boot: BootDevice
    once: bool = False
    health: str = ""
    model: str = ""
    system: str = ""


def password_of(variables: Mapping[str, Any]) -> str:
    """The BMC's password from an inventory's variables, else from the environment; empty if there is none."""
    # Ansible's vault gives an object that becomes text only when it is asked for it.
    return str(variables.get(PASSWORD_KEY) or os.environ.get(PASSWORD_VARIABLE, ""))


class Bmc:
    """One machine's BMC; `name` is the machine's, for messages. Connects when it is first used.

    Every method blocks and raises KtoolError when the BMC cannot be reached, refuses, or lacks what is asked.
    """

    def __init__(self, name: str, settings: RedfishSettings, password: str) -> None:
        self._name = name
        self._settings = settings
        self._password = password
        self._system: Any = None

    def status(self) -> BmcStatus:
        """Power, boot device and health, read anew."""
        with self._told("its status"):
            system = self._connected()
            system.refresh(force=True)
            boot = system.boot
            target = _value(boot.target) if boot else ""
            enabled = _value(boot.enabled) if boot else ""
            return BmcStatus(
                power=_power(_value(system.power_state)),
                boot=_boot_device(target),
                once=enabled == "Once",
                health=_value(system.status.health) if system.status else "",
                model=" ".join(str(part) for part in (system.manufacturer, system.model) if part),
                system=str(system.path),
            )

    def boot_from(self, device: BootDevice) -> None:
        """Have the machine boot from `device`: from the network once, from the disk until something else is said."""
        import sushy
        from sushy import exceptions

        with self._told(f"a change of the boot device to {device.value}"):
            system = self._connected()
            # Some BMCs know only one of the two durations. A network boot that stays set is harmless, for who has
            # been installed is told by iPXE to go on; one boot from disk is what the first start needs.
            enabled = sushy.BootSourceOverrideEnabled
            durations = [enabled.ONCE, enabled.CONTINUOUS]
            if device is BootDevice.DISK:
                durations.reverse()
            target = sushy.BootSource(device.value)
            try:
                system.set_system_boot_options(target=target, enabled=durations[0])
            except exceptions.BadRequestError:
                system.set_system_boot_options(target=target, enabled=durations[1])
            system.invalidate()

    def power_on(self) -> None:
        """Switch the machine on."""
        import sushy

        self._reset(sushy.ResetType.ON, sushy.ResetType.FORCE_ON)

    def power_off(self, *, force: bool) -> None:
        """Ask the operating system to shut down, or with `force` cut the power."""
        import sushy

        if force:
            self._reset(sushy.ResetType.FORCE_OFF)
        else:
            self._reset(sushy.ResetType.GRACEFUL_SHUTDOWN, sushy.ResetType.PUSH_POWER_BUTTON)

    def wait_power(
        self,
        wanted: Power,
        *,
        timeout: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> bool:
        """Wait up to `timeout` seconds for a state of power; whether it came."""
        deadline = now() + timeout
        while self.status().power is not wanted:
            if now() >= deadline:
                return False
            sleep(LOOK_SECONDS)
        return True

    def only_mac(self) -> str:
        """The hardware address of the machine's network card, if the BMC knows exactly one."""
        with self._told("its network cards"):
            known = sorted(str(mac).lower() for mac in self._connected().ethernet_interfaces.summary or {})
        if len(known) != 1:
            raise KtoolError(
                f"{self._name}: its BMC does not say from which network card it boots",
                found=", ".join(known) or "no network card",
                wanted="one",
                mend="set `ktool_mac` in the inventory",
            )
        return known[0]

    def _reset(self, *kinds: Any) -> None:
        with self._told(f"the reset {kinds[0].value}"):
            system = self._connected()
            allowed = system.get_allowed_reset_system_values()
            system.reset_system(next((kind for kind in kinds if kind in allowed), kinds[0]))
            system.invalidate()

    def _connected(self) -> Any:
        if self._system is None:
            self._system = self._find_system(self._connect())
        return self._system

    def _connect(self) -> Any:
        import sushy
        from sushy import auth

        # sushy logs every retry and every SSL error by itself; we say the same once, with the mend.
        if not logger.level:
            logger.setLevel(logging.CRITICAL)
        verify: bool | str = self._settings.verify
        if verify and self._settings.ca_file is not None:
            verify = str(self._settings.ca_file)
        credentials: Any = _nobody()
        if self._password:
            credentials = auth.SessionOrBasicAuth(self._settings.user, self._password)
        return sushy.Sushy(
            base_url(self._settings.url),
            root_prefix=ROOT_PREFIX,
            verify=verify,
            auth=credentials,
            server_side_retries=RETRIES,
            server_side_retries_delay=RETRY_SECONDS,
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
        )

    def _find_system(self, root: Any) -> Any:
        systems = root.get_system_collection().get_members()
        wanted = self._settings.system
        matching = [
            system
            for system in systems
            if not wanted or wanted.rstrip("/") in (system.path.rstrip("/"), system.identity, system.uuid, system.name)
        ]
        if len(matching) == 1:
            return matching[0]
        known = ", ".join(f"{system.identity} ({system.name})" for system in systems) or "no system"
        raise KtoolError(
            f"{self._name}: the BMC at {self._settings.url} does not say which of its systems is meant",
            found=known,
            wanted=f"one system{f' named {wanted}' if wanted else ''}",
            mend="set `ktool_redfish_system` to one of these in the inventory",
        )

    @contextmanager
    def _told(self, asked: str) -> Iterator[None]:
        """sushy's exceptions as ours; the connection is made anew the next time."""
        from sushy import exceptions

        try:
            yield
        except exceptions.AccessError as error:
            self._system = None
            raise KtoolError(
                f"{self._name}: the BMC at {self._settings.url} refuses {asked}",
                found=f"{error} (user {self._settings.user}, {'a' if self._password else 'no'} password)",
                wanted="a user who may see and control the system",
                mend=f"set `ktool_redfish_user` and `{PASSWORD_KEY}` (ansible-vault keeps it secret), "
                f"or {PASSWORD_VARIABLE} in the environment",
            ) from error
        except exceptions.ConnectionError as error:
            self._system = None
            raise _unreachable(self._name, self._settings, str(error)) from error
        except exceptions.SushyError as error:
            self._system = None
            raise KtoolError(
                f"{self._name}: the BMC at {self._settings.url} failed on {asked}",
                found=str(error),
                wanted="a Redfish service that knows ComputerSystem.Reset and boot source overrides",
            ) from error


def base_url(url: str) -> str:
    """A BMC's address as sushy wants it: `https://` unless another scheme is given, without Redfish's own path."""
    full = url if "://" in url else f"https://{url}"
    parts = urlsplit(full)
    return f"{parts.scheme}://{parts.netloc}"


def _nobody() -> Any:
    """No credentials, for a BMC that asks for none; sushy itself would offer nobody's."""
    from sushy import auth

    class Nobody(auth.AuthBase):  # type: ignore[misc]
        """Authenticates by doing nothing."""

        def _do_authenticate(self) -> None:
            pass

        def can_refresh_session(self) -> bool:
            """There is no session."""
            return False

    return Nobody()


def _unreachable(name: str, settings: RedfishSettings, found: str) -> KtoolError:
    if "CERTIFICATE_VERIFY_FAILED" in found:
        return KtoolError(
            f"{name}: the BMC at {settings.url} shows a certificate that is not trusted",
            found=found,
            wanted="a certificate of a known authority",
            mend="set `ktool_redfish_ca_file` to the authority's (or the BMC's own) certificate",
        )
    return KtoolError(
        f"{name}: the BMC at {settings.url} cannot be reached",
        found=found,
        wanted="a Redfish service",
        mend="check `ktool_redfish_url`, the BMC's network and that Redfish is switched on in it",
    )


def _value(word: Any) -> str:
    """A word of sushy's enumerations as Redfish writes it."""
    return "" if word is None else str(getattr(word, "value", word))


def _power(word: str) -> Power:
    return Power(word) if word in set(Power) else Power.UNKNOWN


def _boot_device(word: str) -> BootDevice:
    return BootDevice(word) if word in set(BootDevice) else BootDevice.OTHER
