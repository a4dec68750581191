from __future__ import annotations

from pathlib import Path

from kube.image_archive import ImageSource, image_id, write
from provision.lab.image_push import ids_of


def test_an_archive_tells_its_images(tmp_path: Path) -> None:
    source = ImageSource(references=("app:1", "app:2"), entries=())
    write(source, tmp_path / "app.tar")
    assert ids_of(tmp_path / "app.tar") == dict.fromkeys(("app:1", "app:2"), image_id(source))


def test_what_is_no_archive_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar")
    assert ids_of(tmp_path / "x.tar") == {}
