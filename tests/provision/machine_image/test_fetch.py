from __future__ import annotations

import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import ImageSettings
from provision.machine import find_command
from provision.machine_image.fetch import fetch

pytestmark = pytest.mark.skipif(not find_command("qemu-img"), reason="not installed: qemu-img")


class Server(http.server.ThreadingHTTPServer):
    """Serves one file with parts; `cut` ends the first answer after so many bytes."""

    content = b""
    cut = 0
    asked: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path != "/disk":
            self.send_error(404)
            return
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        part = self.server.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        cut, self.server.cut = self.server.cut, 0
        self.wfile.write(part[: cut or len(part)])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing is printed."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"], check=True, timeout=30)
    return path


def checksum(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def quiet(_: str) -> None:
    """Progress that nobody reads."""


def test_a_file_is_used_where_it_lies(image: Path, tmp_path: Path) -> None:
    given = fetch(ImageSettings(source=str(image), checksum=checksum(image)), tmp_path, quiet)
    assert (given.path, given.format, given.size) == (image, "qcow2", 64 << 20)


def test_download_once(image: Path, server: Server, tmp_path: Path) -> None:
    server.content = image.read_bytes()
    settings = ImageSettings(source=f"http://127.0.0.1:{server.server_port}/disk", checksum=checksum(image))
    for _ in range(2):
        given = fetch(settings, tmp_path, quiet)
        assert given.path.read_bytes() == server.content
    assert server.asked == [""]


def test_a_download_that_breaks_off_goes_on(image: Path, server: Server, tmp_path: Path) -> None:
    server.content, server.cut = image.read_bytes(), 1000
    settings = ImageSettings(source=f"http://127.0.0.1:{server.server_port}/disk", checksum=checksum(image))
    assert fetch(settings, tmp_path, quiet).path.read_bytes() == server.content
    assert server.asked == ["", "bytes=1000-"]


def test_wrong_content_is_not_used(image: Path, server: Server, tmp_path: Path) -> None:
    server.content = b"something else"
    settings = ImageSettings(source=f"http://127.0.0.1:{server.server_port}/disk", checksum=checksum(image))
    with pytest.raises(KtoolError, match="not what its checksum says"):
        fetch(settings, tmp_path, quiet)
    assert not [path for path in (tmp_path / "fetched").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (ImageSettings(source="/nowhere/disk.qcow2"), "missing"),
        (ImageSettings(source="http://127.0.0.1:1/disk"), "needs its checksum"),
        (ImageSettings(source="http://127.0.0.1:1/disk", checksum="md5:00"), "not understood"),
        (ImageSettings(source="ftp://127.0.0.1/disk", checksum="sha256:" + "0" * 64), "cannot be fetched from there"),
    ],
)
def test_what_is_no_image(settings: ImageSettings, what: str, tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match=what):
        fetch(settings, tmp_path, quiet)


def test_not_found_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    settings = ImageSettings(source=f"http://127.0.0.1:{server.server_port}/other", checksum="sha256:" + "0" * 64)
    with pytest.raises(KtoolError, match="404"):
        fetch(settings, tmp_path, quiet)


def test_a_clone_of_another_disk_is_refused(image: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone.qcow2"
    made = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(clone)]
    subprocess.run(made, check=True, timeout=30)
    with pytest.raises(KtoolError, match="no whole disk"):
        fetch(ImageSettings(source=str(clone)), tmp_path / "cache", quiet)
