from __future__ import annotations

import platform
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agent.runtime.pause_image import pause_image, pause_program
from kube import image_archive


def test_it_is_small_and_the_same_every_time() -> None:
    assert len(pause_program()) < 512
    assert image_archive.is_static(pause_program())
    assert image_archive.archive(pause_image("x86_64")) == image_archive.archive(pause_image("x86_64"))
    assert pause_image("x86_64").entrypoint == ("/pause",)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is for x86_64")
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_waits_and_ends_when_asked_to(tmp_path: Path, stop: signal.Signals) -> None:
    program = tmp_path / "pause"
    program.write_bytes(pause_program())
    program.chmod(0o755)
    with subprocess.Popen([program]) as process:
        try:
            for _ in range(200):
                status = _status(process.pid)
                if status["State"].startswith("S"):
                    break
                time.sleep(0.05)
            assert status["State"].startswith("S"), "it waits"
            assert process.poll() is None
            assert int(status["VmRSS"].split()[0]) < 100
            process.send_signal(stop)
            assert process.wait(20) == 0
        finally:
            process.kill()


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_elsewhere_it_is_busybox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(pause_program())
    monkeypatch.setattr(image_archive, "BUSYBOX_PATHS", (tmp_path / "busybox",))
    source = pause_image("aarch64")
    assert source.architecture == "arm64"
    assert source.entrypoint[:2] == ("/bin/sh", "-c")
    assert {entry.path for entry in source.entries} >= {"bin/busybox", "bin/sh", "bin/sleep"}
