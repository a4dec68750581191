"""patch: PATCH of an object or its status, by JSON patch, merge patch or strategic merge patch."""

from __future__ import annotations

from typing import Any

from control.api import body, strategy
from control.api.call import Call
from control.api.environment import Environment
from control.api.handlers.update import update_object
from control.api.output import respond_entry
from control.api.resource import Object
from kube import codec, status
from kube.codec import DecodeError
from kube.kinds import Kind
from kube.patch import json_patch, merge, strategic
from kube.patch.errors import MalformedPatchError, PatchError
from kube.schema import TypeNode
from kube.transport import Request, Response

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


async def handle(environment: Environment, call: Call) -> Response:
    """Answer with the object after the patch (200)."""
    resource = call.resource
    patch = read(call.request)
    validation = call.options.field_validation
    warnings: list[str] = []

    def mutate(current: Object) -> Object:
        patched = apply(patch, call.request, current, resource.kind, resource.type)
        warnings[:] = body.check(patched, resource.type, resource.kind.kind, resource.kind.version, validation)
        strategy.check_name(patched, call.info.name)
        return patched

    entry = await update_object(environment, resource, call.namespace, call.info.name, mutate, call.attributes)
    call.warnings += warnings
    return respond_entry(entry, resource, call.output)


def read(request: Request) -> Any:
    """The patch as plain data. ApiError 400, 413, 415."""
    body.check_size(len(request.body))
    media = body.media_type(request.headers)
    if media == APPLY:
        raise status.unsupported_media_type(
            f"server-side apply ({APPLY}) is not supported: wanted {STRATEGIC}, {MERGE} or {JSON_PATCH}; "
            "use kubectl apply without --server-side"
        )
    if media not in (JSON_PATCH, MERGE, STRATEGIC):
        raise status.unsupported_media_type(
            f"the body of the request was in an unknown format: found {media!r}, wanted one of {JSON_PATCH}, "
            f"{MERGE}, {STRATEGIC}"
        )
    try:
        patch = codec.parse(request.body)
    except DecodeError as error:
        raise status.bad_request(str(error)) from error
    if media != JSON_PATCH and not isinstance(patch, dict):
        raise status.bad_request(f"the patch is no object: found {type(patch).__name__}, wanted a JSON object")
    return patch


def apply(patch: Any, request: Request, current: Object, kind: Kind, type_: TypeNode | None) -> Object:
    """An object with a patch of the request's media type applied. ApiError 400, 422."""
    media = body.media_type(request.headers)
    try:
        if media == JSON_PATCH:
            patched = json_patch.apply(current, patch)
        elif media == MERGE or type_ is None:
            patched = merge.apply(current, patch)
        else:
            patched = strategic.apply(current, patch, type_)
    except MalformedPatchError as error:
        raise status.bad_request(str(error)) from error
    except PatchError as error:
        name = current["metadata"].get("name", "")
        raise status.ApiError(
            422,
            status.Reason.INVALID,
            f'the patch cannot be applied to {kind.group_resource} "{name}": {error}',
            {"name": name, "group": kind.group, "kind": kind.kind},
        ) from error
    if not isinstance(patched, dict) or not isinstance(patched.get("metadata"), dict):
        raise status.bad_request("after the patch nothing is left that is an object with metadata")
    body.expect_kind(patched, kind.api_version, kind.kind)
    return patched
