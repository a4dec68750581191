"""What is to be done with a machine, from what is seen of it: a table, and nothing else.

An installation goes through phases that are remembered (`installation.py`), so that whoever comes after a crash knows
where it ended. What is not in ktool's memory and has its power on is somebody's machine: it is left alone, for the
alternative is to overwrite its disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from provision.providers.redfish.bmc import BootDevice, Power


class Phase(StrEnum):
    """How far ktool has come with a machine."""

    NEW = "new"  # nothing is remembered of it
    INSTALLING = "installing"  # the installer was started, and has not said that it is done
    WRITTEN = "written"  # the disk is written and verified, the host key known; not yet started from disk
    INSTALLED = "installed"


class Answer(StrEnum):
    """Who answers SSH at the machine's address."""

    NOBODY = "nobody"
    OURS = "ours"  # with the host key that the installer reported
    OTHER = "other"


class Action(StrEnum):
    """One step, in the words in which it is reported."""

    POWER_OFF = "switch it off"
    BOOT_NETWORK = "boot from the network next"
    BOOT_DISK = "boot from the disk from now on"
    POWER_ON = "switch it on"
    INSTALL = "install"  # until the installer has reported success
    WAIT_OFF = "wait until it is off"  # and switch it off if it stays on
    REMEMBER = "remember that it is installed"


class Refusal(StrEnum):
    """Why nothing may be done."""

    FOREIGN = "it runs, and ktool has not installed it"
    OTHER_KEY = "something else answers at its address than what ktool installed"


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of a machine."""

    phase: Phase
    power: Power
    boot: BootDevice
    answer: Answer = Answer.NOBODY


_INSTALL = (
    Action.BOOT_NETWORK,
    Action.POWER_ON,
    Action.INSTALL,
    Action.WAIT_OFF,
    Action.BOOT_DISK,
    Action.POWER_ON,
    Action.REMEMBER,
)
_FROM_DISK = (Action.BOOT_DISK, Action.POWER_ON, Action.REMEMBER)


def decide(seen: Seen) -> tuple[Action, ...] | Refusal:
    """The actions that make the machine installed and running from its disk; none if it is."""
    # In doubt (a state in between, an unknown word) it counts as on: then nothing is overwritten unasked.
    off = seen.power is Power.OFF
    match seen.phase:
        case Phase.NEW:
            return _INSTALL if off else Refusal.FOREIGN
        case Phase.INSTALLING:
            return _INSTALL if off else (Action.POWER_OFF, *_INSTALL)
        case Phase.WRITTEN:
            if off:
                return _FROM_DISK
            # On and set to its disk: it was started, only the note is missing.
            return (Action.REMEMBER,) if seen.boot is BootDevice.DISK else (Action.WAIT_OFF, *_FROM_DISK)
        case Phase.INSTALLED:
            if seen.answer is Answer.OTHER:
                return Refusal.OTHER_KEY
            if not off:
                return ()
            return (Action.POWER_ON,) if seen.boot is not BootDevice.NETWORK else (Action.BOOT_DISK, Action.POWER_ON)


def steps(actions: tuple[Action, ...]) -> str:
    """The actions in words, for people."""
    return ", ".join(action.value for action in actions) or "nothing to do"
