"""What the value of a variable may be: functions from what Ansible read to what ktool uses, or a refusal.

INI inventories and templates give strings where YAML gives numbers and booleans; both are accepted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kube import names
from provision.inventory.lab import Taint

T = TypeVar("T")

TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_MAC = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}", re.ASCII | re.IGNORECASE)
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+", re.ASCII)
_HOST_KEY = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}", re.ASCII)
# A name that begins with '-' would be an option of ssh's.
_JUMP = re.compile(r"([^-@\s:,][^@\s:,]*@)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)(:[0-9]{1,5})?", re.ASCII)


class Refused(ValueError):
    """A value that is not what a variable wants."""

    def __init__(self, wanted: str, mend: str = "") -> None:
        super().__init__(wanted)
        self.wanted = wanted
        self.mend = mend


def text(value: Any) -> str:
    """Text; numbers are taken as they are written."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Refused("text")
    return str(value).strip()


def anything(value: Any) -> Any:
    """Whatever it is; somebody else looks at it."""
    return value


def whole_number(low: int, high: int | None = None) -> Callable[[Any], int]:
    """A number from `low` up to and including `high`."""
    wanted = f"a whole number from {low}" + (f" to {high}" if high is not None else " up")

    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value.strip(), re.ASCII):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise Refused(wanted)
        return value

    return parse


def boolean(value: Any) -> bool:
    """true or false, in any of Ansible's spellings."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if isinstance(value, str | int) and word in _TRUE + _FALSE:
        return word in _TRUE
    raise Refused("true or false")


def one_of(choices: Iterable[T]) -> Callable[[Any], T]:
    """One of some words (or of an enumeration's values)."""
    known = {str(choice): choice for choice in choices}

    def parse(value: Any) -> T:
        found = known.get(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            raise Refused(f"one of {', '.join(known)}", closest(value, known))
        return found

    return parse


def closest(word: Any, known: Iterable[str]) -> str:
    """ "Did you mean ...?" for a misspelt word, or empty."""
    import difflib

    near = difflib.get_close_matches(str(word).lower(), list(known), n=1, cutoff=0.7)
    return f"Did you mean {near[0]}?" if near else ""


def user(value: Any) -> str:
    """A user's name, in a domain as well (user@domain); one that begins with '-' would be an option of ssh's."""
    found = text(value)
    if not re.fullmatch(r"[^-\s][^\s]*", found):
        raise Refused("a user's name")
    return found


def dns_label(value: Any) -> str:
    """A DNS label (RFC 1123)."""
    found = text(value)
    if wrong := names.dns1123_label(found):
        raise Refused(f"a name: it {wrong[0]}")
    return found


def network_name(value: Any) -> str:
    """The name of a libvirt network: not empty, without slashes and blanks."""
    found = text(value)
    if not re.fullmatch(r"[A-Za-z0-9_.+:-]+", found, re.ASCII) or found in (".", ".."):
        raise Refused("a network's name: letters, digits and -_.+:")
    return found


def bridge(value: Any) -> str:
    """The name of a network interface (Linux: up to 15 bytes)."""
    found = text(value)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", found, re.ASCII):
        raise Refused("an interface's name: up to 15 letters, digits and -_.")
    return found


def cidr(smallest: int) -> Callable[[Any], str]:
    """An IPv4 range with a prefix of at most `smallest` bits, whose host bits are 0."""

    def parse(value: Any) -> str:
        wanted = f"an IPv4 range ADDRESS/PREFIX, with a prefix of 8 to {smallest}"
        if not isinstance(value, str) or "/" not in value:
            raise Refused(wanted)
        try:
            found = ipaddress.IPv4Network(value.strip(), strict=False)
        except ValueError as error:
            raise Refused(wanted) from error
        if not 8 <= found.prefixlen <= smallest:
            raise Refused(wanted)
        if str(found.network_address) != value.strip().partition("/")[0]:
            raise Refused("a range that starts at its first address", f"Write {found}.")
        return str(found)

    return parse


def ipv4_address(value: Any) -> str:
    """An IPv4 address, without a prefix."""
    try:
        return str(ipaddress.IPv4Address(text(value) if isinstance(value, str) else ""))
    except ValueError as error:
        raise Refused("an IPv4 address such as 192.168.150.10") from error


def mac(value: Any) -> str:
    """A hardware address of one machine, in lower case with colons."""
    wanted = "a hardware address such as 52:54:00:12:34:56"
    if isinstance(value, int):
        # YAML 1.1 reads 52:54:00:12:34:56 as a number to the base of 60
        raise Refused(wanted, "Put it into quotes: YAML reads digits with colons as a number.")
    found = text(value)
    if not _MAC.fullmatch(found):
        raise Refused(wanted)
    found = found.lower().replace("-", ":")
    if int(found[:2], 16) & 1:
        raise Refused("a hardware address of one machine; this one is a group's (its first byte is odd)")
    if found == "00:00:00:00:00:00":
        raise Refused(wanted)
    return found


def image(value: Any) -> str:
    """`debian-12`, an absolute path (or one from the inventory's folder, resolved by the caller) or a URL."""
    found = text(value)
    if re.fullmatch(r"debian-[0-9]+", found, re.ASCII):
        if found != "debian-12":
            raise Refused("debian-12, the release that ktool builds; a path or a URL for any other")
        return found
    if "://" in found:
        parts = urlsplit(found)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused("a URL that starts with https:// or http://")
        return found
    if "/" in found:
        return found
    raise Refused("debian-12, a path (./disk.qcow2, /images/disk.qcow2) or a URL", closest(found, ["debian-12"]))


def checksum(value: Any) -> str:
    """The SHA-256 of a file, as sha256:HEX."""
    found = text(value)
    if re.fullmatch(r"[0-9a-fA-F]{64}", found, re.ASCII):
        raise Refused("sha256:HEX", "Put sha256: in front.")
    if not _CHECKSUM.fullmatch(found.lower()):
        raise Refused("sha256: and 64 hexadecimal digits")
    return found.lower()


def packages(value: Any) -> tuple[str, ...]:
    """Names of Debian packages: a list, or words in one string."""
    for name in (found := words(value)):
        if not _PACKAGE.fullmatch(name):
            raise Refused(f"names of Debian packages; {name!r} is none")
    return found


def words(value: Any) -> tuple[str, ...]:
    """A list of texts, or one text with commas or blanks between them."""
    if isinstance(value, str):
        return tuple(re.split(r"[\s,]+", value.strip())) if value.strip() else ()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(item.strip() for item in value)
    raise Refused("a list of texts")


def labels(value: Any) -> dict[str, str]:
    """Labels: a mapping, or `key=value` with commas between them (Kubernetes: "Labels and Selectors")."""
    if isinstance(value, str):
        pairs: dict[Any, Any] = {}
        for item in words(value):
            key, sign, content = item.partition("=")
            if not sign:
                raise Refused(f"labels as key=value; {item!r} has no '='")
            pairs[key] = content
    elif isinstance(value, Mapping):
        pairs = {key: "" if content is None else content for key, content in value.items()}
    else:
        raise Refused("labels: a mapping of keys to values")
    for key, content in pairs.items():
        if not isinstance(content, str):
            raise Refused(f"text as value of the label {key}", f'Put it into quotes: {key}: "{str(content).lower()}".')
        if wrong := names.qualified_name(str(key)):
            raise Refused(f"keys of labels: {key!r}: {wrong[0]}")
        if wrong := names.label_value(content):
            raise Refused(f"values of labels: {key}: {content!r} {wrong[0]}")
    return {str(key): content for key, content in pairs.items()}


def taints(value: Any) -> tuple[Taint, ...]:
    """Taints: a list of `key=value:Effect` or of mappings with key, value, effect; or the former with commas."""
    items = words(value) if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise Refused("a list of taints such as key=value:NoSchedule")
    found = tuple(_taint(item) for item in items)
    seen: set[tuple[str, str]] = set()
    for taint in found:
        if (taint.key, taint.effect) in seen:
            raise Refused(f"each key and effect once; {taint.key}:{taint.effect} is there twice")
        seen.add((taint.key, taint.effect))
    return found


def _taint(item: Any) -> Taint:
    if isinstance(item, Mapping):
        if unknown := sorted(map(str, set(item) - {"key", "value", "effect"})):
            raise Refused(f"taints with key, value and effect; {unknown[0]} is unknown")
        parts = [item.get("key"), item.get("value") or "", item.get("effect")]
        if not all(isinstance(part, str) for part in parts):
            raise Refused("taints with a key and an effect, all of them text")
        key, content, effect = (str(part) for part in parts)
    elif isinstance(item, str):
        left, _, effect = item.partition(":")
        key, _, content = left.partition("=")
    else:
        raise Refused("taints as text such as key=value:NoSchedule")
    if effect not in TAINT_EFFECTS:
        mend = closest(effect, []) or next(
            (f"Did you mean {e}?" for e in TAINT_EFFECTS if e.lower() == effect.lower()), ""
        )
        raise Refused(f"taints with an effect: {item!r} needs one of {', '.join(TAINT_EFFECTS)} behind ':'", mend)
    if wrong := names.qualified_name(key):
        raise Refused(f"keys of taints: {key!r}: {wrong[0]}")
    if wrong := names.label_value(content):
        raise Refused(f"values of taints: {key}: {content!r} {wrong[0]}")
    return Taint(key=key, value=content, effect=effect)


def host_key(value: Any) -> str:
    """A public host key as in known_hosts or a .pub file; a comment behind it is left out."""
    found = " ".join(text(value).split()[:2])
    if not _HOST_KEY.fullmatch(found):
        raise Refused(
            'a public key such as "ssh-ed25519 AAAA..."',
            "`ssh-keyscan HOST` shows a host's keys; compare them at the console before you trust them.",
        )
    return found


def jumps(value: Any) -> tuple[str, ...]:
    """Hosts to pass on the way, in their order: [user@]host[:port], a list or with commas (OpenSSH: ProxyJump)."""
    for item in (found := words(value)):
        if not _JUMP.fullmatch(item):
            raise Refused(f"hosts to pass as user@host:port; {item!r} is none")
    return found


def http_url(value: Any) -> str:
    """A URL of a web service."""
    found = text(value)
    parts = urlsplit(found)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused("a URL such as https://bmc.example.com")
    if parts.password:
        raise Refused("a URL without a password in it", "Use ktool_redfish_user and ktool_redfish_password.")
    return found


def libvirt_uri(value: Any) -> str:
    """A libvirt connection URI (libvirt: "Connection URIs")."""
    found = text(value)
    if not re.fullmatch(r"[a-z]+(\+[a-z0-9]+)?://\S*/\S+", found, re.ASCII):
        raise Refused("a libvirt URI such as qemu:///system, qemu:///session or qemu+ssh://user@host/system")
    return found


def path(value: Any) -> Path:
    """A file's path; `~` is the user's home. Relative ones are the caller's to resolve."""
    found = text(value)
    if not found:
        raise Refused("a file's path")
    return Path(found).expanduser()
