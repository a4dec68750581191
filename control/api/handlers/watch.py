"""watch: the changes of a collection as they happen (Kubernetes API concepts: "Efficient detection of changes")."""

from __future__ import annotations

import random

from control.api.call import Call
from control.api.entry import Entry
from control.api.environment import Environment
from control.api.handlers.list import check_match, scope_of
from control.api.output import JSON_HEADERS, event_encoder
from control.api.watch_cache import ResourceCache
from control.api.watcher import Change, Watcher
from control.store.errors import CompactedError
from control.store.store import EventType
from kube import status
from kube.errors import FieldError
from kube.status import ApiError
from kube.transport import Response

# How long a watch lives when its client does not say: spread, so that they don't all come back at once.
MIN_SECONDS = 1800
MAX_SECONDS = 3600
LONGEST_SECONDS = 7 * 24 * 3600


async def handle(environment: Environment, call: Call) -> Response:
    """Answer with a stream of events, one line of JSON each.

    Without resourceVersion (or with 0) what exists comes first, as ADDED. A revision that is forgotten is told as an
    ERROR event with a Status 410.
    """
    resource, options = call.resource, call.options
    cache = environment.cache
    scope = scope_of(resource, call.namespace, options, call.info.name)
    revision = options.resource_version()
    initial = _initial_events(call, revision)
    seconds = min(options.number("timeoutSeconds") or 0, LONGEST_SECONDS) or random.randint(MIN_SECONDS, MAX_SECONDS)  # noqa: S311
    if revision is None:
        await cache.fresh()
    elif revision:
        await cache.not_older_than(revision)
    watcher = Watcher(
        scope,
        removed=cache.discard,
        encoder=event_encoder(resource, call.output),
        bookmarks=options.flag("allowWatchBookmarks"),
    )
    found = cache.of_prefix(resource.prefix)
    # no pause between reading the present and being added: no change falls in between
    if initial:
        for entry in found.sorted_entries(call.namespace):
            if scope.selects(entry):
                watcher.push_object("ADDED", entry)
        if options.flag("sendInitialEvents") and watcher.bookmarks:
            watcher.bookmark(cache.revision, initial_events_end=True)
        found.add(watcher)
    else:
        await _resume(environment, found, watcher, revision or cache.revision)
    watcher.end_after(seconds)
    return Response(200, JSON_HEADERS, stream=watcher)


def _initial_events(call: Call, revision: int | None) -> bool:
    """Whether the watch begins with what exists."""
    options, match = call.options, call.options.text("resourceVersionMatch")
    if not options.text("sendInitialEvents"):
        if match:
            message = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            error = FieldError.forbidden("resourceVersionMatch", message)
            raise status.invalid("meta.k8s.io", "ListOptions", "", [error])
        return not revision
    if match != "NotOlderThan":
        message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        raise status.invalid("meta.k8s.io", "ListOptions", "", [FieldError.forbidden("resourceVersionMatch", message)])
    check_match("", revision)
    return options.flag("sendInitialEvents")


async def _resume(environment: Environment, cache: ResourceCache, watcher: Watcher, revision: int) -> None:
    """Give a watch everything after `revision`, from memory or from the store's history, and all from now on."""
    changes = cache.window_since(revision) if cache.changed_revision > revision else []
    if changes is not None:
        for change in changes:
            watcher.offer(change)
        cache.add(watcher)
        return
    watcher.hold()
    cache.add(watcher)
    try:
        past = await _history(environment, cache, revision, cache.changed_revision)
    except CompactedError as error:
        watcher.fail(_too_old(revision, error.compact_revision))
        return
    except BaseException:
        watcher.close()
        raise
    watcher.release(past)


async def _history(environment: Environment, cache: ResourceCache, after: int, upto: int) -> list[Change]:
    """Changes after one revision up to another one. CompactedError if some are lost."""
    found: list[Change] = []
    cut = len(cache.prefix)
    for event in await environment.storage.store.history(cache.prefix, first=after + 1, last=upto):
        kv, before = event.kv, event.prev_kv
        if before is None and (event.type is EventType.DELETE or kv.version > 1):
            # at the edge of what is forgotten: an end without what ended would be lost
            raise CompactedError(after + 1, kv.mod_revision + 1)
        key = kv.key[cut:]
        old = Entry.from_storage(key, before.mod_revision, before.value) if before else None
        new = Entry.from_storage(key, kv.mod_revision, kv.value) if event.type is EventType.PUT else None
        found.append(Change(kv.mod_revision, new, old))
    return found


def _too_old(revision: int, oldest: int) -> ApiError:
    return status.expired(f"too old resource version: {revision} ({oldest})")
