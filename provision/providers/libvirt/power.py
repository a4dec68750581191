"""A domain's power: what it is doing, start, shut down."""

from __future__ import annotations

import contextlib
import time

import libvirt

from provision.providers.libvirt.connection import Handle
from provision.providers.provider import MachineState, Report

# From the power button to a machine that is off; emulated ones take half a minute.
STOP_SECONDS = 60.0
# A machine that is still booting misses the button.
_PRESS_SECONDS = 10.0
_POLL_SECONDS = 0.25

_RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)
_WORDS = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "blocked",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutting down",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "suspended",
}
_PAUSES = {
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: "an error of its disk (is the host's disk full?)",
    libvirt.VIR_DOMAIN_PAUSED_USER: "by somebody",
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: "it has crashed",
}
_STOPS = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "by itself",
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "by force",
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "QEMU has crashed",
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "QEMU could not be started",
}


def state_of(domain: Handle) -> MachineState:
    """The domain's state in a provider's terms; paused and crashed ones are broken, create() brings them back."""
    state, _ = domain.state()
    if state in _RUNNING:
        return MachineState.RUNNING
    if state in (libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
        return MachineState.BROKEN
    return MachineState.STOPPED


def describe(domain: Handle) -> str:
    """The domain's state in words, with the reason where that says more."""
    state, reason = domain.state()
    reasons = {libvirt.VIR_DOMAIN_PAUSED: _PAUSES, libvirt.VIR_DOMAIN_SHUTOFF: _STOPS}.get(state, {})
    words = _WORDS.get(state, f"state {state}")
    return f"{words} ({reasons[reason]})" if reason in reasons else words


def start(domain: Handle, report: Report) -> bool:
    """Have the domain running, whatever it was doing; True if it was not. libvirtError if it cannot be started."""
    state, _ = domain.state()
    if state in _RUNNING:
        return False
    if state == libvirt.VIR_DOMAIN_PAUSED:
        report("resuming")
        domain.resume()
    elif state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        report("waking up")
        domain.pMWakeup()
    else:
        if domain.isActive():  # crashed, or stuck on its way down
            domain.destroy()
        report("starting")
        domain.create()
    return True


def shut_down(domain: Handle, report: Report) -> None:
    """Press the power button and wait; pull the plug if that does not help within a minute."""
    end = time.monotonic() + STOP_SECONDS
    pressed = float("-inf")
    while domain.isActive():
        now = time.monotonic()
        if now > end:
            report(f"it does not shut down within {STOP_SECONDS:.0f} s: switching it off")
            domain.destroy()
            return
        if now - pressed > _PRESS_SECONDS:
            pressed = now
            with contextlib.suppress(libvirt.libvirtError):  # it may just have ended
                domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        time.sleep(_POLL_SECONDS)
