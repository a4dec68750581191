"""Disk images that are given: a file of this machine, or a URL with its checksum.

A download that was broken off goes on where it ended. Nothing is used whose SHA-256 is not what the inventory says.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from kube.errors import KtoolError
from provision.command import CommandFailed, run
from provision.inventory.lab import ImageSettings
from provision.machine_image.cache import MIB, digest_of, entry, require_room
from provision.providers.provider import Report

FETCH_SECONDS = 3600.0
IDLE_SECONDS = 30.0
_CHUNK = MIB
_CHECKSUM = re.compile(r"sha256:([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class GivenImage:
    """A disk image as it is. `format` is qcow2 or raw; `size` is the disk's as the machine sees it, in bytes."""

    path: Path
    digest: str
    format: str
    size: int


def fetch(image: ImageSettings, cache: Path, report: Report) -> GivenImage:
    """The image, downloaded if it is a URL. KtoolError if it cannot be had, is not what its checksum says, or no disk.

    A file is used where it lies and must stay there unchanged.
    """
    wanted = _digest(image.checksum)
    if "://" not in image.source:
        path = Path(image.source)
        if not path.is_file():
            raise KtoolError(
                "the image for the machines is missing",
                found=f"no file {path}",
                wanted="debian-12, the path of a disk image, or a URL",
                mend="correct ktool_image in the inventory",
            )
        found = digest_of(path, cache)
        if wanted and found != wanted:
            raise _mismatch(str(path), found=found, wanted=wanted)
        return _inspected(path, found)
    if not wanted:
        raise KtoolError(
            "an image from a URL needs its checksum",
            found=f"ktool_image: {image.source}, without ktool_image_checksum",
            wanted="ktool_image_checksum: sha256:HEX, as its publisher tells",
        )
    folder = entry(
        cache,
        "fetched",
        wanted,
        make=lambda new: _download(image.source, new / "disk", cache / "fetched" / f".{wanted}.part", wanted, report),
        need=0,
        report=report,
    )
    return _inspected(folder / "disk", wanted)


def _digest(checksum: str) -> str:
    if not checksum:
        return ""
    found = _CHECKSUM.fullmatch(checksum.strip())
    if found is None:
        raise KtoolError(
            "the checksum of an image is not understood",
            found=f"ktool_image_checksum: {checksum}",
            wanted="sha256: and 64 hexadecimal digits",
        )
    return found[1].lower()


def _mismatch(source: str, *, found: str, wanted: str) -> KtoolError:
    return KtoolError(
        f"the image {source} is not what its checksum says",
        found=f"sha256:{found}",
        wanted=f"sha256:{wanted}",
        mend="correct ktool_image_checksum if the image was replaced on purpose; otherwise do not use it",
    )


def _inspected(path: Path, digest: str) -> GivenImage:
    try:
        told = json.loads(run(["qemu-img", "info", "--output=json", "--", str(path)]))
    except CommandFailed as error:
        raise KtoolError(f"the image {path} cannot be read", found=error.found, wanted="a disk image") from error
    if told["format"] not in ("qcow2", "raw"):
        raise KtoolError(f"the image {path} has a format that is not used here", found=told["format"], wanted="qcow2")
    if told.get("backing-filename"):
        raise KtoolError(
            f"the image {path} is no whole disk",
            found=f"it is based on {told['backing-filename']}",
            wanted="an image without a backing file",
            mend=f"qemu-img convert -O qcow2 {path} whole.qcow2",
        )
    return GivenImage(path, digest, told["format"], int(told["virtual-size"]))


def _download(url: str, target: Path, part: Path, wanted: str, report: Report) -> None:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise KtoolError("an image cannot be fetched from there", found=url, wanted="http://, https:// or a path")
    for attempt in (1, 2, 3):
        try:
            _receive(url, part, report)
            break
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt == 3:
                raise KtoolError(
                    f"the image {url} cannot be fetched",
                    found=str(error) or type(error).__name__,
                    wanted="a download that ends",
                    mend="run the same command again (it goes on where this one ended), or fetch it yourself and give "
                    "its path: ktool_image: /path/to/disk.qcow2",
                ) from error
            report(f"the download broke off ({error}); trying again")
            time.sleep(attempt)
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        part.unlink()
        raise _mismatch(url, found=found, wanted=wanted)
    os.replace(part, target)


def _receive(url: str, part: Path, report: Report) -> None:
    """Append to `part` what it lacks; from the beginning if the server does not give parts."""
    there = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={there}-"} if there else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (the scheme has been checked)
    end = time.monotonic() + FETCH_SECONDS
    try:
        answer = urllib.request.urlopen(request, timeout=IDLE_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        if there and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            error.close()
            return  # all of it is there; the checksum tells
        with contextlib.closing(error):
            raise
    with answer:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        left = int(answer.headers.get("Content-Length") or 0)
        total = (there if resumed else 0) + left
        require_room(part.parent, left)
        with part.open("ab" if resumed else "wb") as file:
            done, told = there if resumed else 0, 0.0
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if time.monotonic() > end:
                    raise TimeoutError(f"not whole after {FETCH_SECONDS:.0f} s")
                if time.monotonic() - told > 1:
                    told = time.monotonic()
                    report(
                        f"fetching the image: {done // MIB} of {total // MIB} MiB" if total else "fetching the image"
                    )
        if total and done < total:
            raise http.client.IncompleteRead(b"", total - done)
