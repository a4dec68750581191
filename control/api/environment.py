"""What handlers work with: the parts of one API server."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence

from msgspec import Struct, field

from control.api.attributes import (
    Admission,
    Attributes,
    Authenticator,
    Authorizer,
    Object,
    ObjectReader,
    Operation,
    Undo,
)
from control.api.registry import ResourceRegistry
from control.api.storage import Storage
from control.api.subresource import ServerAssets, SubresourceHandler
from control.api.watch_cache import WatchCache
from kube.clock import Clock, SystemClock
from kube.status import ApiError


class Environment(Struct, kw_only=True):
    """The parts of one API server. `admission` plugins run in the order given."""

    registry: ResourceRegistry
    cache: WatchCache
    storage: Storage
    reader: ObjectReader
    authenticator: Authenticator
    authorizer: Authorizer
    admission: Sequence[Admission] = ()
    assets: ServerAssets | None = None
    clock: Clock = field(default_factory=SystemClock)
    handlers: dict[str, SubresourceHandler] = field(default_factory=dict)

    async def admit(self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes) -> Undo:
        """Run all admission plugins. ApiError from the one that refuses.

        What it returns is for `undone_if_refused`, around what follows.
        """
        undos: list[Undo] = []

        def undo() -> None:
            for one in undos:
                one()

        for plugin in self.admission:
            try:
                found = await plugin.admit(obj, old, operation, attributes)
            except ApiError:
                undo()
                raise
            if found is not None:
                undos.append(found)
        return undo

    def handler(self, name: str) -> SubresourceHandler:
        """The handler of a subresource, imported when first asked for. LookupError if there is none."""
        found = self.handlers.get(name)
        if found is None:
            module = f"control.api.subresources.{name}"
            try:
                found = importlib.import_module(module).handle
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
                raise LookupError(f"no handler {name!r}") from error
            assert found is not None
            self.handlers[name] = found
        return found


@contextlib.contextmanager
def undone_if_refused(undo: Undo) -> Iterator[None]:
    """Undo an admission if what it admitted is refused (ApiError). After any other error it may have been written."""
    try:
        yield
    except ApiError:
        undo()
        raise
