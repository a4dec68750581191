"""Host keys: what is known of a machine's identity, and files of it in OpenSSH's own format (sshd(8): known_hosts).

Two kinds of files are read. A lab's own has one line a machine, under the machine's name, so that a new address does
not make a stranger of it; OpenSSH and Ansible use it with `-o UserKnownHostsFile=FILE -o HostKeyAlias=NAME`. The
user's and the system's have addresses, plain, with wildcards or hashed.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kube.errors import KtoolError
from kube.files import SECRET, write_atomic

USERS_FILES = (
    Path("~/.ssh/known_hosts"),
    Path("~/.ssh/known_hosts2"),
    Path("/etc/ssh/ssh_known_hosts"),
    Path("/etc/ssh/ssh_known_hosts2"),
)
SSH_PORT = 22
# Several machines are pinned at the same time by threads of one process.
_writing = threading.Lock()


@dataclass(frozen=True, slots=True)
class HostKey:
    """A public key: its type (`ssh-ed25519`) and content in base64. Two keys are equal if both are."""

    type: str
    data: str

    def __str__(self) -> str:
        return f"{self.type} {self.data}"

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it: SHA256:..."""
        digest = hashlib.sha256(base64.b64decode(self.data)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Known:
    """What the files say of a host."""

    keys: tuple[HostKey, ...] = ()
    revoked: tuple[HostKey, ...] = ()


def parse(text: str) -> HostKey:
    """A key from "TYPE DATA [COMMENT]", or from a whole line "NAME TYPE DATA" as ssh-keyscan prints it."""
    fields = text.split()
    if len(fields) >= 3 and not _is_key(fields[0], fields[1]):
        fields = fields[1:]
    if len(fields) < 2 or not _is_key(fields[0], fields[1]):
        raise KtoolError(
            "this is no host key",
            found=text.strip()[:80] or "nothing",
            wanted="a public key such as `ssh-ed25519 AAAAC3...`",
            mend="on the machine: cat /etc/ssh/ssh_host_ed25519_key.pub",
        )
    return HostKey(fields[0], fields[1])


def pinned(path: Path, name: str) -> tuple[str, ...]:
    """The keys that a lab's file has for a machine ("TYPE DATA"), for `Endpoint.host_keys`."""
    return tuple(str(key) for named, key in _lines(path) if named == name)


def pin(path: Path, name: str, keys: Iterable[str]) -> None:
    """Have exactly these keys for a machine in a lab's file; other machines' lines stay."""
    wanted = [parse(key) for key in keys]
    with _writing:
        before = list(_lines(path))
        after = [line for line in before if line[0] != name] + [(name, key) for key in dict.fromkeys(wanted)]
        if sorted(map(_text, before)) != sorted(map(_text, after)):
            write_atomic(path, "".join(map(_text, after)).encode(), mode=SECRET)


def unpin(path: Path, name: str) -> None:
    """Forget a machine, for example because it was removed."""
    if path.exists():
        pin(path, name, ())


def lookup(files: Sequence[Path], names: Sequence[str]) -> Known:
    """What known_hosts files say of a host under any of its names. Missing files say nothing."""
    keys: list[HostKey] = []
    revoked: list[HostKey] = []
    for file in files:
        try:
            text = file.expanduser().read_text(errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            fields = line.split()
            if not fields or fields[0].startswith("#"):
                continue
            marker = fields.pop(0) if fields[0].startswith("@") else ""
            # A certificate authority's key says nothing about the host's own: certificates are not used here.
            if len(fields) < 3 or marker not in ("", "@revoked") or not _is_key(fields[1], fields[2]):
                continue
            if any(_matches(fields[0], name) for name in names):
                (revoked if marker else keys).append(HostKey(fields[1], fields[2]))
    return Known(tuple(dict.fromkeys(keys)), tuple(dict.fromkeys(revoked)))


def host_name(address: str, port: int) -> str:
    """How an address stands in the user's files: with its port only if that is not 22."""
    return address if port == SSH_PORT else f"[{address}]:{port}"


def _matches(patterns: str, name: str) -> bool:
    if patterns.startswith("|1|"):
        try:
            _, _, salt, digest = patterns.split("|")
            made = hmac.new(base64.b64decode(salt), name.encode(), "sha1").digest()
            return hmac.compare_digest(made, base64.b64decode(digest))
        except (ValueError, binascii.Error):
            return False
    matched = False
    for pattern in patterns.lower().split(","):
        # Brackets belong to an address with a port; they are no set of characters.
        if fnmatch.fnmatchcase(name.lower(), pattern.removeprefix("!").replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched


def _lines(path: Path) -> Iterable[tuple[str, HostKey]]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 3 and _is_key(fields[1], fields[2]):
            yield fields[0], HostKey(fields[1], fields[2])


def _text(line: tuple[str, HostKey]) -> str:
    return f"{line[0]} {line[1]}\n"


def _is_key(kind: str, data: str) -> bool:
    """The data begin with the type's name once more, length first (RFC 4253, section 6.6)."""
    try:
        content = base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error):
        return False
    return content.startswith(len(kind).to_bytes(4, "big") + kind.encode())
