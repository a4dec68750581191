"""list: a collection, whole or in pages (Kubernetes API concepts: "Resource versions").

A list comes from memory whenever memory shows the asked moment: the present, or a past revision since which nothing
of the resource has changed (the usual case of a second page). Only else is the store's history read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from control.api.call import Call, Options
from control.api.continue_token import CURRENT, ContinueExpiredError, ContinueToken
from control.api.entry import Entry
from control.api.environment import Environment
from control.api.output import respond_list
from control.api.resource import Object, Resource
from control.api.watcher import Scope
from control.store.errors import CompactedError, FutureRevisionError
from kube import selector, status
from kube.errors import FieldError
from kube.selector import FieldRequirement, FieldSelector, SelectorError
from kube.status import ApiError
from kube.transport import Response

STORE_PAGE = 500


async def handle(environment: Environment, call: Call) -> Response:
    """Answer with a list, with a `continue` token if `limit` cut it off."""
    resource, options = call.resource, call.options
    scope = scope_of(resource, call.namespace, options, call.info.name)
    limit = options.number("limit") or 0
    token = ContinueToken.decode(options.text("continue")) if options.text("continue") else None
    exact = await _moment(environment, options, token, limit)
    start_after = token.start_after if token else ""
    cache = environment.cache.of_prefix(resource.prefix)
    if exact and cache.changed_revision > exact:
        try:
            found, more = await _past_page(environment, scope, exact, start_after, limit)
        except CompactedError:
            if token is not None:
                raise ContinueExpiredError(ContinueToken(CURRENT, token.start_after)) from None
            raise status.expired(f"The resourceVersion for the provided list is too old: {exact}") from None
        except FutureRevisionError as error:
            raise status.timeout(f"Too large resource version: {exact}, current: {error.current}", 1) from None
    else:
        # no pause from here to the end: the page and the revision that it is told to be of belong together
        exact = exact or environment.cache.revision
        found, more = _page(cache.sorted_entries(call.namespace, start_after), scope, limit)
    metadata: Object = {"resourceVersion": str(exact)}
    if more:
        metadata["continue"] = ContinueToken(exact, found[-1].key).encode()
        if more > 0:
            metadata["remainingItemCount"] = more
    return respond_list(found, resource, call.output, metadata)


async def _moment(environment: Environment, options: Options, token: ContinueToken | None, limit: int) -> int:
    """The past revision that the list shows; 0 for the present, once memory is as new as it must be."""
    cache = environment.cache
    revision, match = options.resource_version(), options.text("resourceVersionMatch")
    if token is not None:
        if revision:
            raise status.bad_request("specifying resource version is not allowed when using continue")
        if token.revision != CURRENT:
            await cache.not_older_than(token.revision)
            return token.revision
    check_match(match, revision)
    if revision is None:
        await cache.fresh()
        return 0
    await cache.not_older_than(revision)
    # with a limit and nothing said about the match, a revision has always been meant exactly
    return revision if match == "Exact" or (limit and not match) else 0


def check_match(match: str, revision: int | None) -> None:
    """ApiError 422 for a resourceVersionMatch that makes no sense."""
    error = None
    if match and match not in ("Exact", "NotOlderThan"):
        error = FieldError.not_supported("resourceVersionMatch", match, ("Exact", "NotOlderThan"))
    elif match and revision is None:
        error = FieldError.forbidden(
            "resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"
        )
    elif match == "Exact" and revision == 0:
        error = FieldError.forbidden(
            "resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        )
    if error is not None:
        raise status.invalid("meta.k8s.io", "ListOptions", "", [error])


def _page(entries: Iterator[Entry], scope: Scope, limit: int) -> tuple[Sequence[Entry], int]:
    """Up to `limit` entries (0: all), and how many follow: -1 if some do and nobody counted."""
    if not limit:
        return ([*entries] if scope.everything else [e for e in entries if scope.selects(e)]), 0
    found: list[Entry] = []
    for entry in entries:
        if not scope.selects(entry):
            continue
        if len(found) == limit:
            return found, 1 + sum(1 for _ in entries) if scope.everything else -1
        found.append(entry)
    return found, 0


async def _past_page(
    environment: Environment, scope: Scope, revision: int, start_after: str, limit: int
) -> tuple[Sequence[Entry], int]:
    """As `_page`, from the store's history."""
    resource, found = scope.resource, list[Entry]()
    while True:
        wanted = limit - len(found) if limit and scope.everything else STORE_PAGE
        page = await environment.storage.page_at(
            resource, scope.namespace, revision=revision, start_after=start_after, limit=wanted
        )
        for position, entry in enumerate(page.entries):
            if not scope.selects(entry):
                continue
            found.append(entry)
            if limit and len(found) == limit:
                remaining = len(page.entries) - position - 1 + page.remaining
                return found, remaining if scope.everything or not remaining else -1
        if not page.remaining:
            return found, 0
        start_after = page.entries[-1].key


def scope_of(resource: Resource, namespace: str, options: Options, name: str = "") -> Scope:
    """What a request selects; `name` is the one object that it was authorized for, if it named one.

    ApiError 400 for selectors that make no sense.
    """
    labels, fields = options.text("labelSelector"), options.text("fieldSelector")
    if not labels and not fields and not name:
        return Scope(resource, namespace)
    try:
        found = selector.parse_fields(fields, resource.selectable_fields)
        if name and found.exact("metadata.name") != name:
            found = FieldSelector((FieldRequirement("metadata.name", name), *found.requirements))
        return Scope(resource, namespace, labels=selector.parse(labels), fields=found)
    except SelectorError as error:
        raise _not_selectable(error) from error


def _not_selectable(error: SelectorError) -> ApiError:
    return status.bad_request(str(error))
