"""What a user applied last: the annotation that client-side apply keeps on each object ("Declarative Management").

It is the third side of a three-way merge: without it nobody can tell a field that the user removed from a manifest
from one that the server or a controller added. The annotation is kubectl's, so that the two can be mixed.
"""

from __future__ import annotations

import json
from typing import Any, Final

from kube.patch import merge, strategic
from kube.patch.plain import copied
from kube.schema import TypeNode

ANNOTATION: Final = "kubectl.kubernetes.io/last-applied-configuration"
# What Go's encoder escapes inside of texts. kubectl compares the annotation letter by letter: written otherwise, its
# next apply of the same manifest would say `configured`.
_ESCAPED: Final = {ord(c): f"\\u{ord(c):04x}" for c in "&<>\u2028\u2029"}


def annotated(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest as it is sent: with itself (without this annotation) in the annotation."""
    bare = _bare(manifest)
    text = json.dumps(bare, separators=(",", ":"), sort_keys=True, ensure_ascii=False).translate(_ESCAPED) + "\n"
    result = copied(bare)
    metadata = result["metadata"] = result.get("metadata") or {}
    metadata["annotations"] = (metadata.get("annotations") or {}) | {ANNOTATION: text}
    return dict(result)


def original(current: dict[str, Any]) -> dict[str, Any] | None:
    """What was applied last to an object of the server; None if it never was (or the annotation was spoiled)."""
    text = ((current.get("metadata") or {}).get("annotations") or {}).get(ANNOTATION)
    if not isinstance(text, str):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def plan(manifest: dict[str, Any], current: dict[str, Any], node: TypeNode | None) -> dict[str, Any]:
    """The patch that applies a manifest to the server's object; empty if the object is as the manifest wants it.

    A strategic merge patch if `node` is the schema of the kind, a JSON merge patch for a kind without one (a custom
    resource). PatchError if the manifest cannot be merged.
    """
    before = original(current)
    bare, wanted = _bare(manifest), annotated(manifest)
    # The annotation alone is no change: its text differs between tools that wrote the same manifest.
    if before is not None:
        unchanged = _patch(before, bare, current, node)
        if not unchanged and merge.diff(before, bare) == {}:
            return {}
    return _patch(before, wanted, current, node)


def _patch(
    before: dict[str, Any] | None, wanted: dict[str, Any], current: dict[str, Any], node: TypeNode | None
) -> dict[str, Any]:
    if node is None:
        return merge.three_way(before, wanted, current)
    return strategic.three_way(before, wanted, current, node)


def _bare(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest without the annotation, and with `annotations` as kubectl records it: present, maybe empty."""
    result: dict[str, Any] = copied(manifest)
    metadata = result["metadata"] = result.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = {key: value for key, value in annotations.items() if key != ANNOTATION}
    return result
