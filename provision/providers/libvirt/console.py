"""What a machine says on its serial console: its host key, and its last words."""

from __future__ import annotations

import re

from provision.machine_image.guest_files import HOST_KEY_MARK

# How much of a console's end is looked at, in bytes: a boot says less.
TAIL_BYTES = 256 * 1024
_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{68}={0,2}(?=\s|$)")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x00-\x08\x0b-\x1f\x7f]")
# cloud-init's way of telling the same (module keys_to_console).
_CLOUD_BEGIN, _CLOUD_END = "-----BEGIN SSH HOST KEY KEYS-----", "-----END SSH HOST KEY KEYS-----"


def host_key(console: str) -> str:
    """The public host key that the machine told last ("ssh-ed25519 AAAA..."); empty if it has not yet."""
    told = ""
    inside = False
    for line in console.splitlines():
        if _CLOUD_BEGIN in line or _CLOUD_END in line:
            inside = _CLOUD_BEGIN in line
            continue
        _, mark, rest = line.partition(HOST_KEY_MARK)
        if mark or inside:
            found = _KEY.search(rest if mark else line)
            told = found[0] if found else told
    return told


def last_lines(console: str, count: int) -> list[str]:
    """The last lines with something in them, without control characters."""
    lines = [_CONTROL.sub("", line).rstrip() for line in console.splitlines()]
    return [line for line in lines if line][-count:]
