"""JSON merge patch (RFC 7386): `application/merge-patch+json`.

An object merges field by field, null removes a field, everything else (lists too) replaces. Custom resources are
applied this way, because nothing is known about the keys of their lists.
"""

from __future__ import annotations

from typing import Any

from kube.patch.errors import MalformedPatchError, PatchFailedError
from kube.patch.plain import copied, same


def apply(document: Any, patch: Any) -> Any:
    """The document with the patch merged in; the inputs are left alone and share nothing with the result."""
    try:
        return _merge(document, patch)
    except RecursionError as error:
        raise PatchFailedError("the object is nested too deeply to be patched") from error


def diff(old: Any, new: Any) -> Any:
    """The smallest merge patch that turns `old` into `new`: `apply(old, diff(old, new)) == new`.

    The format cannot say "set to null"; nulls in `new` come out as absent fields.
    """
    if not isinstance(old, dict) or not isinstance(new, dict):
        return copied(new)
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            if value is not None:
                patch[key] = copied(value)
        elif isinstance(old[key], dict) and isinstance(value, dict):
            inner = diff(old[key], value)
            if inner:
                patch[key] = inner
        elif not same(old[key], value):
            patch[key] = copied(value)
    return patch


def three_way(original: Any, modified: Any, current: Any) -> dict[str, Any]:
    """The merge patch of an apply: what the user changed, without undoing what others did.

    `original` is what the user applied last time (None: never), `modified` what the user wants now, `current` what the
    server has. Fields that the user set go to the user's value; fields that the user had set and no longer names are
    removed; everything else stays. An empty patch means that nothing is to be done.
    """
    for document in (modified, current):
        if not isinstance(document, dict):
            raise MalformedPatchError("not an object", found=type(document).__name__, wanted="an object")
    patch: dict[str, Any] = {}
    before = original if isinstance(original, dict) else {}
    for key, wanted in modified.items():
        found = current.get(key)
        if isinstance(wanted, dict) and isinstance(found, dict):
            inner = three_way(before.get(key), wanted, found)
            if inner:
                patch[key] = inner
        elif not same(wanted, found):
            patch[key] = copied(wanted)
    for key in before:
        if key not in modified and key in current:
            patch[key] = None
    return patch


def _merge(document: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copied(patch)
    before: dict[str, Any] = document if isinstance(document, dict) else {}
    result: dict[str, Any] = {}
    for key, value in before.items():
        if key not in patch:
            result[key] = copied(value)
        elif patch[key] is not None:
            result[key] = _merge(value, patch[key])
    for key, value in patch.items():
        if key not in before and value is not None:
            result[key] = _merge(None, value)
    return result
