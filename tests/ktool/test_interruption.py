"""Ctrl-C ends a command within seconds, also where a thread of it waits for a machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

CODE = """
import asyncio, signal, time
# whoever runs the tests in the background may have it ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
from ktool import session
session.INTERRUPTED_SECONDS = 0.5
async def work():
    print("works", flush=True)
    await asyncio.to_thread(time.sleep, 60)
session.run(work())
"""


def test_a_thread_that_waits_keeps_nobody() -> None:
    process = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "works\n"
        interrupted = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - interrupted < 15
    finally:
        process.kill()
        process.communicate()
