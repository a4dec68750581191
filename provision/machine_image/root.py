"""The root folder of a machine, built from Debian packages by mmdebstrap; the kernel and initrd to boot it with.

mmdebstrap runs as root in mount and process namespaces of its own, so that whatever it mounts into the new root is gone
when it ends, also when it is killed; for other users it makes a user namespace itself. The same root serves virtual
machines (as a disk, provision.machine_image.disk) and systemd-nspawn machines (as the lower folder of an overlay).

A layer is a tar that is laid over a root: the node's programs, which change more often than Debian. The result shares
its other files with the root below by hard links, so that it takes a second and no room.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from kube.errors import KtoolError
from provision.command import run
from provision.machine import find_command, os_release
from provision.machine_image import apt_sources
from provision.machine_image.cache import as_owner, digest_of, entry, watch_output
from provision.machine_image.finish import finish_script
from provision.machine_image.purpose import Purpose
from provision.machine_image.recipe import Recipe, content_key
from provision.machine_image.vmlinux import unpack_kernel
from provision.providers.provider import Report

BUILD_SECONDS = 1500.0
BUILD_BYTES = 3 * 1024**3
LAYER_BYTES = 1024**3
# What the finish script leaves for us; see finish.py.
_BOOT = "boot/ktool"


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a virtual machine is started with. `kernel` is unpacked where that is possible: it starts sooner."""

    kernel: Path
    initrd: Path


def root(recipe: Recipe, cache: Path, report: Report, *, layer: Path | None = None, refresh: bool = False) -> Path:
    """The root folder of a recipe, with a layer (a tar, perhaps compressed by gzip, xz or zstd) over it if given.

    Made at the first call (one to two minutes), then kept. It must not be written to. KtoolError if Debian's packages
    cannot be had, or a program is missing.
    """
    base = entry(
        cache,
        "roots",
        recipe.key,
        make=lambda folder: _build(recipe, folder, report),
        need=BUILD_BYTES,
        report=report,
        refresh=refresh,
    )
    if layer is None:
        return base / "root"
    key = layer_key(recipe, layer, cache)
    over = entry(
        cache,
        "layered-roots",
        key,
        make=lambda folder: _lay_over(base / "root", layer, folder / "root", report),
        need=LAYER_BYTES,
        report=report,
        refresh=refresh,
    )
    return over / "root"


def boot_files(recipe: Recipe, cache: Path, report: Report) -> BootFiles:
    """The kernel and initrd of a recipe for virtual machines; builds the root if there is none yet."""
    folder = root(recipe, cache, report).parent
    return BootFiles(kernel=folder / "vmlinuz", initrd=folder / "initrd")


def layer_key(recipe: Recipe, layer: Path | None, cache: Path) -> str:
    """Names a recipe's root with a layer: the recipe's key if there is none. KtoolError if the layer is no file."""
    if layer is None:
        return recipe.key
    if not layer.is_file():
        raise KtoolError("the layer for the image is missing", found=f"no file {layer}", wanted="a tar archive")
    return content_key([recipe.key.encode(), digest_of(layer, cache).encode()])


def _build(recipe: Recipe, folder: Path, report: Report) -> None:
    _require_programs()
    sources = apt_sources.of_machine(recipe.release, own=os_release().get("VERSION_CODENAME", ""))
    if not sources:
        raise KtoolError(
            f"this machine's apt has no sources for Debian's {recipe.release}, so no image can be built here",
            found=f"nothing for {recipe.release} in /etc/apt/sources.list and /etc/apt/sources.list.d",
            wanted="a line like: deb URI SUITE main",
            mend="add one, or give the machines an image that exists: ktool_image: /path/to/disk.qcow2",
        )
    files = folder / "files.tar"
    files.write_bytes(_archive(recipe))
    target = folder / "root" if os.geteuid() == 0 else folder / "root.tar"
    report(f"building {recipe.release} from this machine's apt sources")
    status, last = watch_output(
        _mmdebstrap(recipe, files=files, target=target, sources=[str(source) for source in sources]),
        line=lambda text: _tell(text, report),
        timeout=BUILD_SECONDS,
    )
    if status != 0:
        raise _build_failed(recipe, status, last)
    files.unlink()
    if target.suffix == ".tar":
        _unpack_own(target, folder / "root")
    _take_boot_files(folder)
    (folder / "recipe").write_text(f"{recipe.release} {recipe.architecture} {recipe.purpose} {recipe.key}\n")


def _require_programs() -> None:
    packages = {"mmdebstrap": "mmdebstrap", "setpriv": "util-linux", "unshare": "util-linux"}
    if os.geteuid() != 0:
        packages["newuidmap"] = "uidmap"
    missing = [name for name in packages if not find_command(name)]
    if missing:
        raise KtoolError(
            "an image cannot be built: programs are missing",
            found=f"no {', '.join(missing)}",
            wanted=", ".join(packages),
            mend=f"apt-get install {' '.join(sorted({packages[name] for name in missing}))}",
        )


def _mmdebstrap(recipe: Recipe, *, files: Path, target: Path, sources: list[str]) -> list[str]:
    as_root = os.geteuid() == 0
    isolated = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    options = [
        f"--mode={'root' if as_root else 'unshare'}",
        f"--format={'directory' if as_root else 'tar'}",
        "--variant=minbase",
        f"--architectures={recipe.architecture}",
        f"--include={','.join(recipe.packages)}",
        '--aptopt=Apt::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "3"',
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        f"--customize-hook=tar-in {files} /",
        '--customize-hook=chroot "$1" sh /ktool-finish',
        "--verbose",
    ]
    if recipe.purpose is Purpose.VIRTUAL:
        # Our own initrd serves (finish.py); making another takes half as long as all the rest.
        options.append("--dpkgopt=path-exclude=/etc/kernel/postinst.d/initramfs-tools")
    command = ["mmdebstrap", *options, recipe.release, str(target), *sources]
    return [*isolated, *command] if as_root else command


def _archive(recipe: Recipe) -> bytes:
    """The recipe's files as a tar, all root's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(path: str, *, kind: bytes, mode: int, content: bytes = b"", target: str = "") -> None:
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.size, info.linkname = kind, mode, len(content), target
            archive.addfile(info, io.BytesIO(content))

        paths = [*(f.path for f in recipe.files), *(link.path for link in recipe.links)]
        # Only folders that are ours: existing ones would get our mode.
        for folder in sorted({str(Path(path).parent) for path in paths}):
            if folder.endswith((".d", "system-generators")) or folder.startswith("usr/local/lib/"):
                add(folder, kind=tarfile.DIRTYPE, mode=0o755)
        for file in recipe.files:
            add(file.path, kind=tarfile.REGTYPE, mode=file.mode, content=file.content.encode())
        for link in recipe.links:
            add(link.path, kind=tarfile.SYMTYPE, mode=0o777, target=link.target)
        for unit in recipe.masked:
            add(f"etc/systemd/system/{unit}", kind=tarfile.SYMTYPE, mode=0o777, target="/dev/null")
        script = finish_script(recipe.purpose).encode()
        add("ktool-finish", kind=tarfile.REGTYPE, mode=0o755, content=script)
    return buffer.getvalue()


_STEPS = (
    (re.compile(r"^Get:\d+ \S+ \S+ \S+ (\S+)"), "downloading"),
    (re.compile(r"^Unpacking (\S+)"), "unpacking"),
    (re.compile(r"^Setting up (\S+)"), "setting up"),
)


def step_of(line: str) -> str:
    """What a line of mmdebstrap's says about where it is, in a few words; empty if nothing."""
    for pattern, doing in _STEPS:
        if found := pattern.match(line):
            return f"{doing} {found[1].split(':')[0]}"
    if line.startswith("I: ") and not line.startswith(("I: skipping", "I: automatically", "I: not ")):
        return line.removeprefix("I: ").removesuffix("...")
    return ""


def _tell(line: str, report: Report) -> None:
    if doing := step_of(line):
        report(doing)


def _build_failed(recipe: Recipe, status: int | None, last: list[str]) -> KtoolError:
    text = "\n".join(last)
    found = f"no end within {BUILD_SECONDS:.0f} s" if status is None else "; ".join(last[-4:])
    unreachable = ("Failed to fetch", "Could not resolve", "Could not connect", "Temporary failure", "unreachable")
    if any(sign in text for sign in unreachable):
        return KtoolError(
            "Debian's packages cannot be reached, so no image can be built",
            found=found,
            wanted=f"this machine's apt sources for {recipe.release} answer (apt-get update)",
            mend="build the image where they do (ktool lab image), or give one that exists: "
            "ktool_image: /path/to/disk.qcow2",
        )
    return KtoolError(
        f"building the image of {recipe.release} failed",
        found=found,
        wanted="mmdebstrap ends well",
        mend="mend what it says and run the same command again",
    )


def _unpack_own(archive: Path, target: Path) -> None:
    """Unpack a root in a user namespace; devices cannot be made there, and a machine brings its own."""
    target.mkdir()
    run(as_owner(["tar", "-xpf", str(archive), "-C", str(target), "--exclude=./dev/*"]), timeout=300)
    archive.unlink()


def _take_boot_files(folder: Path) -> None:
    source = folder / "root" / _BOOT
    if not source.is_dir():  # metal boots by itself
        return
    kernel = unpack_kernel((source / "vmlinuz").read_bytes())
    (folder / "vmlinuz").write_bytes(kernel)
    shutil.copyfile(source / "initrd", folder / "initrd")
    run(as_owner(["rm", "-rf", "--", str(source)]))


def _lay_over(base: Path, layer: Path, target: Path, report: Report) -> None:
    report(f"laying {layer.name} over the root")
    # tar replaces a file that exists by a new one, so what is linked to keeps its content.
    copy = ["cp", "-al", "--", str(base), str(target)]
    unpack = ["tar", "-xpf", str(layer), "-C", str(target), "--keep-directory-symlink", "--numeric-owner"]
    for argv in (copy, unpack):
        run(as_owner(argv), timeout=300)
