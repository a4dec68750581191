"""create: POST to a collection."""

from __future__ import annotations

import orjson
from msgspec.structs import replace

from control.api import body, strategy
from control.api.attributes import Attributes, Operation
from control.api.call import Call
from control.api.entry import Entry, encode_for_storage
from control.api.environment import Environment, undone_if_refused
from control.api.output import respond_entry
from control.api.resource import Object, Resource
from control.api.storage import MAX_OBJECT_BYTES, too_large
from kube import codec, kinds, names, status
from kube.transport import Response

NAMESPACES = kinds.known("", "v1", "namespaces")
GENERATED_NAME_ATTEMPTS = 8


async def handle(environment: Environment, call: Call) -> Response:
    """Answer with the new object (201)."""
    resource = call.resource
    obj, warnings = body.read(call.request, resource.kind, resource.type, call.options.field_validation)
    call.warnings += warnings
    entry = await create_object(environment, resource, call.namespace, obj, call.attributes)
    return respond_entry(entry, resource, call.output, code=201)


async def create_object(
    environment: Environment, resource: Resource, namespace: str, obj: Object, attributes: Attributes
) -> Entry:
    """Create an object of checked fields: identity, defaults, admission, validation, commit. `obj` is used up."""
    metadata = obj["metadata"]
    strategy.check_namespace(obj, resource, namespace)
    if resource.kind.namespaced:
        if environment.reader.get(NAMESPACES, "", namespace) is None:
            await environment.cache.fresh()  # another master may have just created it
        check_namespace_accepts(environment, resource, namespace, metadata.get("name", ""))
    base = "" if metadata.get("name") else metadata.get("generateName", "")
    strategy.begin(obj, resource, environment.clock.time())
    resource.default(obj)
    named = replace(attributes, name=metadata.get("name", ""))
    undo = await environment.admit(obj, None, Operation.CREATE, named)
    with undone_if_refused(undo):
        resource.default(obj)  # for what admission added
        resource.prepare_create(obj)
        strategy.validate(obj, resource)
        name: str = metadata["name"]
        if attributes.dry_run:
            if environment.storage.get(resource, namespace, name) is not None:
                raise status.already_exists(resource.kind.plural, name, group=resource.kind.group)
            return dry_entry(resource, obj)
        for _ in range(GENERATED_NAME_ATTEMPTS if base else 1):
            try:
                return await environment.storage.create(resource, namespace, name, obj)
            except status.ApiError as error:
                if not base or not status.is_already_exists(error):
                    raise
                # somebody has the random name already
                failed = error
                name = metadata["name"] = names.generate_name(base)
        raise failed


def check_namespace_accepts(environment: Environment, resource: Resource, namespace: str, name: str) -> None:
    """A namespace takes new objects if it exists and is not being deleted. ApiError 404, 403."""
    found = environment.reader.get(NAMESPACES, "", namespace)
    if found is None:
        raise status.not_found("namespaces", namespace)
    if found["metadata"].get("deletionTimestamp"):
        detail = f"unable to create new content in namespace {namespace} because it is being terminated"
        error = status.forbidden(resource.kind.plural, name, detail, group=resource.kind.group)
        error.details["causes"] = [
            {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
        ]
        raise error


def dry_entry(resource: Resource, obj: Object, revision: int = 0) -> Entry:
    """What a dry run answers with: the object as it would be stored."""
    data = encode_for_storage(obj)
    if len(data) > MAX_OBJECT_BYTES:
        raise too_large(resource, obj["metadata"]["name"], len(data))
    stored = orjson.loads(data)
    metadata = stored["metadata"]
    if revision:
        metadata["resourceVersion"] = str(revision)
    key = f"{metadata['namespace']}/{metadata['name']}" if resource.kind.namespaced else metadata["name"]
    return Entry(key, revision, codec.encode(resource.to_storage(stored) if resource.to_storage else stored))
