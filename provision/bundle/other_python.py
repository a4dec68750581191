"""Runtimes for versions of Python other than this one's: their packages are fetched by uv, not taken from here.

Compiled packages of one version of Python do not run on another, so this is the one place where making a runtime
takes a package registry. What is fetched is compared with the hashes of constraints.txt.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Collection
from importlib import metadata
from pathlib import Path, PurePosixPath

from kube.errors import KtoolError
from provision.bundle import closure, contents, runtime
from provision.bundle.archive import Archive, ArchiveRole, Manifest, Report
from provision.command import CommandFailed, Runner, run

# Oldest first: what ktool itself supports (pyproject.toml, requires-python).
SUPPORTED = ("cp311", "cp312", "cp313")
FETCH_SECONDS = 600.0


def build_for(
    role: ArchiveRole,
    cache: Path,
    *,
    tags: Collection[str],
    arch: str,
    report: Report = lambda line: None,
    runner: Runner = run,
) -> Archive:
    """The runtime for a machine that has these versions of Python (`cp312`) and this architecture (`x86_64`).

    KtoolError if none of them is supported, or what is needed cannot be fetched.
    """
    usable = [tag for tag in SUPPORTED if tag in tags]
    if not usable:
        raise KtoolError(
            "ktool does not run on this machine's Python",
            found=", ".join(sorted(tags)) or "no Python",
            wanted=f"one of {', '.join(SUPPORTED)}",
            mend="install python3.11 or newer on it (Debian 12, Ubuntu 24.04 and RHEL 9 have one)",
        )
    manifest = Manifest(
        key=_key(role, usable[-1], arch),
        role=role,
        version=metadata.version(closure.ROOT),
        python_tag=usable[-1],
        arch=arch,
        compiled=False,
    )
    path = cache / "runtime" / manifest.file_name
    if path.exists():
        os.utime(path)
        return Archive(path=path, manifest=manifest)
    report(f"fetching packages for {manifest.python} on {arch}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ktool-python-") as folder:
        packages = Path(folder) / "packages"
        _fetch(role, manifest, packages, runner=runner)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            _write(beside, manifest, packages)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    return Archive(path=path, manifest=manifest)


def uv_command(manifest: Manifest, requirements: Path, target: Path, *, uv: str) -> list[str]:
    """uv's command line: wheels only, for the machine's Python and platform, each with a known hash."""
    return [
        *(uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *("--python", sys.executable, "--python-version", manifest.python.removeprefix("python")),
        *("--python-platform", f"{manifest.arch}-manylinux_2_28", "--target", str(target)),
        *("-r", str(requirements)),
    ]


def pinned(lock: str, names: Collection[str]) -> str:
    """The part of a lock file (uv pip compile --generate-hashes) that is about these distributions."""
    found: list[str] = []
    taken = False
    for line in lock.splitlines():
        if line and not line[0].isspace():
            taken = not line.startswith("#") and closure.normal(line.split("==")[0].strip()) in names
        if taken and not line.lstrip().startswith("#"):
            found.append(line)
    return "\n".join(found) + "\n"


def _fetch(role: ArchiveRole, manifest: Manifest, target: Path, *, runner: Runner) -> None:
    uv = shutil.which("uv", path=f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', os.defpath)}")
    lock = closure.checkout() / "constraints.txt"
    if uv is None or not lock.exists():
        raise KtoolError(
            f"no runtime for {manifest.python} on {manifest.arch} can be made here",
            found="uv is not installed" if uv is None else f"no file {lock}",
            wanted=f"{runtime.python_tag()} on the machine, or uv and a checkout of ktool here",
            mend=f"install python{sys.version_info.major}.{sys.version_info.minor} on the machine",
        )
    names = {closure.normal(d.name) for d in closure.runtime_distributions(contents.EXTRAS[role])}
    requirements = target.parent / "requirements.txt"
    requirements.write_text(pinned(lock.read_text(), names - contents.LEFT_OUT_DISTRIBUTIONS))
    try:
        runner(uv_command(manifest, requirements, target, uv=uv), timeout=FETCH_SECONDS)
    except CommandFailed as failed:
        raise KtoolError(
            f"the packages of a runtime for {manifest.python} on {manifest.arch} cannot be fetched",
            found=failed.found,
            wanted="wheels for that version of Python, with the hashes of constraints.txt",
            mend=f"make a package registry reachable, or install python3.{sys.version_info.minor} on the machine",
        ) from failed


def _write(path: Path, manifest: Manifest, packages: Path) -> None:
    own = {source.name: source.path.read_bytes() for source in runtime.own_sources(manifest.role)}
    files = {
        name: file for file in packages.rglob("*") if file.is_file() and contents.keeps(name := _name(file, packages))
    }
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=runtime.TIME) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        ordered = sorted({**own, **files})
        runtime.write_layer(tar, manifest, ((n, own[n] if n in own else files[n].read_bytes()) for n in ordered))


def _name(file: Path, packages: Path) -> PurePosixPath:
    return PurePosixPath(file.relative_to(packages))


def _key(role: ArchiveRole, tag: str, arch: str) -> str:
    """Of our own sources and the versions of the others: those that are installed here are those of the lock."""
    lines = [f"{runtime.FORMAT} {role} {tag} {arch} {metadata.version(closure.ROOT)} fetched"]
    lines += [f"{d.name} {d.version}" for d in closure.runtime_distributions(contents.EXTRAS[role])]
    lines += [f"{source.name} {source.digest}" for source in runtime.own_sources(role)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
