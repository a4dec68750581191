"""Images that `up` loads into an engine of others, and `down` takes away again."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube import image_archive
from kube.image_archive import ImageSource
from provision import docker_engine
from provision.images import ensure_image, remove_loaded
from provision.journal import ChangeKind, Journal
from tests.engine import Engine

pytestmark = pytest.mark.docker

REFERENCE = "ktool.test/loaded:1"


def source(command: str = "true") -> ImageSource:
    return ImageSource((REFERENCE,), image_archive.busybox_root(applets=("true", "false")), command=(command,))


def loaded(socket: Path) -> list[str]:
    client = docker_engine.connect(socket)
    try:
        return [tag for image in client.api.images(name=REFERENCE) for tag in image["RepoTags"]]
    finally:
        client.close()


def test_a_loaded_image_is_removed(private_engine: Engine, tmp_path: Path) -> None:
    socket = private_engine.socket
    journal = Journal(tmp_path / "journal.jsonl")
    assert ensure_image(source(), socket=socket, journal=journal)
    assert not ensure_image(source(), socket=socket, journal=journal)
    assert loaded(socket) == [REFERENCE]
    assert remove_loaded(Journal(journal.path), socket=socket) == [f"image {REFERENCE} removed"]
    assert loaded(socket) == []
    assert remove_loaded(Journal(journal.path), socket=socket) == []


def test_an_image_that_is_gone_or_was_there_before(private_engine: Engine, tmp_path: Path) -> None:
    socket = private_engine.socket
    journal = Journal(tmp_path / "journal.jsonl")
    journal.record(ChangeKind.IMAGE, "ktool.test/gone:1")
    ensure_image(source(), socket=socket)
    assert ensure_image(source("false"), socket=socket, journal=journal)
    assert remove_loaded(journal, socket=socket) == []
    assert journal.open_changes() == []
    assert loaded(socket) == [REFERENCE]


def test_an_image_in_use_stays(private_engine: Engine, tmp_path: Path) -> None:
    socket = private_engine.socket
    client = docker_engine.connect(socket)
    try:
        for image in client.api.images(name=REFERENCE):
            client.api.remove_image(image["Id"], force=True)
        journal = Journal(tmp_path / "journal.jsonl")
        ensure_image(source(), socket=socket, journal=journal)
        container = client.api.create_container(REFERENCE)["Id"]
        (done,) = remove_loaded(journal, socket=socket)
        assert done.startswith(f"image {REFERENCE} left alone: ")
        assert loaded(socket) == [REFERENCE]
        client.api.remove_container(container)
    finally:
        client.close()
