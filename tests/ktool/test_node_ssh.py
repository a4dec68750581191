"""`ktool node ssh`: which words are its own, and passwords that are asked for once, ahead."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktool.commands.node import command_apart
from tests.sshd import Server, User, missing, public_folder, sshd

KTOOL = str(Path(sys.executable).with_name("ktool"))
PASSWORD = "right word"
SECONDS = 60.0


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ("m -i lab.yml df -k", "df -k"),
        ("-i lab.yml m df -k", "df -k"),
        ("m --inventory=lab.yml -k ls -K", "ls -K"),
        ("m -i lab.yml -- -k", "-k"),
        ("m -i lab.yml", ""),
        ("m -k -i lab.yml", ""),
    ],
)
def test_the_command_keeps_its_own_options(given: str, command: str) -> None:
    apart = " ".join(command_apart(given.split()))
    assert apart.partition(" -- ")[2] == command
    assert command or apart == given


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    config = ["PasswordAuthentication yes"]
    with public_folder() as folder, sshd(folder, users={"typist": User(PASSWORD)}, config=config) as started:
        yield started


@pytest.fixture
def home(tmp_path: Path, server: Server) -> Path:
    (tmp_path / "lab.yml").write_text(
        "all:\n  vars: {ktool_provider: ssh, ktool_lab: typed}\n  children:\n    masters:\n      hosts:\n        m1:\n"
        f"          ansible_host: 127.0.0.1\n          ansible_port: {server.port}\n          ansible_user: typist\n"
        f"          ktool_ssh_host_key: {server.host_key}\n"
    )
    return tmp_path


def typed(home: Path, answer: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """ktool on a terminal of its own, where its one question gets that answer."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", KTOOL, "node", "ssh", "m1", "-i", str(home / "lab.yml"), *arguments],
        env={**os.environ, "HOME": str(home), "KTOOL_LABS": str(home / "labs"), "TMPDIR": str(home)},
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(end)
    try:
        shown = ""
        while "SSH password" not in shown:
            shown += os.read(terminal, 1000).decode()
        os.write(terminal, answer.encode() + b"\n")
        output, said = process.communicate(timeout=SECONDS)
    finally:
        os.close(terminal)
        process.kill()
        process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, output, said)


@pytest.mark.skipif(bool(missing(users=True)), reason=missing(users=True) or "-")
@pytest.mark.parametrize(
    ("answer", "status", "output"), [(PASSWORD, 3, "typist\n"), ("wrong word", 255, "")], ids=["right", "wrong"]
)
def test_a_password_that_was_asked_for(home: Path, answer: str, status: int, output: str) -> None:
    done = typed(home, answer, "-k", "id -un; exit 3")
    assert (done.returncode, done.stdout) == (status, output), done.stderr
    assert not list(home.glob("ktool-ssh-*"))
    assert ("Permission denied" in done.stderr) == (status == 255)
