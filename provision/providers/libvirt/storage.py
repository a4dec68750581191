"""A lab's disks: volumes in a storage pool of its own, the same way on this host and on others.

What many machines share (a base image, its kernel and initrd) is uploaded once, under a name that says its content.
An upload that was broken off leaves a file that is too short; it is taken for what it is, and made anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import libvirt

from kube.errors import KtoolError
from provision.lab_state import LabState
from provision.machine_image.cache import MIB
from provision.providers.libvirt import volume_names
from provision.providers.libvirt.connection import Connection, Handle, doing, lookup, missing
from provision.providers.libvirt.definitions import (
    pool_xml,
    read_pool_path,
    read_volume_backing,
    read_volume_bytes,
    volume_xml,
)
from provision.providers.libvirt.names import pool_name
from provision.providers.libvirt.ownership import require_same_lab
from provision.providers.provider import Report

_BUSY_SECONDS = 120.0
_CHUNK = 4 * MIB


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume: path on the libvirt host, capacity in bytes, path of what it is a clone of."""

    path: str
    capacity: int
    backing: str = ""


class Storage:
    """The pool of one lab."""

    def __init__(self, connection: Connection, lab: str, state: LabState) -> None:
        self._connection = connection
        self._lab = lab
        self._state = state
        self.pool = pool_name(lab)
        self.path = connection.place.pool_path(self.pool) if connection.place.uri else ""
        # A pool does one thing at a time; uploads of the same file would disturb each other.
        self._uploading = threading.Lock()

    def ensure(self, report: Report) -> bool:
        """Have the pool defined and running; True if something had to be done."""
        changed = False
        with self._uploading, doing(f"the storage pool {self.pool} cannot be made"):
            handle = self._find()
            if handle is None:
                report(f"making the storage pool {self.pool}")
                handle = self._connection.handle.storagePoolDefineXML(pool_xml(self.pool, self.path, self._state.id))
                changed = True
            if not handle.isActive():
                handle.build()
                handle.create()
                changed = True
            if not handle.autostart():
                handle.setAutostart(1)
        return changed

    def volume(self, name: str) -> Volume | None:
        """The volume of that name."""
        handle = self._volume(name)
        if handle is None:
            return None
        with doing(f"libvirt does not tell of the disk {name}"):
            try:
                text = handle.XMLDesc()
                path = handle.path()
            except libvirt.libvirtError as error:
                if missing(error):  # removed a moment ago
                    return None
                raise
        return Volume(path, read_volume_bytes(text)[0], read_volume_backing(text))

    def clone(self, name: str, *, base: str, base_form: str, capacity: int) -> Volume:
        """A new linked clone of the volume at the path `base`, of `capacity` bytes."""
        text = volume_xml(name, capacity=capacity, form="qcow2", backing=base, backing_form=base_form)
        with doing(f"the disk {name} cannot be made"):
            self._retry(lambda pool: pool.createXML(text))
        made = self.volume(name)
        assert made is not None
        return made

    def takes_copies(self) -> bool:
        """Whether this process may put files into the pool itself."""
        return self._connection.place.is_local and os.access(self.path, os.W_OK)

    def upload(self, name: str, source: Path, *, form: str, capacity: int, report: Report) -> str:
        """Have a file as a volume; its path on the libvirt host. Done already if the whole of it is there."""
        size = source.stat().st_size
        with self._uploading, doing(f"{source.name} cannot be brought to the libvirt host"):
            self._refresh()
            there = self._volume(name)
            if there is not None:
                if read_volume_bytes(there.XMLDesc())[1] == size:
                    return str(there.path())
                there.delete()
            report(f"bringing {name} ({size // MIB} MiB) to libvirt")
            # A raw volume without content: what is written makes the file as long as the source.
            text = volume_xml(name, capacity=capacity if form == "qcow2" else 0, form=form)
            handle = self._retry(lambda pool: pool.createXML(text))
            stream = self._connection.handle.newStream()
            with source.open("rb") as file:
                handle.upload(stream, 0, size)
                stream.sendAll(lambda _stream, count, source: source.read(min(count, _CHUNK)), file)
                stream.finish()
            return str(handle.path())

    def copy(self, name: str, source: Path) -> None:
        """Have a new qcow2 disk that is a copy of a file, whole or not at all; only on this host.

        OSError if the pool's folder may not be written to, or there is no room.
        """
        target = Path(self.path) / name
        part = target.with_name(volume_names.part(name))
        try:
            # It copies within the kernel, and where the file system can, shares what is the same.
            shutil.copyfile(source, part)
            part.chmod(0o600)
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        with self._uploading, doing(f"the disk {name} cannot be made"):
            self._refresh()

    def write(self, name: str, content: bytes) -> str:
        """Have a small volume with this content, replacing what is there; its path on the libvirt host."""
        with self._uploading, doing(f"{name} cannot be brought to the libvirt host"):
            there = self._volume(name)
            if there is not None:
                there.delete()
            handle = self._retry(lambda pool: pool.createXML(volume_xml(name, capacity=len(content), form="raw")))
            stream = self._connection.handle.newStream()
            handle.upload(stream, 0, len(content))
            stream.send(content)
            stream.finish()
            return str(handle.path())

    def read_end(self, name: str, count: int) -> bytes:
        """The last `count` bytes of a file in the pool; nothing if it is not there."""
        local = Path(self.path) / name
        if self._connection.place.is_local:
            with contextlib.suppress(OSError), local.open("rb") as file:
                file.seek(max(0, local.stat().st_size - count))
                return file.read(count)
        with contextlib.suppress(libvirt.libvirtError):
            self._refresh()
            handle = self._volume(name)
            if handle is None:
                return b""
            size = read_volume_bytes(handle.XMLDesc())[1]
            start = max(0, size - count)
            stream = self._connection.handle.newStream()
            handle.download(stream, start, size - start)
            read = bytearray()
            while chunk := stream.recv(65536):
                read += chunk
            stream.finish()
            return bytes(read)
        return b""

    def resize(self, name: str, capacity: int) -> None:
        """Make a volume larger."""
        handle = self._volume(name)
        with doing(f"the disk {name} cannot be made larger"):
            handle.resize(capacity)

    def delete(self, name: str) -> bool:
        """Remove a volume; True if there was one."""
        with doing(f"the disk {name} cannot be removed"):
            self._refresh()
            handle = self._volume(name)
            if handle is None:
                return False
            handle.delete()
        return True

    def remove(self) -> bool:
        """Remove the pool with what ktool keeps in it; True if there was one.

        KtoolError if its folder is not ours, or holds files that are not: they stay, and so does the pool.
        """
        handle = self._find()
        if handle is None:
            return False
        with doing(f"the storage pool {self.pool} cannot be removed"):
            if not handle.isActive():
                with contextlib.suppress(libvirt.libvirtError):
                    handle.create()
            if handle.isActive():
                self._refresh()
                foreign = []
                for volume in handle.listAllVolumes():
                    if volume_names.is_ours(volume.name()):
                        volume.delete()
                    else:
                        foreign.append(volume.name())
                if foreign:
                    raise KtoolError(
                        f"the storage pool {self.pool} stays",
                        found=f"files that are not ktool's: {', '.join(sorted(foreign))}",
                        wanted="nothing in it but what ktool has made",
                        mend=f"move them out of {self.path}, then run the same command again",
                    )
                handle.destroy()
                handle.delete()
            handle.undefine()
        return True

    def _find(self) -> Handle:
        handle = lookup(self._connection.handle.storagePoolLookupByName, self.pool)
        if handle is None:
            return None
        with doing(f"libvirt does not tell of the storage pool {self.pool}"):
            there, uuid = read_pool_path(handle.XMLDesc()), handle.UUIDString()
        if there != self.path:
            raise KtoolError(
                f"there is a storage pool {self.pool} that ktool has not made",
                found=there,
                wanted=self.path,
                mend="give the lab another name (ktool_lab), or rename the pool",
            )
        what = f"the storage pool {self.pool}"
        require_same_lab(what, lab=self._lab, other=uuid, state=self._state)
        return handle

    def _volume(self, name: str) -> Handle:
        pool = self._find()
        if pool is None:
            return None
        with doing(f"libvirt does not tell of the storage pool {self.pool}"):
            if not pool.isActive():
                return None
        return lookup(pool.storageVolLookupByName, name)

    def _refresh(self) -> None:
        self._retry(lambda pool: pool.refresh())

    def _retry(self, work: Callable[[Handle], Handle]) -> Handle:
        """Work on the pool, which refuses while it is busy (an upload by another thread)."""
        end = time.monotonic() + _BUSY_SECONDS
        while True:
            pool = self._find()
            if pool is None:
                return None
            try:
                return work(pool)
            except libvirt.libvirtError as error:
                busy = "asynchronous jobs" in str(error) or "still being" in str(error)
                if not busy or time.monotonic() > end:
                    raise
            time.sleep(0.2)
