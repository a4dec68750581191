"""`python -m provision.providers.redfish [SOURCE]`: have everything ready that installs bare metal.

For hosts (and test runs) that will have no package sources later. Prints where the files are.
"""

from __future__ import annotations

import argparse
import sys
import time

from kube.errors import KtoolError
from provision.inventory.lab import ImageSettings
from provision.lab_state import cache_dir
from provision.providers.redfish.artifacts import artifacts


def main() -> None:
    """Make the disk and the installer of one image; debian-12 if none was named."""
    parser = argparse.ArgumentParser(prog="python -m provision.providers.redfish", description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="debian-12", help="debian-12 or debian-13")
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} {line}", file=sys.stderr, flush=True)

    try:
        made = artifacts(ImageSettings(source=parser.parse_args().source), cache_dir(), report)
    except KtoolError as error:
        sys.exit(str(error))
    print(made.kernel, made.initrd, made.disk.folder, sep="\n")


if __name__ == "__main__":
    main()
