"""Python's cyclic garbage collector while a program starts.

To load a master or an agent makes a hundred thousand objects that stay for good. The collector, which knows only that
there are more and more of them, looks through all of them again and again: a sixth of the time that loading takes, a
quarter on an emulated machine. So a program that is being loaded puts it off; once it runs, what was loaded is set
aside for good, and the collector works as ever.
"""

from __future__ import annotations

import gc

from kube.clock import Clock

# New objects (of those that may be part of cycles) until the collector looks: more than loading makes, and still an
# end, should a program be kept from getting as far as `settle`.
LOADING_THRESHOLD = 200_000
# How long after its start (an agent's: after it has joined) a program has loaded what it loads.
LOADED_SECONDS = 20.0

_USUAL = gc.get_threshold()


def put_off() -> None:
    """Let the collector wait while the program is loaded; `settle` ends it."""
    gc.set_threshold(LOADING_THRESHOLD, *_USUAL[1:])


def settle() -> None:
    """Set aside what there is (the collector will never look at it again), and let it work as usual.

    Nothing is collected before: that would cost what was to be saved, and what loading leaves behind is half a MiB.
    """
    gc.freeze()
    gc.set_threshold(*_USUAL)


async def settle_later(clock: Clock) -> None:
    """Settle when the start is over."""
    await clock.sleep(LOADED_SECONDS)
    settle()
