"""Between the store's words and etcd's messages: pure functions."""

from __future__ import annotations

from control.store.etcd import rpc_pb2 as rpc
from control.store.store import Event, EventType, KeyValue

EVERYTHING = (b"\x00", b"\x00")  # etcd's way to say: every key


class Keys:
    """The keys of a store inside etcd's: all have one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()

    def encode(self, key: str) -> bytes:
        """etcd's key."""
        return self._prefix + key.encode()

    def decode(self, key: bytes) -> str:
        """The store's key. What is no text (nobody's of ours) becomes text that is no key of ours either."""
        return key[len(self._prefix) :].decode(errors="backslashreplace")

    def bounds(self, prefix: str, start_after: str = "") -> tuple[bytes, bytes]:
        """The half-open range (key, range_end) of the keys that start with `prefix` and follow `start_after`."""
        low = self._prefix + prefix.encode()
        key, end = (low, _after_all(low)) if low else EVERYTHING
        return (max(key, self.encode(start_after) + b"\x00") if start_after else key), end

    def key_value(self, kv: rpc.KeyValue) -> KeyValue:
        """KeyValue of the store."""
        return KeyValue(self.decode(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)

    def event(self, event: rpc.Event) -> Event:
        """Event of the store."""
        previous = self.key_value(event.prev_kv) if event.HasField("prev_kv") else None
        if event.type == rpc.Event.DELETE:
            kv = KeyValue(self.decode(event.kv.key), b"", 0, event.kv.mod_revision, 0)
            return Event(EventType.DELETE, kv, previous)
        return Event(EventType.PUT, self.key_value(event.kv), previous)


def lacks_previous(event: rpc.Event) -> bool:
    """Whether there was something before this event that etcd could not tell us any more."""
    if event.HasField("prev_kv"):
        return False
    return event.type == rpc.Event.DELETE or event.kv.create_revision != event.kv.mod_revision


def compare_and_swap(key: bytes, expected_revision: int, change: rpc.RequestOp) -> rpc.TxnRequest:
    """`change`, if `key` was last written at `expected_revision` (0: does not exist); else read what it holds."""
    return rpc.TxnRequest(
        compare=[
            rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=key, mod_revision=expected_revision)
        ],
        success=[change],
        failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=key))],
    )


def _after_all(prefix: bytes) -> bytes:
    """The first key after all that start with `prefix`. UTF-8 has no byte 0xff, so adding 1 is safe."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
