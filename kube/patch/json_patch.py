"""JSON patch (RFC 6902): `application/json-patch+json`, by the library `jsonpatch`.

The library applies operations; here they are checked one by one first, so that an error names the operation, and what
they may cost is bounded: a few dozen `copy` operations, each doubling the object, would otherwise fill the memory.
"""

from __future__ import annotations

from typing import Any

import orjson

from kube.patch.errors import MalformedPatchError, PatchError, PatchFailedError
from kube.patch.plain import copied

MAX_OPERATIONS = 10_000
MAX_COPIED_BYTES = 3 * 1024 * 1024

_NEEDS = {
    "add": ("path", "value"),
    "remove": ("path",),
    "replace": ("path", "value"),
    "move": ("path", "from"),
    "copy": ("path", "from"),
    "test": ("path", "value"),
}


def apply(document: Any, patch: Any) -> Any:
    """The document with the operations done to it, in order; all of them or none. The inputs are left alone.

    `document` and `patch` (a list of operations) are plain JSON data. MalformedPatchError if the patch is no such
    list; PatchFailedError if a path is not there or a test fails, naming the operation by its index.
    """
    import jsonpatch  # not at a start: most clients never send one
    import jsonpointer

    if not isinstance(patch, list):
        raise MalformedPatchError("not a JSON patch", found=type(patch).__name__, wanted="a list of operations")
    if len(patch) > MAX_OPERATIONS:
        raise MalformedPatchError(
            "the JSON patch is too long", found=f"{len(patch)} operations", wanted=f"at most {MAX_OPERATIONS}"
        )
    for index, operation in enumerate(patch):
        _check(index, operation)
    try:
        result = copied(document)
    except RecursionError as error:
        raise PatchFailedError("the object is nested too deeply to be patched") from error
    budget = MAX_COPIED_BYTES
    for index, operation in enumerate(patch):
        try:
            if operation["op"] == "copy":
                budget -= len(orjson.dumps(jsonpointer.resolve_pointer(result, operation["from"])))
                if budget < 0:
                    raise PatchFailedError(
                        f"operation {index} of the JSON patch copies too much",
                        wanted=f"{MAX_COPIED_BYTES} bytes in all",
                    )
            result = jsonpatch.JsonPatch([copied(operation)]).apply(result, in_place=True)
        except PatchError:
            raise
        except jsonpatch.JsonPatchTestFailed as error:
            raise _failed(index, operation, "the test does not hold") from error
        except (jsonpatch.JsonPatchConflict, jsonpointer.JsonPointerException) as error:
            # their texts repeat the object, which may be a Secret
            raise _failed(index, operation, "there is no such place in the object") from error
        except (
            jsonpatch.JsonPatchException,
            # How the library meets a path that leads through a string, a number or null.
            TypeError,
            AttributeError,
            LookupError,
            RecursionError,
        ) as error:
            raise _failed(index, operation, str(error)) from error
    return result


def _check(index: int, operation: Any) -> None:
    if not isinstance(operation, dict):
        raise _malformed(index, type(operation).__name__, "an object with op and path")
    op = operation.get("op")
    needs = _NEEDS.get(op) if isinstance(op, str) else None
    if needs is None:
        raise _malformed(index, f"op {op!r}", f"op one of {', '.join(_NEEDS)}")
    for member in needs:
        if member not in operation:
            raise _malformed(index, f"{op} without {member}", f"{op} with {' and '.join(needs)}")
        if member != "value":
            pointer = operation[member]
            if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
                raise _malformed(index, f"{member} {pointer!r}", "a JSON pointer such as /metadata/labels/app")


def _malformed(index: int, found: str, wanted: str) -> MalformedPatchError:
    return MalformedPatchError(f"operation {index} of the JSON patch is malformed", found=found, wanted=wanted)


def _failed(index: int, operation: dict[str, Any], reason: str) -> PatchFailedError:
    what = f"operation {index} of the JSON patch cannot be done: {operation['op']} {operation['path']}"
    return PatchFailedError(what, found=reason)
