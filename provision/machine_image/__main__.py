"""`python -m provision.machine_image [SOURCE[+PACKAGE...]...]`: have images for libvirt and nspawn built ahead.

For machines (and test runs) that will have no package sources later. Prints where they are. What a lab with several
masters wants is `debian-12+etcd-server+haproxy`.
"""

from __future__ import annotations

import argparse
import sys
import time

from kube.errors import KtoolError
from provision.inventory.lab import ImageSettings
from provision.lab_state import cache_dir
from provision.machine_image.prepare import virtual_image


def main() -> None:
    """Build each image that was named; debian-12 if none was."""
    parser = argparse.ArgumentParser(prog="python -m provision.machine_image", description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="*", default=["debian-12"], help="debian-12 or debian-13, +PACKAGE for more")
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} {line}", file=sys.stderr, flush=True)

    try:
        for source in parser.parse_args().source:
            name, *packages = source.split("+")
            image = ImageSettings(source=name, packages=tuple(sorted(packages)))
            print(virtual_image(image, cache_dir(), report))
    except KtoolError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
