"""Allots Services their cluster IPs and node ports (Kubernetes concept: Service ClusterIP allocation).

What is in use is read from the watch cache. Between allotting and the write's arrival in the cache an address is held
back for its Service, for a few seconds at most, so that two creations at once never get the same one, and a creation
that fails leaks nothing. What is held for a Service is free for that Service: a write that is tried again (by the
server after a conflict, by a user after an error) gets what it got before. A dry run holds nothing. Several masters
claim what they allot in the store that they share (`control.api.address_claims`), until it is written or refused.
"""

from __future__ import annotations

import functools
import ipaddress
import random
from collections.abc import Callable, Hashable, Iterator

from msgspec import Struct, field

from control.api.address_claims import AddressClaims, Claim
from control.api.attributes import Attributes, Object, ObjectReader, Operation, Undo
from control.api.resources.service import WITH_NODE_PORTS
from kube import codec, kinds, status
from kube.clock import Clock
from kube.errors import FieldError

Holder = tuple[str, str]

SERVICES = kinds.known("", "v1", "services")
HELD_SECONDS = 30.0
CLAIM_ATTEMPTS = 16
# holds what another master has taken
STRANGER: Holder = ("", "")
GUESSES = 32
# the first address of the network is the Service `kubernetes`'s own
FIRST_FREE = 2


class _Turn(Struct, frozen=True):
    """One admission: for which Service, what it has taken so far, and its claims where there are other masters."""

    holder: Holder
    taken: dict[Hashable, tuple[Holder, float]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)


class ServiceAddresses:
    """Sets clusterIP(s) and nodePorts, and refuses those that are taken or out of range."""

    name = "ServiceAddresses"

    def __init__(
        self,
        reader: ObjectReader,
        network: ipaddress.IPv4Network,
        node_ports: range,
        clock: Clock,
        *,
        claims: AddressClaims | None = None,
    ) -> None:
        """`claims` are there if other masters allot addresses too."""
        self._claims = claims
        self._network = network
        self._node_ports = node_ports
        self._clock = clock
        self._used: dict[Hashable, int] = {}
        # for which Service something is held back, and since when
        self._held: dict[Hashable, tuple[Holder, float]] = {}
        for service in reader.list(SERVICES):
            self._changed(service, None)
        reader.subscribe(SERVICES, self._changed)

    async def admit(
        self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes
    ) -> Undo | None:
        """Admission.admit."""
        is_service = attributes.group == "" and attributes.resource == "services" and not attributes.subresource
        if obj is None or not is_service or operation not in (Operation.CREATE, Operation.UPDATE):
            return None
        self._forget_held()
        asked = codec.copy(obj)
        for attempt in range(CLAIM_ATTEMPTS):
            turn = _Turn((attributes.namespace, obj["metadata"].get("name", "")))
            errors = [*self._cluster_ip(obj, old, turn), *self._ports(obj, old, turn)]
            if errors:
                if self._claims is None or attempt:
                    raise status.invalid("", "Service", attributes.name, errors)
                await self._claims.fresh()  # another master may have just freed it
            elif attributes.dry_run:
                return None
            else:
                lost = await self._lost(turn)
                if not lost:
                    self._held |= turn.taken
                    return functools.partial(self._release, turn)
                # choose again, without what other masters were faster to take
                self._held |= {what: (STRANGER, self._clock.monotonic()) for what in lost}
            obj.clear()
            obj.update(codec.copy(asked))
        raise status.internal_error("other masters take every address that is chosen: try again")

    async def _lost(self, turn: _Turn) -> list[Hashable]:
        """What of this turn belongs to others after all."""
        if self._claims is None or not turn.taken:
            return []
        lost: list[Hashable] = []
        for what in turn.taken:
            claim = await self._claims.claim(_text(what), "/".join(turn.holder))
            if claim is None:
                lost.append(what)
            else:
                turn.claims.append(claim)
        await self._claims.fresh()
        lost += [what for what in turn.taken if what in self._used]
        if lost:
            self._release(turn)  # others are chosen: nobody shall wait for these
        return lost

    def _release(self, turn: _Turn) -> None:
        """Let other masters have what this turn has claimed. Here it is held a little longer, for another try."""
        for claim in turn.claims:
            assert self._claims is not None
            self._claims.release(claim)

    def _cluster_ip(self, obj: Object, old: Object | None, turn: _Turn) -> Iterator[FieldError]:
        spec = obj.setdefault("spec", {})
        if spec.get("type") == "ExternalName":
            for field in ("clusterIP", "clusterIPs"):
                spec.pop(field, None)
            return
        address = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or ()), "")
        own = ((old or {}).get("spec") or {}).get("clusterIP", "")
        if not address:
            count = self._network.num_addresses
            # the lower part is left to those who choose an address themselves (KEP-3070)
            lower = min(max(16, count // 16), 256, count - 1)
            found = self._allot(
                turn,
                lambda: str(self._network[random.randrange(FIRST_FREE, count - 1)]),  # noqa: S311
                (str(self._network[i]) for i in (*range(lower, count - 1), *range(FIRST_FREE, lower))),
            )
            if found is None:
                message = f"every address of the service network {self._network} is in use: delete Services"
                yield FieldError.invalid("spec.clusterIPs", "", message)
                return
            address = str(found)
        elif address not in ("None", own):
            yield from self._check_ip(address, turn)
        spec["clusterIP"], spec["clusterIPs"] = address, [address]

    def _check_ip(self, address: str, turn: _Turn) -> Iterator[FieldError]:
        try:
            inside = ipaddress.ip_address(address) in self._network
        except ValueError:
            return  # validation says what is wrong with it
        if not inside:
            message = f"the provided IP ({address}) is not in the service network {self._network}"
            yield FieldError.invalid("spec.clusterIPs", [address], message)
        elif self._is_taken(address, turn):
            message = "provided IP is already allocated to another Service: choose a free one or leave the field out"
            yield FieldError.invalid("spec.clusterIPs", [address], message)
        else:
            self._take(address, turn)

    def _ports(self, obj: Object, old: Object | None, turn: _Turn) -> Iterator[FieldError]:
        spec = obj.get("spec") or {}
        if spec.get("type") not in WITH_NODE_PORTS:
            return
        if spec["type"] == "LoadBalancer" and not spec.get("allocateLoadBalancerNodePorts", True):
            return
        own = {*_node_ports(old or {})}
        first, last = self._node_ports[0], self._node_ports[-1]
        for position, port in enumerate(spec.get("ports") or ()):
            wanted = port.get("nodePort")
            protocol = port.get("protocol", "TCP")
            path = f"spec.ports[{position}].nodePort"
            if not wanted:
                found = self._allot(
                    turn,
                    lambda protocol=protocol: (protocol, random.choice(self._node_ports)),  # type: ignore[misc]  # noqa: S311
                    ((protocol, number) for number in self._node_ports),
                )
                if found is None:
                    yield FieldError.invalid(path, 0, f"every node port from {first} to {last} is in use")
                    return
                port["nodePort"] = found[1]  # type: ignore[index]
            elif (protocol, wanted) in own:
                continue
            elif wanted not in self._node_ports:
                message = f"provided port is not in the valid range. The range of valid ports is {first}-{last}"
                yield FieldError.invalid(path, wanted, message)
            elif self._is_taken((protocol, wanted), turn):
                message = "provided port is already allocated to another Service: choose a free one or leave it out"
                yield FieldError.invalid(path, wanted, message)
            else:
                self._take((protocol, wanted), turn)

    def _allot(self, turn: _Turn, guess: Callable[[], Hashable], every: Iterator[Hashable]) -> Hashable | None:
        """A free one: by guessing while most are free, else by looking at each."""
        for _ in range(GUESSES):
            candidate = guess()
            if not self._is_taken(candidate, turn):
                break
        else:
            candidate = next((c for c in every if not self._is_taken(c, turn)), None)
        if candidate is not None:
            self._take(candidate, turn)
        return candidate

    def _take(self, what: Hashable, turn: _Turn) -> None:
        turn.taken[what] = (turn.holder, self._clock.monotonic())

    def _is_taken(self, candidate: Hashable, turn: _Turn) -> bool:
        if candidate in self._used or candidate in turn.taken:
            return True
        return candidate in self._held and self._held[candidate][0] != turn.holder

    def _forget_held(self) -> None:
        limit = self._clock.monotonic() - HELD_SECONDS
        self._held = {what: held for what, held in self._held.items() if held[1] > limit}

    def _changed(self, new: Object | None, old: Object | None) -> None:
        for service, step in ((old, -1), (new, 1)):
            for what in _allotted(service or {}):
                if self._claims is not None and step > 0 and service is not None:
                    self._claims.settled(_text(what), int(service["metadata"]["resourceVersion"]))
                self._held.pop(what, None)  # it is in use now, or it was and is free at once
                count = self._used.get(what, 0) + step
                if count > 0:
                    self._used[what] = count
                else:
                    self._used.pop(what, None)


def _text(what: Hashable) -> str:
    """An address, or a protocol and a port, as the name of a claim."""
    return "/".join(map(str, what)) if isinstance(what, tuple) else str(what)


def _allotted(service: Object) -> Iterator[Hashable]:
    address = (service.get("spec") or {}).get("clusterIP")
    if address and address != "None":
        yield address
    yield from _node_ports(service)


def _node_ports(service: Object) -> Iterator[tuple[str, int]]:
    for port in (service.get("spec") or {}).get("ports") or ():
        if port.get("nodePort"):
            yield port.get("protocol", "TCP"), port["nodePort"]
