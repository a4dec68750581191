"""A real sshd for tests: on loopback, with host keys, users and configuration of its own.

    with sshd(folder) as server:                     # root, by server.identity
        Connection.open(server.endpoint())
    with public_folder() as folder, sshd(folder, users={"alice": User("secret", sudo="ALL=(ALL) ALL")}) as server:
        Connection.open(server.endpoint(user="alice"))

Users exist only in this sshd's own mount namespace, where files of the test lie over /etc/passwd and its like: the
machine's own are not touched, and PAM, passwords and sudo are the real ones.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provision.ssh.endpoint import Endpoint
from provision.ssh.keys import ensure_key
from tests.ports import free_port

SSHD = "/usr/sbin/sshd"
START_SECONDS = 15.0


def missing(*, users: bool = False) -> str:
    """Why no sshd can run here, or an empty string."""
    if os.geteuid() != 0:
        return "needs root"
    wanted = [SSHD, "ssh-keygen", *(["sudo", "unshare", "openssl"] if users else [])]
    absent = [name for name in wanted if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@dataclass(frozen=True)
class User:
    """A user besides root. `sudo`: what follows the name in sudoers; empty: none."""

    password: str = ""
    sudo: str = ""


@dataclass
class Server:
    """A running sshd. `host_key` is its ed25519 key ("ssh-ed25519 AAAA"), `identity` a key that it lets in."""

    folder: Path
    port: int
    host_key: str
    identity: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        """What it said."""
        return (self.folder / "log").read_text(errors="replace")

    def endpoint(self, name: str = "machine", **changes: Any) -> Endpoint:
        """How to reach it, with everything right; `changes` are other fields."""
        right = Endpoint(
            name=name,
            address="127.0.0.1",
            port=self.port,
            user="root",
            identity_files=(self.identity,),
            host_keys=(self.host_key,),
            agent=False,
        )
        return replace(right, **changes)

    def sessions(self) -> list[int]:
        """Processes of open connections."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def kill_sessions(self) -> None:
        """End all connections without a word."""
        for pid in [child for session in self.sessions() for child in (*_children(session), session)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End it and its connections."""
        if self.process.poll() is None:
            self.kill_sessions()
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def sshd(
    folder: Path,
    *,
    users: Mapping[str, User] | None = None,
    config: Sequence[str] = (),
    port: int = 0,
    command: Sequence[str] = (),
) -> Iterator[Server]:
    """A started sshd with its files in `folder`. `config`: lines of sshd_config that go before its own (the first
    one counts). `command` goes in front of sshd's command line (`nsenter --net=...`)."""
    server = start(folder, users=users, config=config, port=port, command=command)
    try:
        yield server
    finally:
        server.stop()


def start(
    folder: Path,
    *,
    users: Mapping[str, User] | None = None,
    config: Sequence[str] = (),
    port: int = 0,
    command: Sequence[str] = (),
) -> Server:
    """As `sshd`, to be ended with `stop()`."""
    folder.mkdir(parents=True, exist_ok=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation wants it
    port = port or free_port()
    host_key = " ".join(ensure_key(folder / "host_ed25519").split()[:2])
    public = ensure_key(folder / "id_ed25519")
    keys = folder / "authorized_keys"
    keys.write_text(public + "\n")
    lines = [
        *config,
        f"HostKey {folder}/host_ed25519",
        f"AuthorizedKeysFile {keys}",
        "ListenAddress 127.0.0.1",
        f"PidFile {folder}/pid",
        f"UsePAM {'yes' if users else 'no'}",
        "StrictModes no",  # pytest's folders are not what sshd likes above a key
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin yes",
        "LogLevel VERBOSE",
        "MaxStartups 100",
        "UseDNS no",
        "PrintMotd no",
        "Subsystem sftp internal-sftp",
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    argv = [*command, SSHD, "-f", str(folder / "sshd_config"), "-D", "-e", "-p", str(port)]
    if users:
        argv = _with_users(folder, users, argv)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    server = Server(folder, port, host_key, folder / "id_ed25519", process)
    deadline = time.monotonic() + START_SECONDS
    while "Server listening" not in server.log:
        if process.poll() is not None or time.monotonic() > deadline:
            server.stop()
            raise AssertionError(f"sshd did not start: {server.log}")
        time.sleep(0.01)
    return server


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that users besides root can enter; pytest keeps its own to root, at each start of any pytest."""
    with tempfile.TemporaryDirectory(prefix="ktool-sshd-", dir="/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet waited for does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _with_users(folder: Path, users: Mapping[str, User], argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` where these users exist, too."""
    etc = folder / "etc"
    etc.mkdir()
    texts = {name: Path("/etc", name).read_text() for name in ("passwd", "shadow", "group")}
    sudoers = ["root ALL=(ALL) NOPASSWD: ALL"]
    for number, (name, user) in enumerate(users.items(), 60_001):
        home = folder / "home" / name
        home.mkdir(parents=True)
        os.chown(home, number, number)
        hashed = "!"
        if user.password:
            salt = secrets.token_hex(4)
            made = subprocess.run(
                ["openssl", "passwd", "-5", "-salt", salt, "-stdin"],
                input=user.password.encode(),
                capture_output=True,
                check=True,
            )
            hashed = made.stdout.decode().strip()
        texts["passwd"] += f"{name}:x:{number}:{number}::{home}:/bin/sh\n"
        texts["shadow"] += f"{name}:{hashed}:19000:0:99999:7:::\n"
        texts["group"] += f"{name}:x:{number}:\n"
        if user.sudo:
            sudoers.append(f"{name} {user.sudo}")
    mounts = []
    for name, text, mode in (
        *((name, text, 0o640 if name == "shadow" else 0o644) for name, text in texts.items()),
        ("sudoers", "\n".join(sudoers) + "\n", 0o440),
    ):
        (etc / name).write_text(text)
        (etc / name).chmod(mode)
        mounts.append(f"mount --bind {shlex.quote(str(etc / name))} /etc/{name}")
    script = " && ".join([*mounts, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *argv]
