"""The node runtime: one archive with everything that a machine needs to run ktool's agent, or master and agent.

The archive is a tar whose paths are below `/`. Unpacked there it is a whole installation; an image builder may lay it
over a root folder as it is, and on a running machine the role `runtime` (provision/ansible) does it in one step.

    opt/ktool/KEY/bin/python        → /usr/bin/python3.11: a virtual environment without pip
    opt/ktool/KEY/lib/.../          site-packages, compiled; libraries without debuggers' symbols
    opt/ktool/KEY/manifest.json     what this is
    opt/ktool/current               → KEY
    usr/local/bin/ktool             → /opt/ktool/current/bin/ktool

KEY is made of everything that goes in: names, versions and hashes of the distributions' files, and our own sources.
The same input has the same key on every machine; while it stays the same nothing is built, copied or unpacked again.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import platform
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from kube.errors import KtoolError
from provision.bundle import closure, contents, native
from provision.bundle.archive import Archive, ArchiveRole, Manifest, Report
from provision.bundle.bytecode import compiled

# Another number when the same input makes another archive.
FORMAT = 3
# Every file's time, in seconds since 1970 (2020-01-01): nobody compares it, and tar warns of much older ones.
TIME = 1_577_836_800
# Old archives that stay in the cache, for each role and version of Python.
KEPT = 3
_COMPRESSION = 6


@dataclass(frozen=True, slots=True)
class Source:
    """A file that goes in: its name relative to site-packages, where it is, its content's hash."""

    name: PurePosixPath
    path: Path
    digest: str
    own: bool


def python_tag() -> str:
    """The tag of this interpreter."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}"


def build(role: ArchiveRole, cache: Path, report: Report = lambda line: None) -> Archive:
    """The runtime of a role for this interpreter and architecture; built if not in `cache`.

    `cache` is a folder (provision.lab_state.cache_dir()); archives are kept in `runtime/` below it. KtoolError if this
    environment lacks a dependency.
    """
    if missing := closure.missing_distributions(contents.EXTRAS[role]):
        raise KtoolError(
            f"this environment cannot make the {role} runtime",
            found="not installed: " + ", ".join(missing),
            wanted="ktool's extras " + ", ".join(contents.EXTRAS[role]),
            mend="make setup (or: pip install 'ktool[local]'), or take a file made by `ktool bundle create`",
        )
    sources = _sources(role)
    manifest = Manifest(
        key=_key(role, sources),
        role=role,
        version=metadata.version(closure.ROOT),
        python_tag=python_tag(),
        arch=platform.machine(),
    )
    path = cache / "runtime" / manifest.file_name
    if path.exists():
        os.utime(path)  # what was used lately is kept
        return Archive(path=path, manifest=manifest)
    report(f"building the {role} runtime {manifest.key}")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as raw:
            _write(raw, manifest, sources)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    _prune(path.parent, manifest)
    report(f"{role} runtime: {path.stat().st_size / 1e6:.0f} MB")
    return Archive(path=path, manifest=manifest)


def _sources(role: ArchiveRole) -> list[Source]:
    found = []
    for distribution in closure.runtime_distributions(contents.EXTRAS[role]):
        if closure.normal(distribution.name) in contents.LEFT_OUT_DISTRIBUTIONS:
            continue
        for file in distribution.files or ():
            if contents.keeps(file):
                path = Path(str(distribution.locate_file(file)))
                # RECORD has the hash; a file without one (rare: made by an installer) is read.
                digest = file.hash.value if file.hash else hashlib.sha256(path.read_bytes()).hexdigest()
                found.append(Source(PurePosixPath(file), path, digest, own=False))
    found += own_sources(role)
    return sorted({source.name: source for source in found}.values(), key=lambda source: source.name)


def own_sources(role: ArchiveRole) -> list[Source]:
    """ktool's own files that go to machines of a role."""
    found = []
    root = closure.checkout()
    for package in closure.PACKAGES:
        for path in (root / package).rglob("*"):
            name = PurePosixPath(path.relative_to(root))
            if contents.keeps_own(name, role) and path.is_file():
                found.append(_own(name, path))
    # `ktool up --example`; a wheel has it inside the package already.
    examples = root / "examples" / "web.yaml"
    if examples.exists():
        found.append(_own(PurePosixPath("ktool/examples/web.yaml"), examples))
    return found


def _own(name: PurePosixPath, path: Path) -> Source:
    return Source(name, path, hashlib.sha256(path.read_bytes()).hexdigest(), own=True)


def _key(role: ArchiveRole, sources: list[Source]) -> str:
    lines = [f"{FORMAT} {role} {python_tag()} {platform.machine()} {metadata.version(closure.ROOT)}"]
    lines += [f"{source.name} {source.digest}" for source in sources]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _write(raw: io.BufferedWriter, manifest: Manifest, sources: list[Source]) -> None:
    with (
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=_COMPRESSION, mtime=TIME) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        # Tracebacks and __file__ name the path by which the interpreter found it.
        shown = contents.CURRENT / "lib" / manifest.python / "site-packages"
        write_layer(tar, manifest, _files(sources, shown))


def write_layer(tar: tarfile.TarFile, manifest: Manifest, files: Iterable[tuple[PurePosixPath, bytes]]) -> None:
    """A whole installation into a tar; `files` are those of site-packages."""
    layer = Layer(tar)
    root = contents.RUNTIMES / manifest.key
    layer.link(root / "bin" / "python", f"/usr/bin/{manifest.python}")
    layer.link(root / "bin" / "python3", "python")
    layer.link(root / "bin" / manifest.python, "python")
    layer.file(root / "bin" / "ktool", command_script(manifest).encode(), mode=0o755)
    layer.file(root / "pyvenv.cfg", _PYVENV.encode())
    packages = root / "lib" / manifest.python / "site-packages"
    for name, data in files:
        library = ".so" in name.suffixes
        layer.file(packages / name, native.loaded(data) if library else data, mode=0o755 if library else 0o644)
    layer.file(
        packages / f"ktool-{manifest.version}.dist-info" / "METADATA",
        f"Metadata-Version: 2.1\nName: ktool\nVersion: {manifest.version}\n".encode(),
    )
    # What is unpacked up to here is no runtime yet; what has a manifest is one.
    layer.file(root / contents.MANIFEST, manifest.encode())
    layer.link(contents.CURRENT, manifest.key)
    layer.link(contents.COMMAND, str(contents.CURRENT / "bin" / "ktool"), within=contents.COMMAND.parent)


def _files(sources: list[Source], shown: PurePosixPath) -> Iterator[tuple[PurePosixPath, bytes]]:
    tag = sys.implementation.cache_tag or ""
    for source in sources:
        data = source.path.read_bytes()
        code = None
        if source.name.suffix == ".py":
            code = compiled(data, path=source.path, place=str(shown / source.name))
        if code is None or source.own:
            yield source.name, data
        if code is not None:
            yield contents.place(source.name, own=source.own, tag=tag), code


def _prune(folder: Path, manifest: Manifest) -> None:
    """Remove all but the archives of this kind that were used last."""
    for old in sorted(folder.glob(f"{manifest.prefix}*.tar.gz"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)


class Layer:
    """A tar below `/` whose entries say nothing of where, when and by whom it was made."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._folders: set[PurePosixPath] = set()

    def file(self, path: PurePosixPath, data: bytes, *, mode: int = 0o644) -> None:
        """A file at an absolute path, and the folders above it below /opt/ktool."""
        self._parents(path.parent, contents.RUNTIMES.parent)
        entry = self._entry(path, mode)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))

    def link(self, path: PurePosixPath, target: str, *, within: PurePosixPath = contents.RUNTIMES.parent) -> None:
        """A symbolic link; folders from `within` down are part of the tar, those above are the machine's."""
        self._parents(path.parent, within)
        entry = self._entry(path, 0o777)
        entry.type = tarfile.SYMTYPE
        entry.linkname = target
        self._tar.addfile(entry)

    def _parents(self, folder: PurePosixPath, within: PurePosixPath) -> None:
        if folder in self._folders or folder == within or not folder.is_relative_to(within):
            return
        self._parents(folder.parent, within)
        self._folders.add(folder)
        entry = self._entry(folder, 0o755)
        entry.type = tarfile.DIRTYPE
        self._tar.addfile(entry)

    @staticmethod
    def _entry(path: PurePosixPath, mode: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(str(path.relative_to("/")))
        entry.mode = mode
        entry.mtime = TIME
        return entry


_PYVENV = """\
home = /usr/bin
include-system-site-packages = false
"""
# By the link, or the programs that it starts would be others than those that were started before.
_COMMAND_SCRIPT = """\
#!/bin/sh
# ktool, in a process that has it loaded already where there is one (ktool/standby.py), else by itself. At a terminal it
# is by itself: that process is in another session, without job control.
python={python}
if [ -S {socket} ] && ! [ -t 0 ]; then
    exec "$python" -I -S {client} {socket} "$python" "$@"
fi
exec "$python" -c 'from ktool.__main__ import main; import sys; sys.exit(main())' "$@"
"""


def command_script(manifest: Manifest) -> str:
    """The command `ktool` of a runtime."""
    packages = contents.CURRENT / "lib" / manifest.python / "site-packages"
    return _COMMAND_SCRIPT.format(
        python=contents.CURRENT / "bin" / "python",
        # Another runtime's process has other code.
        socket=contents.STANDBY / manifest.key,
        client=packages / "ktool" / "standby_client.py",
    )
