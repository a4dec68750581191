"""Strategic merge patch: `application/strategic-merge-patch+json` ("Update API Objects in Place").

The problem: a merge patch replaces a list as a whole, so a patch of one container would have to repeat all of them and
would undo what others did meanwhile. Strategic merge patch knows from the schema which lists are really maps, and by
which key (containers by `name`, ports by `containerPort`), and merges their items. Lists without such a key, and lists
whose schema is unknown, are replaced.

What a patch cannot say by its values it says by directives:

    $patch: delete | replace | merge      of an object, or of an item of a list
    $deleteFromPrimitiveList/<field>      values to take out of a list of plain values
    $setElementOrder/<field>              the order of the items (each only with its merge key)
    $retainKeys                           fields of a union that stay; the object's other fields go

Order of a merged list: the patch's items stand in the patch's order (or that of $setElementOrder), the others keep
theirs, and the two are woven together by the order that the list had before. An item that is new stands before those
that the patch does not name; that surprises, and is what Kubernetes does.

`apply` does a patch, `three_way` makes one: the patch of a `kubectl apply`. Both are pure: inputs are never changed
and share nothing with results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from kube.patch.errors import MalformedPatchError, PatchFailedError
from kube.patch.plain import copied, same
from kube.schema import FieldNode, TypeNode

DIRECTIVE: Final = "$patch"
RETAIN_KEYS: Final = "$retainKeys"
DELETE_FROM: Final = "$deleteFromPrimitiveList/"
ELEMENT_ORDER: Final = "$setElementOrder/"

_ABSENT: Final[Any] = object()

Json = dict[str, Any]


def apply(document: Json, patch: Json, node: TypeNode | None) -> Json:
    """The document with the patch merged in.

    `node` is the schema of the document's kind. MalformedPatchError if directives make no sense, PatchFailedError if
    they do not fit the document; both name the field.
    """
    if not isinstance(document, dict) or not isinstance(patch, dict):
        raise MalformedPatchError("not a strategic merge patch", found=type(patch).__name__, wanted="an object")
    try:
        return _merge_object(document, patch, node, "")
    except RecursionError as error:
        raise PatchFailedError("the object is nested too deeply to be patched") from error


# --- what the schema says -----------------------------------------------------------------------------------------


def _field(node: TypeNode | None, name: str) -> FieldNode | None:
    return node.fields.get(name) if node is not None else None


def _type(node: TypeNode | None, name: str) -> TypeNode | None:
    """The type of a field, or of a map's values; None where the schema says nothing."""
    if node is None:
        return None
    field = node.fields.get(name)
    return field.type if field is not None else node.values


def _strategy(node: TypeNode | None, name: str, strategy: str) -> bool:
    field = _field(node, name)
    return field is not None and strategy in field.patch_strategies


def _merge_key(node: TypeNode | None, name: str) -> str:
    field = _field(node, name)
    return field.patch_merge_key if field is not None else ""


def _items(node: TypeNode | None, name: str) -> TypeNode | None:
    type_ = _type(node, name)
    return type_.items if type_ is not None else None


# --- doing a patch ------------------------------------------------------------------------------------------------


def _merge_object(document: Json, patch: Json, node: TypeNode | None, path: str) -> Json:
    match patch.get(DIRECTIVE, "merge"):
        case "replace":
            replacement = _without_directives({k: v for k, v in patch.items() if k != DIRECTIVE})
            assert isinstance(replacement, dict)
            return replacement
        case "delete":
            return {}
        case "merge":
            pass
        case other:
            raise _malformed(path, f"{DIRECTIVE}: {other!r}", "delete, replace or merge")
    kept = _retained(document, patch, path)
    result: Json = {}
    fields = _patched_fields(patch, path)
    for name, value in kept.items():
        if name not in fields:
            result[name] = copied(value)
            continue
        merged = _merge_field(value, patch, node, name, path)
        if merged is not _ABSENT:
            result[name] = merged
    for name in fields:
        if name not in kept:
            merged = _merge_field(_ABSENT, patch, node, name, path)
            if merged is not _ABSENT:
                result[name] = merged
    return result


def _patched_fields(patch: Json, path: str) -> dict[str, None]:
    """Names of the fields that a patch speaks of, by value or by directive, in its order."""
    fields: dict[str, None] = {}
    for key, value in patch.items():
        if key in (DIRECTIVE, RETAIN_KEYS):
            continue
        for prefix in (DELETE_FROM, ELEMENT_ORDER):
            if key.startswith(prefix):
                if not isinstance(value, list):
                    raise _malformed(_join(path, key), type(value).__name__, "a list")
                fields[key.removeprefix(prefix)] = None
                break
        else:
            fields[key] = None
    return fields


def _retained(document: Json, patch: Json, path: str) -> Json:
    """The document's fields that $retainKeys leaves, if the patch has it."""
    if RETAIN_KEYS not in patch:
        return document
    keys = patch[RETAIN_KEYS]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _malformed(_join(path, RETAIN_KEYS), repr(keys), "a list of field names")
    stray = sorted(
        key for key, value in patch.items() if value is not None and not key.startswith("$") and key not in keys
    )
    if stray:
        raise _malformed(_join(path, RETAIN_KEYS), f"{', '.join(stray)} in the patch only", "every field of the patch")
    return {key: value for key, value in document.items() if key in keys}


def _merge_field(before: Any, patch: Json, node: TypeNode | None, name: str, path: str) -> Any:
    """The new value of one field, or _ABSENT."""
    here = _join(path, name)
    value = patch.get(name, _ABSENT)
    order = patch.get(ELEMENT_ORDER + name)
    deletions = patch.get(DELETE_FROM + name)
    if value is None:
        return _ABSENT
    if isinstance(before, list) and deletions is not None:
        before = [item for item in before if not any(same(item, gone) for gone in deletions)]
    if before is None and value is not _ABSENT:
        before = _ABSENT
    if isinstance(value, dict) and isinstance(before, dict):
        if _strategy(node, name, "replace"):
            return _without_directives(value)
        return _merge_object(before, value, _type(node, name), here)
    if isinstance(value, list) and _strategy(node, name, "merge") and (before is _ABSENT or isinstance(before, list)):
        old = [] if before is _ABSENT else before
        return _merge_list(old, value, order, node=_items(node, name), key=_merge_key(node, name), path=here)
    if value is _ABSENT:
        if isinstance(before, list) and order is not None and _strategy(node, name, "merge"):
            return _merge_list(before, [], order, node=_items(node, name), key=_merge_key(node, name), path=here)
        return _ABSENT if before is _ABSENT else copied(before)
    return _without_directives(value)


def _without_directives(value: Any) -> Any:
    """A patch's value for something that was not there before: directives and nulls have done their work.

    _ABSENT if the value is only there to delete something.
    """
    if isinstance(value, dict):
        if value.get(DIRECTIVE) == "delete":
            return _ABSENT
        result = {}
        for key, inner in value.items():
            if inner is None or key in (DIRECTIVE, RETAIN_KEYS) or key.startswith((DELETE_FROM, ELEMENT_ORDER)):
                continue
            cleaned = _without_directives(inner)
            if cleaned is not _ABSENT:
                result[key] = cleaned
        return result
    if isinstance(value, list):
        kept = (item for item in value if not (isinstance(item, dict) and item == {DIRECTIVE: "replace"}))
        return [cleaned for item in kept if (cleaned := _without_directives(item)) is not _ABSENT]
    return value


def _merge_list(
    before: list[Any], patch: list[Any], order: list[Any] | None, *, node: TypeNode | None, key: str, path: str
) -> list[Any]:
    """Merge the items of a list by their key (objects; `key` is its field) or by their value (key is empty)."""
    if not key:
        return _merge_values(before, patch, order, path)
    items: list[Json] = []
    deleted: set[Any] = set()
    replace = False
    for index, item in enumerate(patch):
        where = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise _malformed(where, type(item).__name__, f"an object with {key}")
        match item.get(DIRECTIVE, "merge"):
            case "delete":
                deleted.add(_identity(item, key, where))
            case "replace":
                replace = True
            case "merge":
                _identity(item, key, where)
                items.append(item)
            case other:
                raise _malformed(where, f"{DIRECTIVE}: {other!r}", "delete, replace or merge")
    if replace:
        return [_without_directives(item) for item in items]
    merged: list[Any] = []
    place: dict[Any, int] = {}
    for item in before:
        identity = _identity_or_none(item, key)
        if identity is not None:
            if identity in deleted:
                continue
            place.setdefault(identity, len(merged))
        merged.append(item)
    touched: set[int] = set()
    for index, item in enumerate(items):
        identity = _identity(item, key, path)
        at = place.get(identity, -1)
        if at < 0:
            place[identity] = len(merged)
            touched.add(len(merged))
            merged.append(_without_directives(item))
        else:
            touched.add(at)
            merged[at] = _merge_object(merged[at], item, node, f"{path}[{index}]")
    merged = [item if at in touched else copied(item) for at, item in enumerate(merged)]

    patched = [_identity(item, key, path) for item in items]
    wanted = patched
    if order is not None:
        parent, _, name = path.rpartition(".")
        directive = _join(parent, ELEMENT_ORDER + name)
        wanted = [_identity(entry, key, directive) for entry in order]
        _check_order(patched, wanted, path)
    return _ordered(merged, [_identity_or_none(i, key) for i in merged], wanted, _identities(before, key))


def _merge_values(before: list[Any], patch: list[Any], order: list[Any] | None, path: str) -> list[Any]:
    for item in (*patch, *(order or ())):
        if isinstance(item, dict | list):
            raise _malformed(path, type(item).__name__, "plain values: this list has no merge key")
    merged = [copied(item) for item in before]
    known = [_scalar(item) for item in merged]
    for item in patch:
        if _scalar(item) not in known:
            known.append(_scalar(item))
            merged.append(item)
    patched = [_scalar(item) for item in patch]
    wanted = patched
    if order is not None:
        wanted = [_scalar(item) for item in order]
        _check_order(patched, wanted, path)
    return _ordered(merged, known, wanted, [_scalar(item) for item in before])


def _check_order(patched: Sequence[Any], wanted: Sequence[Any], path: str) -> None:
    """The patch's items must be among the ordered ones, in the same order: otherwise the patch contradicts itself."""
    rest = iter(wanted)
    if not all(identity in rest for identity in patched):
        raise _malformed(path, f"items that {ELEMENT_ORDER} does not name in this order", "the same items and order")


def _ordered(merged: list[Any], identities: list[Any], wanted: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    """Put the `wanted` items in their order and weave the others in, by where they stood `before`."""
    rank = _first_places(wanted)
    was = _first_places(before)
    ours = sorted(
        (at for at, identity in enumerate(identities) if identity in rank), key=lambda at: rank[identities[at]]
    )
    others = [at for at, identity in enumerate(identities) if identity not in rank]
    result = []
    while ours and others:
        mine, other = was.get(identities[ours[0]]), was.get(identities[others[0]])
        earlier = mine is not None and other is not None and other < mine
        result.append((others if earlier else ours).pop(0))
    return [merged[at] for at in (*result, *ours, *others)]


def _first_places(identities: Iterable[Any]) -> dict[Any, int]:
    places: dict[Any, int] = {}
    for index, identity in enumerate(identities):
        if identity is not None:
            places.setdefault(identity, index)
    return places


def _scalar(value: Any) -> Any:
    """A plain value as something to compare and hash: true is not 1. Anything else is never equal to one."""
    return None if isinstance(value, dict | list) else (isinstance(value, bool), value)


def _identity_or_none(item: Any, key: str) -> Any:
    value = item.get(key) if isinstance(item, dict) else None
    return None if value is None else _scalar(value)


def _identity(item: Any, key: str, path: str) -> Any:
    identity = _identity_or_none(item, key)
    if identity is None:
        raise _malformed(path, f"an item without {key}", f"{key}, by which this list is merged")
    return identity


def _identities(items: list[Any], key: str) -> list[Any]:
    return [_identity_or_none(item, key) for item in items]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _malformed(path: str, found: str, wanted: str) -> MalformedPatchError:
    return MalformedPatchError(f"strategic merge patch: {path or 'the whole'}", found=found, wanted=wanted)


# --- making a patch -----------------------------------------------------------------------------------------------


def diff(old: Json, new: Json, node: TypeNode | None) -> Json:
    """The patch that turns `old` into `new` (two-way); empty if they are the same."""
    return three_way(old, new, old, node)


def three_way(original: Json | None, modified: Json, current: Json, node: TypeNode | None) -> Json:
    """The patch of an apply: what the user changed, without undoing what others did.

    `original` is what the user applied last time (None: never), `modified` what the user wants now, `current` what the
    server has, `node` the schema of their kind. Fields and list items that the user names get the user's value; those
    that the user had named and no longer does are deleted; all others stay as they are. An empty patch means that
    nothing is to be done. MalformedPatchError if an item of a merged list lacks the merge key.
    """
    for document in (modified, current):
        if not isinstance(document, dict):
            raise MalformedPatchError("not an object", found=type(document).__name__, wanted="an object")
    return _object_patch(original if isinstance(original, dict) else {}, modified, current, node, "")


def _object_patch(original: Json, modified: Json, current: Json, node: TypeNode | None, path: str) -> Json:
    patch: Json = {}
    for name, wanted in modified.items():
        found = current.get(name)
        if found is None or wanted is None:
            if not same(wanted, found):
                patch[name] = copied(wanted)
        elif isinstance(wanted, dict) and isinstance(found, dict) and not _strategy(node, name, "replace"):
            before = original.get(name)
            inner = _object_patch(
                before if isinstance(before, dict) else {}, wanted, found, _type(node, name), _join(path, name)
            )
            if inner:
                patch[name] = _retaining(inner, wanted) if _strategy(node, name, "retainKeys") else inner
        elif isinstance(wanted, list) and isinstance(found, list) and _strategy(node, name, "merge"):
            before = original.get(name)
            patch |= _list_patch(before if isinstance(before, list) else [], wanted, found, node, name, path)
        elif not same(wanted, found):
            patch[name] = copied(wanted)
    for name in original:
        if name not in modified and current.get(name) is not None:
            patch[name] = None
    return patch


def _retaining(patch: Json, wanted: Json) -> Json:
    """A patch of a union: fields that the user does not name belong to another choice and must go."""
    return patch | {RETAIN_KEYS: sorted(key for key, value in wanted.items() if value is not None)}


def _list_patch(
    original: list[Any], modified: list[Any], current: list[Any], node: TypeNode | None, name: str, path: str
) -> Json:
    """The fields (value and directives) that a patch needs for one merged list; empty if nothing is to be done."""
    key = _merge_key(node, name)
    here = _join(path, name)
    if not key:
        return _values_patch(original, modified, current, name)
    wanted = [_identity(item, key, f"{here}[{index}]") for index, item in enumerate(modified)]
    found = _identities(current, key)
    if len(set(wanted)) < len(wanted):
        return _repeated_keys_patch(original, modified, current, node, name, path)
    retain = _strategy(node, name, "retainKeys")
    before = dict(zip(_identities(original, key), original, strict=True))
    now: dict[Any, Any] = {}
    for identity, item in zip(found, current, strict=True):
        now.setdefault(identity, item)

    entries: list[Json] = []
    for index, (identity, item) in enumerate(zip(wanted, modified, strict=True)):
        if identity not in now:
            entries.append(copied(item))
            continue
        inner = _object_patch(before.get(identity, {}), item, now[identity], _items(node, name), f"{here}[{index}]")
        if inner:
            entries.append({key: item[key]} | (_retaining(inner, item) if retain else inner))
    gone = [item[key] for identity, item in before.items() if identity in now and identity not in wanted and identity]
    entries += [{DIRECTIVE: "delete", key: value} for value in gone]
    patch: Json = {name: entries} if entries else {}
    if entries or not _in_order(found, wanted):
        patch[ELEMENT_ORDER + name] = [{key: item[key]} for item in modified]
    return patch


def _values_patch(original: list[Any], modified: list[Any], current: list[Any], name: str) -> Json:
    wanted, found = [_scalar(item) for item in modified], [_scalar(item) for item in current]
    added = [item for item in modified if _scalar(item) not in found]
    gone = [item for item in original if _scalar(item) not in wanted and _scalar(item) in found]
    patch: Json = {}
    if added:
        patch[name] = added
    if gone:
        patch[DELETE_FROM + name] = gone
    if patch or not _in_order(found, wanted):
        patch[ELEMENT_ORDER + name] = copied(modified)
    return patch


def _in_order(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Whether the wanted items stand among the found ones in the wanted order."""
    rest = iter(found)
    return all(identity in rest for identity in wanted)


def _repeated_keys_patch(
    original: list[Any], modified: list[Any], current: list[Any], node: TypeNode | None, name: str, path: str
) -> Json:
    """A list in which the user repeats a merge key (port 53 for TCP and for UDP): no patch can name one of them.

    Items are paired by key and position among their equals; if anything differs, the whole list is replaced by the
    user's items with what the server and others had added to them.
    """
    key = _merge_key(node, name)
    numbered = [_numbered(items, key) for items in (original, modified, current)]
    before, wanted, now = numbered
    result: list[Any] = []
    changed = bool(before.keys() & now.keys() - wanted.keys())
    for identity, item in wanted.items():
        if identity not in now:
            result.append(copied(item))
            changed = True
            continue
        patch = _object_patch(before.get(identity, {}), item, now[identity], _items(node, name), _join(path, name))
        result.append(_merge_object(now[identity], patch, _items(node, name), _join(path, name)))
        changed = changed or bool(patch)
    if not changed and _in_order(list(now), list(wanted)):
        return {}
    others = [copied(item) for identity, item in now.items() if identity not in wanted and identity not in before]
    return {name: [{DIRECTIVE: "replace"}, *result, *others]}


def _numbered(items: list[Any], key: str) -> dict[Any, Any]:
    """Items by (merge key, how many of the same key came before)."""
    counts: dict[Any, int] = {}
    result: dict[Any, Any] = {}
    for item, identity in zip(items, _identities(items, key), strict=True):
        if isinstance(item, dict) and identity is not None:
            counts[identity] = counts.get(identity, 0) + 1
            result[identity, counts[identity]] = item
    return result
