"""The form in which a client wants its answer, from its Accept header, and answers in that form.

JSON is the form of everything; YAML is a courtesy to people with curl. `as=Table` and `as=PartialObjectMetadata` are
Kubernetes' "Receiving resources as Tables" and metadata-only answers (`control.api.table`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import lru_cache

import orjson
import yaml
from msgspec import Struct

from control.api import table
from control.api.entry import Entry
from control.api.resource import Object, Resource
from control.api.watcher import BOOKMARK, Encoder, event_line
from kube import status
from kube.status import ApiError
from kube.transport import Response

JSON = "application/json"
YAML = "application/yaml"

JSON_HEADERS: Mapping[str, str] = {"content-type": JSON}


class Output(Struct, frozen=True):
    """A negotiated form: media type (JSON or YAML) and transformation ("", "Table", "PartialObjectMetadata")."""

    media_type: str = JSON
    transform: str = ""
    include_object: str = "Metadata"


PLAIN = Output()


@lru_cache(maxsize=256)
def negotiate(accept: str, include_object: str = "") -> Output:
    """The first form of an Accept header that the server has. ApiError 406 if it has none of them."""
    if not accept:
        return PLAIN
    for clause in accept.split(","):
        media_type, *parameters = (part.strip() for part in clause.split(";"))
        found = dict(p.split("=", 1) for p in parameters if "=" in p)
        wanted = found.get("as", "")
        if media_type in (JSON, "*/*", "application/*"):
            media = JSON
        elif media_type in (YAML, "application/x-yaml", "text/yaml"):
            media = YAML
        else:
            continue
        if not wanted:
            return Output(media)
        transform = wanted.removesuffix("List")
        if transform in ("Table", "PartialObjectMetadata") and found.get("v", "v1") == "v1":
            return Output(media, transform, include_object or "Metadata")
    raise status.not_acceptable(
        f"the server has none of the media types that the client accepts: found {accept!r}, wanted {JSON} or {YAML}"
    )


def respond(obj: Object, *, output: Output = PLAIN, code: int = 200) -> Response:
    """Answer with plain data."""
    return respond_bytes(orjson.dumps(obj), output=output, code=code)


def respond_bytes(data: bytes, *, output: Output = PLAIN, code: int = 200) -> Response:
    """Answer with JSON that is encoded already."""
    if output.media_type == YAML:
        text = yaml.dump(orjson.loads(data), Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
        return Response(code, {"content-type": YAML}, text.encode())
    return Response(code, JSON_HEADERS, data)


def respond_error(error: ApiError, *, output: Output = PLAIN) -> Response:
    """Answer with the Status object of an error."""
    response = respond(error.to_status(), output=output, code=error.code)
    if error.retry_after_seconds:
        response.headers = {**response.headers, "retry-after": str(error.retry_after_seconds)}
    return response


def respond_entry(entry: Entry, resource: Resource, output: Output, *, code: int = 200) -> Response:
    """Answer with one object."""
    entry = entry.seen_as(resource)
    if not output.transform:
        return respond_bytes(entry.data, output=output, code=code)
    if output.transform == "Table":
        found = table.of(
            [entry], resource, {"resourceVersion": str(entry.revision)}, output.include_object, time.time()
        )
        return respond(found, output=output, code=code)
    return respond(table.metadata_only(entry.object), output=output, code=code)


def respond_list(entries: Iterable[Entry], resource: Resource, output: Output, metadata: Object) -> Response:
    """Answer with a list; `metadata` is its ListMeta."""
    if resource.from_storage is not None:
        entries = [entry.seen_as(resource) for entry in entries]
    if output.transform == "Table":
        return respond(table.of(entries, resource, metadata, output.include_object, time.time()), output=output)
    if output.transform:
        items = [table.metadata_only(entry.object) for entry in entries]
        kind = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        return respond({**kind, "metadata": metadata, "items": items}, output=output)
    head = orjson.dumps(
        {"kind": resource.kind.list_kind, "apiVersion": resource.kind.api_version, "metadata": metadata}
    )
    body = b'%b,"items":[%b]}' % (head[:-1], b",".join([entry.data for entry in entries]))
    return respond_bytes(body, output=output)


def event_encoder(resource: Resource, output: Output) -> Encoder | None:
    """How watch events look in this form; None: as they are."""
    if not output.transform:
        return None
    if output.transform == "PartialObjectMetadata":
        return lambda type_, entry: event_line(type_, orjson.dumps(table.metadata_only(entry.parse())))
    first = True

    def as_table(type_: str, entry: Entry) -> bytes:
        nonlocal first
        entries = [] if type_ == BOOKMARK else [entry]
        metadata = {"resourceVersion": str(entry.revision)}
        found = table.of(entries, resource, metadata, output.include_object, time.time())
        if not first:
            # the columns of a watch are told once
            found["columnDefinitions"] = []
        first = False
        return event_line(type_, orjson.dumps(found))

    return as_table
