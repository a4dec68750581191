"""One object in the API server's memory: its bytes as clients get them, parsed only when somebody must look inside.

The store keeps an object as JSON without its resourceVersion, because that is the revision at which the store wrote
it. The cache puts it in once, when the change arrives; from then on lists and watches join and send the same bytes.
"""

from __future__ import annotations

from typing import Any

import orjson

from control.api.resource import Object, Resource

_NOT_STORED = frozenset({"resourceVersion", "managedFields", "selfLink"})
_METADATA = b'"metadata":{'


def encode_for_storage(obj: Object) -> bytes:
    """The bytes that the store keeps: apiVersion, kind and metadata first, without what the server adds by itself.

    managedFields are dropped as well: field ownership is not recorded. So are maps and lists of metadata that have
    become empty (the last label was taken off).
    """
    metadata = {k: v for k, v in obj["metadata"].items() if k not in _NOT_STORED and v not in ({}, [])}
    stored = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": metadata}
    stored.update((k, v) for k, v in obj.items() if k not in stored)
    return orjson.dumps(stored)


def with_revision(value: bytes, revision: int) -> bytes:
    """Stored bytes as clients see them: with metadata.resourceVersion, as the first field of metadata."""
    at = value.index(_METADATA) + len(_METADATA)
    return b'%b"resourceVersion":"%d",%b' % (value[:at], revision, value[at:])


class Entry:
    """An object at one revision. Immutable; what it derives from its bytes is kept once asked for.

    `key` is `namespace/name`, or `name` of a cluster-scoped object; `data` its JSON with resourceVersion.
    """

    __slots__ = ("_object", "_selectable", "data", "key", "revision")

    def __init__(self, key: str, revision: int, data: bytes) -> None:
        self.key = key
        self.revision = revision
        self.data = data
        self._object: Object | None = None
        self._selectable: tuple[dict[str, str], dict[str, str]] | None = None

    @classmethod
    def from_storage(cls, key: str, revision: int, value: bytes) -> Entry:
        """Entry of a stored value."""
        return cls(key, revision, with_revision(value, revision))

    @property
    def namespace(self) -> str:
        return self.key.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def object(self) -> Object:
        """The parsed object, shared by all who ask: never change it."""
        if self._object is None:
            self._object = orjson.loads(self.data)
        return self._object

    def forget(self) -> None:
        """Give up the parsed object, many times as large as the bytes. Who asks again gets it again."""
        self._object = None

    def parse(self) -> Object:
        """A private copy of the object, not kept."""
        obj: Object = orjson.loads(self.data)
        return obj

    def selectable(self, resource: Resource) -> tuple[dict[str, str], dict[str, str]]:
        """Labels and selectable fields."""
        if self._selectable is None:
            obj = self._object if self._object is not None else orjson.loads(self.data)
            metadata: dict[str, Any] = obj["metadata"]
            self._selectable = (metadata.get("labels") or {}, resource.fields(obj))
        return self._selectable

    def at(self, revision: int) -> Entry:
        """The same object under another resourceVersion: the last state of what was deleted at `revision`."""
        old, new = b'"resourceVersion":"%d"' % self.revision, b'"resourceVersion":"%d"' % revision
        return Entry(self.key, revision, self.data.replace(old, new, 1))

    def seen_as(self, resource: Resource) -> Entry:
        """The object as `resource` shows it: itself, unless its stored form is another version's."""
        if resource.from_storage is None:
            return self
        return Entry(self.key, self.revision, orjson.dumps(resource.from_storage(self.parse())))
