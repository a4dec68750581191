"""What iPXE is told to do (https://ipxe.org/scripting), as text."""

from __future__ import annotations

RETRY_SECONDS = 5


def install_script(name: str, *, url: str, mac: str) -> str:
    """Start the installer. `url` is where it finds everything and reports to; it holds a secret of this one
    installation. Both consoles are named, for nobody knows which of them someone will look at."""
    arguments = (
        f"initrd=installer.img ktool.url={url} ktool.mac={mac.lower()} net.ifnames=0 console=tty0 console=ttyS0,115200"
    )
    return f"""#!ipxe
echo ktool installs {name}
:kernel
kernel {url}/vmlinuz {arguments} || goto again
initrd --name installer.img {url}/installer.img || goto again
boot || goto again
:again
sleep {RETRY_SECONDS}
goto kernel
"""


def local_script(name: str) -> str:
    """Give the machine back to its firmware, which goes on to the next boot device: its disk."""
    return f"""#!ipxe
echo ktool has nothing to install on {name}
exit
"""
