from __future__ import annotations

import itertools

import pytest

from provision.providers.redfish.actions import Action, Answer, Phase, Refusal, Seen, decide, steps
from provision.providers.redfish.bmc import BootDevice, Power

ON, OFF = Power.ON, Power.OFF
DISK, NETWORK, OTHER = BootDevice.DISK, BootDevice.NETWORK, BootDevice.OTHER
INSTALL = (
    *(Action.BOOT_NETWORK, Action.POWER_ON, Action.INSTALL, Action.WAIT_OFF),
    *(Action.BOOT_DISK, Action.POWER_ON, Action.REMEMBER),
)
FROM_DISK = INSTALL[4:]


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        # never seen before: installed if it is off, left alone if it runs
        (Seen(Phase.NEW, OFF, OTHER), INSTALL),
        (Seen(Phase.NEW, OFF, DISK), INSTALL),
        (Seen(Phase.NEW, ON, OTHER), Refusal.FOREIGN),
        (Seen(Phase.NEW, Power.POWERING_ON, OTHER), Refusal.FOREIGN),
        (Seen(Phase.NEW, Power.UNKNOWN, OTHER), Refusal.FOREIGN),
        # an installation that did not end is begun anew, whatever the machine is at
        (Seen(Phase.INSTALLING, OFF, NETWORK), INSTALL),
        (Seen(Phase.INSTALLING, ON, NETWORK), (Action.POWER_OFF, *INSTALL)),
        (Seen(Phase.INSTALLING, ON, DISK), (Action.POWER_OFF, *INSTALL)),
        # the installer was done, ktool was not
        (Seen(Phase.WRITTEN, ON, NETWORK), (Action.WAIT_OFF, *FROM_DISK)),
        (Seen(Phase.WRITTEN, OFF, NETWORK), FROM_DISK),
        (Seen(Phase.WRITTEN, OFF, DISK), FROM_DISK),
        (Seen(Phase.WRITTEN, ON, DISK), (Action.REMEMBER,)),
        # installed
        (Seen(Phase.INSTALLED, ON, DISK, Answer.OURS), ()),
        (Seen(Phase.INSTALLED, ON, DISK, Answer.NOBODY), ()),
        (Seen(Phase.INSTALLED, ON, OTHER, Answer.OURS), ()),
        (Seen(Phase.INSTALLED, OFF, DISK), (Action.POWER_ON,)),
        (Seen(Phase.INSTALLED, OFF, OTHER), (Action.POWER_ON,)),
        (Seen(Phase.INSTALLED, OFF, NETWORK), (Action.BOOT_DISK, Action.POWER_ON)),
        (Seen(Phase.INSTALLED, ON, DISK, Answer.OTHER), Refusal.OTHER_KEY),
    ],
)
def test_decide(seen: Seen, wanted: tuple[Action, ...] | Refusal) -> None:
    assert decide(seen) == wanted


@pytest.mark.parametrize("phase", Phase)
def test_no_installation_without_a_network_boot_and_none_of_what_is_installed(phase: Phase) -> None:
    for power, boot, answer in itertools.product(Power, BootDevice, Answer):
        actions = decide(Seen(phase, power, boot, answer))
        if isinstance(actions, Refusal):
            continue
        if Action.INSTALL in actions:
            assert phase in (Phase.NEW, Phase.INSTALLING)
            assert phase is not Phase.NEW or power is OFF
            assert actions.index(Action.BOOT_NETWORK) < actions.index(Action.POWER_ON) < actions.index(Action.INSTALL)


def test_steps() -> None:
    assert steps(()) == "nothing to do"
    assert steps(FROM_DISK) == "boot from the disk from now on, switch it on, remember that it is installed"
