"""Runs on a machine by `python3 -`: connects to listeners on others, all at once, and prints how it went.

Like the probe: standard library only, from Python 3.6 on. Prints a JSON list, one entry a target: what went wrong, or
an empty string.
"""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

GREETING = b"ktool\n"


def main() -> None:
    """Connect to all targets, print the answers."""
    want = json.loads(sys.argv[1])
    seconds = float(want["seconds"])
    with ThreadPoolExecutor(max_workers=max(1, min(64, len(want["targets"])))) as pool:
        answers = list(pool.map(lambda target: connect(target[0], target[1], seconds), want["targets"]))
    json.dump(answers, sys.stdout)


def connect(address: str, port: int, seconds: float) -> str:
    """Empty if the listener greets, else what happened instead."""
    try:
        with socket.create_connection((address, port), timeout=seconds) as client:
            greeting = client.recv(len(GREETING))
    except socket.timeout:  # noqa: UP041 (another class before Python 3.10)
        return f"no answer within {seconds:g} s"
    except ConnectionRefusedError:
        return "connection refused"
    except OSError as error:
        return str(error.strerror or error)
    return "" if greeting == GREETING else "somebody else answers"


if __name__ == "__main__":
    main()
