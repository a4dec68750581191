"""Results kept by their content's key: each is made once, whole or absent, also by two who want it at the same time.

An entry is a folder `KIND/KEY` under the cache. It is made in a folder beside it, under a lock, and moved into its
place when it is complete; what a crash left there is removed by the next who holds the lock. The lock is the kernel's
(flock), so it ends with its holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kube.errors import KtoolError
from kube.files import write_atomic
from provision.command import run
from provision.machine_image import uses
from provision.providers.provider import Report

LOCK_SECONDS = 1800.0
_POLL_SECONDS = 0.2
MIB = 1024 * 1024


def entry(
    cache: Path, kind: str, key: str, *, make: Callable[[Path], None], need: int, report: Report, refresh: bool = False
) -> Path:
    """The entry's folder; if there is none, `make` fills an empty folder with what belongs in it.

    `need` are the bytes that it takes while being made. KtoolError if there is no room, or another process works on it
    for more than half an hour; whatever `make` raises, with nothing left behind.
    """
    place = cache / kind / key
    uses.hold(cache)
    if place.is_dir() and not refresh:
        return place
    make_folder(place.parent)
    uses.hold(cache)
    began = time.time()
    with locked(place.with_name(f".{key}.lock"), report=report, what=f"{kind} {key}"):
        # Whoever held the lock before us may have made what we want.
        if place.is_dir() and (not refresh or place.stat().st_mtime >= began):
            return place
        for left in place.parent.glob(f".{key}.new-*"):
            remove_tree(left)
        require_room(place.parent, need)
        new = place.with_name(f".{key}.new-{os.getpid()}")
        new.mkdir(mode=0o755)
        try:
            make(new)
            if place.is_dir():
                remove_tree(place)
            os.utime(new)
            new.rename(place)
        except BaseException:
            remove_tree(new)
            raise
    return place


def make_folder(path: Path) -> None:
    """Make a folder of the cache. KtoolError if that is not allowed."""
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise KtoolError(
            "the cache of images cannot be written",
            found=str(error),
            wanted="a folder that this user may write",
            mend="name another one: export KTOOL_CACHE=...",
        ) from error


def require_room(folder: Path, need: int) -> None:
    """KtoolError unless there are `need` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise KtoolError(
            f"not enough room in {folder}",
            found=f"{free // MIB} MiB free",
            wanted=f"{need // MIB} MiB",
            mend="make room, or name another place: export KTOOL_CACHE=...",
        )


@contextlib.contextmanager
def locked(path: Path, *, report: Report, what: str, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold a lock while the block runs, waiting for it at most `timeout` seconds (then KtoolError)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        end = time.monotonic() + timeout
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not told:
                    report(f"another ktool is making {what}: waiting for it")
                    told = True
                if time.monotonic() > end:
                    raise KtoolError(
                        f"another ktool has been making {what} for too long",
                        found=f"a lock on {path}, held for more than {timeout:.0f} s",
                        wanted="one that ends",
                        mend=f"look who holds it: fuser -v {path}",
                    ) from error
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def as_owner(argv: Sequence[str]) -> list[str]:
    """The command run as owner of a root's files: root as it is, others in a user namespace of their own."""
    if os.geteuid() == 0:
        return list(argv)
    return ["unshare", "--user", "--map-root-user", "--map-auto", "--", *argv]


def remove_tree(path: Path) -> None:
    """Remove a folder whoever owns its files; never follows a mount into another file system."""
    if path.exists():
        run(as_owner(["rm", "-rf", "--one-file-system", "--", str(path)]), timeout=300)


def digest_of(path: Path, cache: Path) -> str:
    """SHA-256 of a file, in hex. Kept by the file's name, size and time, so that a second call is quick."""
    stat = path.stat()
    identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    note = cache / "digests" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    with contextlib.suppress(OSError):
        return note.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a cache that others keep: the next call takes as long
        write_atomic(note, digest.encode())
    return digest


def watch_output(
    argv: Sequence[str], *, line: Callable[[str], None], timeout: float, lines_kept: int = 12
) -> tuple[int | None, list[str]]:
    """Run a long command, handing over each line that it says; its exit status (None: it took more than `timeout`
    seconds) and its last lines. It dies with us, however we end."""
    # --pdeathsig: nobody is left to stop it if we are killed.
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout, stop)
    timer.daemon = True
    timer.start()
    last: list[str] = []
    try:
        for said in process.stdout:
            if text := said.rstrip():
                last = [*last[1 - lines_kept :], text]
                line(text)
        process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.wait()
    return (None if late.is_set() else process.returncode), last
