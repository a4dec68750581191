"""Switching a machine on and off by its BMC, each time until the BMC says that it is so."""

from __future__ import annotations

from kube.errors import KtoolError
from provision.providers.provider import Report
from provision.providers.redfish.bmc import Bmc, BmcStatus, Power
from provision.providers.redfish.diagnosis import told

POWER_SECONDS = 60.0  # until a BMC says what it was asked to bring about
SETTLE_SECONDS = 120.0  # for a state in between
SHUTDOWN_SECONDS = 90.0  # for an operating system to end in order


def settled(bmc: Bmc, report: Report) -> BmcStatus:
    """The status, once power is neither going on nor off; whatever it is then."""
    status = bmc.status()
    if status.power not in (Power.POWERING_ON, Power.POWERING_OFF):
        return status
    report(f"waiting for the BMC, which says {status.power.value}")
    wanted = Power.ON if status.power is Power.POWERING_ON else Power.OFF
    bmc.wait_power(wanted, timeout=SETTLE_SECONDS)
    return bmc.status()


def switch_on(bmc: Bmc, name: str) -> None:
    """Switch it on. KtoolError if it does not come on."""
    bmc.power_on()
    _require(bmc, name, Power.ON)


def cut(bmc: Bmc, name: str) -> None:
    """Switch it off without asking its operating system. KtoolError if it stays on."""
    bmc.power_off(force=True)
    _require(bmc, name, Power.OFF)


def shut_down(bmc: Bmc, name: str, report: Report) -> bool:
    """Have it shut down in order, by force if it does not; True if it was on."""
    if bmc.status().power is Power.OFF:
        return False
    report("shutting down")
    bmc.power_off(force=False)
    if not bmc.wait_power(Power.OFF, timeout=SHUTDOWN_SECONDS):
        report("it does not shut down: switching it off")
        cut(bmc, name)
    return True


def _require(bmc: Bmc, name: str, wanted: Power) -> None:
    if not bmc.wait_power(wanted, timeout=POWER_SECONDS):
        raise KtoolError(
            f"{name}: its BMC does not switch it {wanted.value.lower()}",
            found=f"{told(bmc.status())} after {POWER_SECONDS:.0f} s",
            wanted=f"power {wanted.value}",
            mend="look at the BMC's own event log",
        )
