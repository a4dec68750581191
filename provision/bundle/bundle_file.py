"""One file with all that a lab's machines get: runtimes, container images, playbooks (`ktool bundle create`).

A plain tar, read from its beginning: `bundle.json` comes first and names every other file with its size and SHA-256.
Nothing is taken from the tar that is not named there, and nothing whose content differs. Who made the file is not
proved by that: keep it as you would keep a package.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from kube.errors import KtoolError
from provision.bundle.archive import Archive, ArchiveRole, Manifest, Report
from provision.bundle.runtime import TIME

FORMAT = 1
INDEX = "bundle.json"
_CHUNK = 1 << 20
_INDEX_LIMIT = 4 << 20


class Entry(msgspec.Struct, frozen=True):
    """A file in a bundle; `size` in bytes, `sha256` in hexadecimal digits."""

    name: str
    size: int
    sha256: str


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says of itself. `images` maps an image's references (or the name of its file) to the entry."""

    format: int
    version: str
    files: tuple[Entry, ...]
    runtimes: tuple[dict[str, Any], ...]
    images: dict[str, str]

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """The runtimes in it."""
        return tuple(Manifest.of(fields) for fields in self.runtimes)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A container image to put into a bundle: `name` is its reference or a file's name, `path` a docker-archive."""

    name: str
    path: Path


def create(
    target: Path,
    *,
    archives: Mapping[ArchiveRole, Archive],
    images: Sequence[ImageFile] = (),
    folders: Mapping[str, Path] | None = None,
    report: Report = lambda line: None,
) -> Index:
    """Write a bundle to `target`, whole or not at all. `folders` are put in under their names (the playbooks').

    KtoolError if `target` cannot be written.
    """
    sources: dict[str, Path] = {f"runtimes/{a.path.name}": a.path for a in archives.values()}
    named: dict[str, str] = {}
    for number, image in enumerate(images, 1):
        named[image.name] = f"images/{number:03}.tar"
        sources[named[image.name]] = image.path
    for name, folder in sorted((folders or {}).items()):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                sources[f"{name}/{path.relative_to(folder)}"] = path
    report(f"reading {len(sources)} files")
    index = Index(
        format=FORMAT,
        version=next(iter(archives.values())).manifest.version,
        files=tuple(Entry(name, path.stat().st_size, _sha256(path)) for name, path in sources.items()),
        runtimes=tuple(asdict(archive.manifest) for archive in archives.values()),
        images=named,
    )
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with tarfile.open(beside, "w", format=tarfile.GNU_FORMAT) as tar:
            with tempfile.TemporaryFile() as file:
                file.write(msgspec.json.format(msgspec.json.encode(index)))
                _add(tar, INDEX, file)
            for name, path in sources.items():
                report(name)
                with path.open("rb") as source:
                    _add(tar, name, source)
        os.replace(beside, target)
    except OSError as error:
        raise KtoolError(
            f"the bundle {target} cannot be written", found=error.strerror or str(error), wanted="room and permission"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return index


def read_index(bundle: Path) -> Index:
    """What is in a bundle; its content is not checked here. KtoolError if it is none."""
    with _opened(bundle) as tar:
        return _index(tar, bundle)


def unpack_archives(bundle: Path, cache: Path, report: Report = lambda line: None) -> dict[ArchiveRole, Archive]:
    """The runtimes in a bundle, checked and put into `cache`; one for each role, the first where there are several.

    KtoolError if the bundle lacks a role or is damaged.
    """
    found: dict[ArchiveRole, Archive] = {}
    with _opened(bundle) as tar:
        index = _index(tar, bundle)
        entries = {entry.name: entry for entry in index.files}
        for manifest in index.manifests:
            entry = entries.get(f"runtimes/{manifest.file_name}")
            if entry is None or manifest.role in found:
                continue
            path = cache / "runtime" / manifest.file_name
            if not path.exists() or path.stat().st_size != entry.size or _sha256(path) != entry.sha256:
                report(f"{manifest.role} runtime {manifest.key} from {bundle.name}")
                _extract(tar, entry, path, bundle=bundle)
            os.utime(path)
            found[manifest.role] = Archive(path=path, manifest=manifest)
    if missing := [role.value for role in ArchiveRole if role not in found]:
        raise KtoolError(
            f"the bundle {bundle} is incomplete",
            found=f"no runtime for: {', '.join(missing)}",
            wanted="runtimes for " + ", ".join(ArchiveRole),
            mend=f"ktool bundle create -o {bundle}",
        )
    return found


def unpack_images(bundle: Path, folder: Path) -> dict[str, Path]:
    """The container images in a bundle, checked, as docker-archives in `folder`; by reference or file name."""
    found = {}
    with _opened(bundle) as tar:
        index = _index(tar, bundle)
        entries = {entry.name: entry for entry in index.files}
        for number, (name, where) in enumerate(index.images.items()):
            found[name] = folder / f"{number:03}.tar"
            _extract(tar, entries[where], found[name], bundle=bundle)
    return found


def verify(bundle: Path) -> Index:
    """Read all of a bundle and compare it with what it says of itself. KtoolError names the first file that differs."""
    with _opened(bundle) as tar:
        index = _index(tar, bundle)
        for entry in index.files:
            with _member(tar, entry, bundle) as source:
                digest = hashlib.sha256()
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
            _compare(entry, digest.hexdigest(), bundle)
    return index


def save_images(references: Sequence[str], folder: Path, *, socket: Path) -> list[ImageFile]:
    """Images to put into a bundle: files as they are, references from the engine (`docker save`) into `folder`.

    KtoolError if the engine does not have one.
    """
    found = []
    for number, reference in enumerate(references):
        path = Path(reference)
        if path.is_file():
            found.append(ImageFile(path.name, path))
            continue
        target = folder / f"{number:03}.tar"
        _save(reference, target, socket=socket)
        found.append(ImageFile(reference, target))
    return found


def _save(reference: str, target: Path, *, socket: Path) -> None:
    import docker.errors

    from provision import docker_engine

    docker_engine.version(socket)
    client = docker_engine.connect(socket, timeout=600)
    try:
        api: Any = client.api  # its types are incomplete
        with target.open("wb") as file:
            for chunk in api.get_image(reference, chunk_size=_CHUNK):
                file.write(chunk)
    except docker.errors.ImageNotFound as error:
        raise KtoolError(
            f"there is no image {reference}",
            found=f"the engine at {socket} does not have it, and no file has that name",
            wanted="the name of an image (ktool image list), or a file as `docker save` writes it",
        ) from error
    finally:
        client.close()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = file.seek(0, os.SEEK_END)
    entry.mtime = TIME
    file.seek(0)
    tar.addfile(entry, file)


@contextmanager
def _opened(bundle: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(bundle, "r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise _no_bundle(bundle, str(error)) from error
    except FileNotFoundError as error:
        raise KtoolError(f"there is no bundle {bundle}", mend=f"ktool bundle create -o {bundle}") from error


def _index(tar: tarfile.TarFile, bundle: Path) -> Index:
    first = tar.next()
    if first is None or first.name != INDEX or not first.isfile() or first.size > _INDEX_LIMIT:
        raise _no_bundle(bundle, f"begins with {first.name if first else 'nothing'}")
    file = tar.extractfile(first)
    assert file is not None
    try:
        index = msgspec.json.decode(file.read(), type=Index)
        _ = index.manifests
    except (msgspec.MsgspecError, ValueError, KeyError) as error:
        raise _no_bundle(bundle, f"{INDEX}: {error}") from error
    if index.format != FORMAT:
        raise KtoolError(
            f"the bundle {bundle} is of another version of ktool",
            found=f"format {index.format}, made by ktool {index.version}",
            wanted=f"format {FORMAT}",
            mend="make the bundle anew, or use the ktool that made it",
        )
    return index


def _no_bundle(bundle: Path, found: str) -> KtoolError:
    return KtoolError(f"{bundle} is no bundle", found=found, wanted="a file made by `ktool bundle create`")


@contextmanager
def _member(tar: tarfile.TarFile, entry: Entry, bundle: Path) -> Iterator[IO[bytes]]:
    try:
        file = tar.extractfile(entry.name)
    except KeyError:
        file = None
    if file is None:
        raise KtoolError(f"the bundle {bundle} is damaged", found=f"{entry.name} is missing", wanted="the whole file")
    with file:
        yield file


def _extract(tar: tarfile.TarFile, entry: Entry, path: Path, *, bundle: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    digest = hashlib.sha256()
    try:
        with _member(tar, entry, bundle) as source, beside.open("wb") as target:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
        _compare(entry, digest.hexdigest(), bundle)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _compare(entry: Entry, digest: str, bundle: Path) -> None:
    if digest != entry.sha256:
        raise KtoolError(
            f"the bundle {bundle} is damaged",
            found=f"{entry.name} has the SHA-256 {digest[:16]}…",
            wanted=f"{entry.sha256[:16]}…",
            mend="copy the file again, or make it anew: ktool bundle create",
        )
