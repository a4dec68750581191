"""Manifests as users name them: files, folders, standard input; YAML or JSON, several documents, Lists."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kube import codec
from kube.errors import KtoolError

SUFFIXES = (".yaml", ".yml", ".json")


class ManifestError(KtoolError):
    """A manifest that cannot be read or is no object."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object of a manifest, and where it stands."""

    object: dict[str, Any]
    source: str


def read(paths: Iterable[str]) -> list[Manifest]:
    """All objects of files, folders (not their subfolders) and `-` for standard input, in order."""
    found = [manifest for path in paths for manifest in _read_path(path)]
    if not found:
        raise ManifestError("there is no object in what was given", wanted="at least one manifest (-f FILE)")
    return found


def _read_path(path: str) -> Iterator[Manifest]:
    if path == "-":
        yield from parse(sys.stdin.buffer.read(), "standard input")
        return
    place = Path(path)
    if place.is_dir():
        for file in sorted(p for p in place.iterdir() if p.suffix in SUFFIXES):
            yield from parse(file.read_bytes(), str(file))
        return
    try:
        text = place.read_bytes()
    except OSError as error:
        raise ManifestError(
            f"cannot read {path}", found=error.strerror or str(error), wanted="a manifest in YAML or JSON"
        ) from error
    yield from parse(text, path)


def parse(text: bytes, source: str) -> Iterator[Manifest]:
    """Objects of one file; a List gives its items."""
    try:
        documents = codec.load_all_yaml(text)
    except codec.DecodeError as error:
        raise ManifestError(
            f"{source}: {error.what}", found=error.found, wanted=error.wanted, mend=error.mend
        ) from error
    for number, document in enumerate(documents, 1):
        where = source if len(documents) == 1 else f"{source}, document {number}"
        yield from _objects(document, where)


def _objects(document: Any, source: str) -> Iterator[Manifest]:
    if not isinstance(document, dict):
        raise ManifestError(f"{source}: no object", found=type(document).__name__, wanted="a mapping")
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str) or not document[field]:
            raise ManifestError(
                f"{source}: {field} is missing",
                found=repr(document.get(field)),
                wanted="a text such as v1 and Pod, or apps/v1 and Deployment",
                mend=f"add {field} at the top of that object",
            )
    if document["kind"].endswith("List") and isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _objects(item, source)
        return
    yield Manifest(document, source)
