"""What handlers work with: the parts of one API server."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from control.api.attributes import Admission, Attributes, Authenticator, Authorizer, Object, ObjectReader, Operation
from control.api.registry import ResourceRegistry
from control.api.storage import Storage
from control.api.subresource import ServerAssets, SubresourceHandler
from control.api.watch_cache import WatchCache
from kube.clock import Clock, SystemClock


@dataclass(slots=True, kw_only=True)
class Environment:
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

    async def admit(self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes) -> None:
        """Run all admission plugins. ApiError from the one that refuses."""
        for plugin in self.admission:
            await plugin.admit(obj, old, operation, attributes)

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
