"""Manifests as users write them: documents, lists, folders, and what is wrong with the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktool.manifests import ManifestError, parse, read


def test_documents_and_lists() -> None:
    text = b"""
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
# nothing here
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}
- {apiVersion: v1, kind: Secret, metadata: {name: c}}
"""
    found = [*parse(text, "x.yaml")]
    assert [m.object["kind"] for m in found] == ["Namespace", "ConfigMap", "Secret"]
    assert found[0].source == "x.yaml, document 1"


def test_a_folder_gives_its_manifests_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.json", "c.txt"):
        (tmp_path / name).write_text(f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name[0]}}}}}")
    assert [m.object["metadata"]["name"] for m in read([str(tmp_path)])] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a: [", "malformed YAML at line"),
        (b"- just\n- a list", "no object"),
        (b"kind: Pod", "apiVersion is missing"),
        (b"apiVersion: v1", "kind is missing"),
        (b"apiVersion: v1\nkind: 3", "kind is missing"),
        (b"apiVersion: v1\nkind: Pod\nkind: Pod", "line 3"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: bytes, words: str) -> None:
    with pytest.raises(ManifestError, match=words) as caught:
        [*parse(text, "x.yaml")]
    assert "x.yaml" in str(caught.value)


def test_a_missing_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot read"):
        read([str(tmp_path / "none.yaml")])
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(ManifestError, match="no object"):
        read([str(tmp_path / "empty.yaml")])
