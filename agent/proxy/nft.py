"""The proxy's table in the kernel: applied in-process through libnftables, each time as one transaction.

The table remembers what it applied last and sends only the difference. Others may change nftables behind its back
(`nft flush ruleset`, a firewall service that reloads). The kernel counts every committed transaction of a network
namespace (its generation); reading that number costs microseconds, so the table is read back and compared only when
somebody else has committed something.

Clients that session affinity has learned survive a replacement of the whole table: they are read before and put back
within the same transaction.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct, field

from agent.proxy.ruleset import FAMILY, TABLE, Ruleset, compatible, difference, removal, replacement
from kube.errors import KtoolError

log = logging.getLogger(__name__)

_SECONDS = 5.0  # a netlink answer takes microseconds
_NETLINK_NETFILTER = 12
_GETGEN = (10 << 8) | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_HEADERS = 20  # struct nlmsghdr and struct nfgenmsg


class NftError(KtoolError):
    """nftables did not do what it was told; nothing has changed (a transaction is all or nothing)."""


class Applied(Struct, frozen=True):
    """What one `sync` did: how many commands, whether the whole table was replaced, how long it took (seconds)."""

    commands: int
    replaced: bool
    seconds: float


class Listing(Struct, frozen=True):
    """A table as the kernel has it.

    `rules`: chain → number of its rules; `elements`: set or map → key → value, in the words of `Ruleset`; `clients`:
    dynamic set → address → (timeout, remaining) in seconds.
    """

    rules: Mapping[str, int] = field(default_factory=dict)
    elements: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    clients: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)

    def agrees_with(self, wanted: Ruleset) -> bool:
        """Whether the kernel has what is wanted: all elements, and as many rules in each chain (whoever rewrites a
        rule in a table that is not theirs and keeps the count goes unnoticed)."""
        return (
            self.rules == {name: len(chain.rules) for name, chain in wanted.chains.items()}
            and self.elements.keys() | self.clients.keys() == wanted.sets.keys()
            and all(self.elements[name] == wanted.elements.get(name, {}) for name in self.elements)
        )


class _Generation:
    """Reads the number of the last transaction committed to nftables in this network namespace (NFT_MSG_GETGEN).

    By a bare socket: libnftables does not tell the number, and pyroute2 0.9 cannot send the request. The socket stays
    open, because closing one waits until the kernel has freed what recent transactions deleted (some 20 ms).
    """

    def __init__(self) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._netlink.settimeout(_SECONDS)
        self._netlink.bind((0, 0))

    def read(self) -> int:
        message = struct.pack("=IHHIIBBH", _HEADERS, _GETGEN, _NLM_F_REQUEST, 1, 0, socket.AF_UNSPEC, 0, 0)
        self._netlink.send(message)
        answer = self._netlink.recv(4096)
        (kind,) = struct.unpack_from("=H", answer, 4)
        if kind == _NLMSG_ERROR:
            (number,) = struct.unpack_from("=i", answer, 16)
            raise NftError("cannot read nftables' generation", found=f"errno {-number}", wanted="root (CAP_NET_ADMIN)")
        # the first attribute is NFTA_GEN_ID: length, type, number in network order
        (generation,) = struct.unpack_from(">I", answer, _HEADERS + 4)
        return int(generation)

    def close(self) -> None:
        self._netlink.close()


class NftTable:
    """The proxy's own table. Not for several threads at once; opens its sockets where it is first used."""

    def __init__(self, name: str = TABLE) -> None:
        self.name = name
        self._library: Any = None
        self._counter: _Generation | None = None
        self._current: Ruleset | None = None
        self._generation: int | None = None

    @property
    def current(self) -> Ruleset | None:
        """What the kernel holds, None if not known (at the start, after a failure, after a foreign change)."""
        return self._current

    def sync(self, wanted: Ruleset) -> Applied:
        """Make the kernel hold `wanted`: by the difference if the present state is known, otherwise by replacing the
        table, in both cases in one transaction. Raises NftError; then the kernel is as it was."""
        start = time.monotonic()
        if self._current is not None and compatible(self._current, wanted):
            commands = difference(self._current, wanted, table=self.name)
            try:
                self._commit(commands)
            except NftError as error:
                # the usual reason: somebody else has changed the table since
                log.warning("table %s: %s; replacing it", self.name, error)
            else:
                self._current = wanted
                return Applied(len(commands), False, time.monotonic() - start)
        self._current = None
        commands = replacement(wanted, table=self.name)
        before = self.read()
        if before is not None:
            commands += _remember_clients(before, wanted, f"{FAMILY} {self.name}")
        self._commit(commands)
        self._current = wanted
        return Applied(len(commands), True, time.monotonic() - start)

    def intact(self) -> bool:
        """Whether the kernel still holds what was applied last. Cheap while nobody else changes nftables; after False
        the next `sync` replaces the table."""
        if self._current is None:
            return False
        generation = self._read_generation()
        if generation == self._generation:
            return True
        found = self.read()
        if found is None or not found.agrees_with(self._current):
            self._current = None
            return False
        self._generation = generation
        return True

    def read(self) -> Listing | None:
        """The table as the kernel has it, None if there is none."""
        library = self._open()
        library.set_json_output(True)
        try:
            code, output, error = library.cmd(f"list table {FAMILY} {self.name}")
        finally:
            library.set_json_output(False)
        if code:
            if "No such file or directory" in error:
                return None
            raise NftError(f"cannot read the table {self.name}", found=_first_line(error))
        return _parse(orjson.loads(output))

    def remove(self) -> None:
        """Delete the table; nothing happens if there is none."""
        self._current = None
        if self.read() is not None:
            self._commit(removal(table=self.name))

    def _commit(self, commands: Sequence[str]) -> None:
        if not commands:
            return
        library = self._open()
        before = self._read_generation()
        code, _, error = library.cmd("\n".join(commands))
        if code:
            raise NftError(
                "nftables refused the Service rules",
                found=_first_line(error),
                wanted=f"{len(commands)} commands in one transaction",
            )
        after = self._read_generation()
        # another's commit in between may have touched our table: then it will be read back
        self._generation = after if after == (before + 1) & 0xFFFFFFFF else None

    def close(self) -> None:
        """Close the sockets; the table stays in the kernel."""
        self._library = None
        if self._counter is not None:
            self._counter.close()
            self._counter = None

    def _read_generation(self) -> int:
        if self._counter is None:
            self._counter = _Generation()
        return self._counter.read()

    def _open(self) -> Any:
        if self._library is None:
            try:
                import nftables  # loads libnftables.so

                self._library = nftables.Nftables()
            except (ImportError, OSError) as error:
                raise NftError("libnftables is missing", found=str(error), mend="apt-get install nftables") from error
        return self._library


def _remember_clients(before: Listing, wanted: Ruleset, where: str) -> list[str]:
    """Commands that put learned clients back into the dynamic sets that are still wanted."""
    lines = []
    for name, clients in sorted(before.clients.items()):
        texts = [f"{ip} timeout {timeout}s expires {left}s" for ip, (timeout, left) in clients.items() if left > 0]
        if texts and name in wanted.sets:
            lines.append(f"add element {where} {name} {{ {', '.join(texts)} }}")
    return lines


def _parse(listing: Mapping[str, Any]) -> Listing:
    """libnftables' JSON of one table as a Listing."""
    rules: dict[str, int] = {}
    elements: dict[str, dict[str, str]] = {}
    clients: dict[str, dict[str, tuple[int, int]]] = {}
    for item in listing["nftables"]:
        if "chain" in item:
            rules.setdefault(item["chain"]["name"], 0)
        elif "rule" in item:
            rules[item["rule"]["chain"]] = rules.get(item["rule"]["chain"], 0) + 1
        elif "set" in item:
            content = item["set"]
            if "timeout" in content.get("flags", ()):
                found = (entry["elem"] for entry in content.get("elem", ()))
                clients[content["name"]] = {e["val"]: (e["timeout"], e["expires"]) for e in found if "timeout" in e}
            else:
                elements[content["name"]] = {_text(key): "" for key in content.get("elem", ())}
        elif "map" in item:
            content = item["map"]
            elements[content["name"]] = {_text(key): _text(value) for key, value in content.get("elem", ())}
    return Listing(rules, elements, clients)


def _text(value: Any) -> str:
    """A key or value of an element in nft's words."""
    if isinstance(value, Mapping):
        if "concat" in value:
            return " . ".join(str(part) for part in value["concat"])
        verdict, detail = next(iter(value.items()))
        return f"{verdict} {detail['target']}" if detail else str(verdict)
    return str(value)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]
