"""A disk that boots by itself, on a BIOS as on UEFI: partition table, GRUB, and a root file system.

Made as a plain file, without loop devices or mounts. The table (GPT) has three partitions: GRUB's core for a BIOS, the
EFI system partition, and the root, which is as small as its content allows and grows into its disk at the first boots
(systemd-repart moves its end, systemd-growfs the file system's). GRUB finds its configuration on the third partition of
whichever disk it was loaded from, the kernel its root by the file system's UUID: no device name is written down.

The result is kept in pieces of a fixed size, each compressed (zstd) and with its digest: an installer fetches one,
checks it, and only then writes it.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kube.errors import KtoolError
from provision.command import run
from provision.machine import find_command
from provision.machine_image.cache import MIB, as_owner, entry
from provision.providers.provider import Report

# Raised with every change here that changes the result for the same root.
BUILDER = 2

PIECE_MIB = 32
SECTOR = 512
BIOS_START, BIOS_MIB = 1 * MIB, 1
EFI_START, EFI_MIB = 2 * MIB, 64
ROOT_START = 66 * MIB
END_MIB = 1  # the table's second copy
JOURNAL_MIB = 32
SLACK_MIB = 96

BIOS_TYPE = "21686148-6449-6E6F-744E-656564454649"
EFI_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
# systemd's Discoverable Partitions Specification, by Debian's name of the architecture.
ROOT_TYPES = {"amd64": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "arm64": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"}

# AppArmor is off for the same reason as in virtual machines (recipe.py).
KERNEL_ARGUMENTS = "rw apparmor=0 console=tty0 console=ttyS0,115200 quiet"

_GRUB_MODULES = ("part_gpt", "ext2", "normal", "linux", "echo", "boot", "test", "configfile", "serial", "terminal")
_BIOS_MODULES = ("biosdisk", *_GRUB_MODULES)
_EFI_MODULES = ("fat", "efi_gop", "all_video", *_GRUB_MODULES)
# Both loaders know from which disk they came; the comma leaves it open.
_GRUB_PREFIX = "(,gpt3)/boot/grub"

_GROW_ROOT = "# The root partition takes what its disk has.\n[Partition]\nType=root\n"


class Piece(msgspec.Struct, frozen=True):
    """A compressed part of the disk: a file beside the description, and the SHA-256 of that file, in hex."""

    name: str
    sha256: str


class DiskFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`size` in bytes, as written to a disk; `pieces` in their order, each `PIECE_MIB` long but the last."""

    size: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class BootableDisk:
    """A disk's content, in pieces that are files of `folder`."""

    folder: Path
    size: int
    pieces: tuple[Piece, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the pieces' digests, in hex: names the content."""
        return hashlib.sha256("".join(piece.sha256 for piece in self.pieces).encode()).hexdigest()


def bootable_disk(root: Path, cache: Path, report: Report, *, key: str, architecture: str = "amd64") -> BootableDisk:
    """The disk of a root folder (built with Purpose.METAL), whose content `key` names.

    Made at the first call (under a minute), then kept. KtoolError if a program is missing or there is no room.
    """
    named = hashlib.sha256(f"{BUILDER} {key}".encode()).hexdigest()[:16]
    size = content_bytes(root)
    folder = entry(
        cache,
        "bootable-disks",
        named,
        make=lambda place: _make(root, place, report, key=named, architecture=architecture),
        need=2 * size + ROOT_START,
        report=report,
    )
    return of_folder(folder)


def compressed_disk(raw: Path, cache: Path, report: Report, *, key: str) -> BootableDisk:
    """A raw disk image that boots by itself already, in the form in which it is streamed."""
    named = hashlib.sha256(f"given {BUILDER} {key}".encode()).hexdigest()[:16]
    folder = entry(
        cache,
        "bootable-disks",
        named,
        make=lambda place: _compress(raw, place, report),
        need=raw.stat().st_blocks * SECTOR,
        report=report,
    )
    return of_folder(folder)


def of_folder(folder: Path) -> BootableDisk:
    """What an entry of the cache holds."""
    facts = msgspec.json.decode((folder / "disk.json").read_bytes(), type=DiskFacts)
    return BootableDisk(folder=folder, size=facts.size, pieces=facts.pieces)


def content_bytes(root: Path) -> int:
    """What the files of a folder take on a disk, in bytes."""
    return int(run(as_owner(["du", "-sk", "--one-file-system", str(root)]), timeout=120).split()[0]) * 1024


def root_mib(content: int) -> int:
    """How large a file system is for `content` bytes of files: tables and journal included, with some room for the
    first minutes, until it has grown."""
    return content * 110 // 100 // MIB + JOURNAL_MIB + SLACK_MIB


def partition_table(root_size_mib: int, *, root_type: str) -> str:
    """sfdisk's script for the table (sfdisk(8)): units are sectors unless they say MiB."""
    return f"""label: gpt
start={BIOS_START // SECTOR}, size={BIOS_MIB}MiB, type={BIOS_TYPE}, name=bios
start={EFI_START // SECTOR}, size={EFI_MIB}MiB, type={EFI_TYPE}, name=efi
start={ROOT_START // SECTOR}, size={root_size_mib}MiB, type={root_type}, name=root
"""


def grub_cfg(filesystem: str) -> str:
    """GRUB's configuration: Debian keeps links to the newest kernel in the root, so it need not be written anew."""
    return f"""# made by ktool; update-grub may replace it
set timeout=0
serial --unit=0 --speed=115200
terminal_output console serial
linux /vmlinuz root=UUID={filesystem} {KERNEL_ARGUMENTS}
initrd /initrd.img
boot
"""


def fstab(filesystem: str) -> str:
    """The machine's fstab(5)."""
    return f"UUID={filesystem} / ext4 rw,relatime,errors=remount-ro 0 1\n"


def patched_loader(boot: bytes, core: bytes, *, sector: int) -> tuple[bytes, bytes]:
    """GRUB's boot sector and core for a BIOS, made to find each other when the core lies at `sector` of the disk.

    It is what grub-bios-setup writes: the boot sector holds the place of the core's first sector, and that the place
    of the rest. KtoolError if the core is too large for its partition.
    """
    if len(core) > BIOS_MIB * MIB:
        raise KtoolError("GRUB's core does not fit", found=f"{len(core)} bytes", wanted=f"at most {BIOS_MIB} MiB")
    first = bytearray(boot[:440])
    first[0x5C:0x64] = struct.pack("<Q", sector)
    # Two instructions that trust the BIOS's drive number only for hard disks; some say something else for USB disks.
    first[0x66:0x68] = b"\x90\x90"
    rest = bytearray(core)
    rest[0x1F4:0x1FC] = struct.pack("<Q", sector + 1)
    return bytes(first), bytes(rest)


def _make(root: Path, folder: Path, report: Report, *, key: str, architecture: str) -> None:
    _require_programs()
    filesystem = str(uuid.uuid5(uuid.NAMESPACE_OID, f"ktool root {key}"))
    size_mib = root_mib(content_bytes(root))
    raw = folder / "disk.raw"
    report("making a disk that boots")
    with raw.open("wb") as file:
        file.truncate(ROOT_START + (size_mib + END_MIB) * MIB)
    script = partition_table(size_mib, root_type=ROOT_TYPES[architecture])
    _run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(raw), stdin=script)
    offset = f"offset={ROOT_START},lazy_itable_init=1"
    options = ["-q", "-t", "ext4", "-L", "root", "-U", filesystem, "-J", f"size={JOURNAL_MIB}", "-E", offset]
    _run("mke2fs", *options, "-d", str(root), str(raw), f"{size_mib}m", as_root=True)
    _write_files(
        raw,
        folder,
        {
            "/boot/grub/grub.cfg": grub_cfg(filesystem),
            "/etc/fstab": fstab(filesystem),
            "/etc/repart.d/50-root.conf": _GROW_ROOT,
        },
    )
    _install_grub(root, raw, folder, architecture)
    _compress(raw, folder, report)
    raw.unlink()


def _write_files(raw: Path, folder: Path, files: dict[str, str]) -> None:
    """Put files into the file system without mounting it (debugfs(8)); what is there is replaced."""
    made: list[str] = []
    commands: list[str] = []
    for number, (path, text) in enumerate(files.items()):
        source = folder / f"file-{number}"
        source.write_text(text)
        source.chmod(0o644)
        parent = str(Path(path).parent)
        if parent not in made:
            made.append(parent)
            commands.append(f"mkdir {parent}")
        commands += [f"rm {path}", f"write {source} {path}"]
        # The one who makes the image need not be root.
        commands += [f"set_inode_field {path} {field} 0" for field in ("uid", "gid")]
    script = folder / "debugfs"
    script.write_text("\n".join(commands) + "\n")
    # Folders that exist and files that do not are no failure of debugfs's: what counts is looked at below.
    _run("debugfs", "-w", "-f", str(script), f"{raw}?offset={ROOT_START}")
    for number, path in enumerate(files):
        written = run([find_command("debugfs"), "-R", f"cat {path}", f"{raw}?offset={ROOT_START}"])
        if written != (folder / f"file-{number}").read_text():
            raise KtoolError("a file does not get into the disk's root", found=f"not in the image: {path}")
        (folder / f"file-{number}").unlink()
    script.unlink()


def _install_grub(root: Path, raw: Path, folder: Path, architecture: str) -> None:
    grub = root / "usr/lib/grub"
    if architecture == "amd64":
        core = _grub_image(root, folder, "i386-pc", _BIOS_MODULES)
        first, rest = patched_loader((grub / "i386-pc/boot.img").read_bytes(), core, sector=BIOS_START // SECTOR)
        with raw.open("r+b") as file:
            file.write(first)  # up to the table's own bytes, which stay
            file.seek(BIOS_START)
            file.write(rest)
    target, name = ("x86_64-efi", "BOOTX64.EFI") if architecture == "amd64" else ("arm64-efi", "BOOTAA64.EFI")
    loader = folder / name
    loader.write_bytes(_grub_image(root, folder, target, _EFI_MODULES))
    partition = f"{raw}@@{EFI_START}"
    _run("mformat", "-i", partition, "-F", "-T", str(EFI_MIB * MIB // SECTOR), "-v", "EFI", "::")
    _run("mmd", "-i", partition, "::/EFI", "::/EFI/BOOT")
    _run("mcopy", "-i", partition, str(loader), f"::/EFI/BOOT/{name}")
    loader.unlink()


def _grub_image(root: Path, folder: Path, target: str, modules: tuple[str, ...]) -> bytes:
    """GRUB's core with these modules, made by the root's own grub-mkimage from the root's own modules."""
    out = folder / f"grub-{target}"
    program = ["grub-mkimage", "-O", target, "-p", _GRUB_PREFIX, *modules]
    # The root must not be written to, so the result comes over standard output.
    run(as_owner(["sh", "-c", 'out=$1; shift; exec "$@" >"$out"', "sh", str(out), "chroot", str(root), *program]))
    image = out.read_bytes()
    out.unlink()
    if not image:
        raise KtoolError(f"grub-mkimage made nothing for {target}", found="0 bytes")
    return image


def _compress(raw: Path, folder: Path, report: Report) -> None:
    report("compressing the disk")
    size = raw.stat().st_size
    pieces = []
    with raw.open("rb") as source:
        for number in range(-(-size // (PIECE_MIB * MIB))):
            name = f"piece-{number:04}"
            # Level 3 takes no longer than the disk; decompressing is fast at any.
            done = subprocess.run(
                [find_command("zstd"), "-q", "-3", "-T0", "-c"],
                input=source.read(PIECE_MIB * MIB),
                capture_output=True,
                timeout=300,
                check=False,
            )
            if done.returncode != 0:
                raise KtoolError("a disk cannot be compressed", found=done.stderr.decode(errors="replace"))
            (folder / name).write_bytes(done.stdout)
            pieces.append(Piece(name, hashlib.sha256(done.stdout).hexdigest()))
    facts = DiskFacts(size=size, pieces=tuple(pieces))
    (folder / "disk.json").write_bytes(msgspec.json.encode(facts))


def _run(name: str, *arguments: str, stdin: str = "", as_root: bool = False) -> None:
    argv = [find_command(name), *arguments]
    run(as_owner(argv) if as_root else argv, stdin=stdin, timeout=300)


def _require_programs() -> None:
    packages = {"sfdisk": "fdisk", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs", "mformat": "mtools", "zstd": "zstd"}
    missing = [name for name in packages if not find_command(name)]
    if missing:
        raise KtoolError(
            "a disk for bare metal cannot be made: programs are missing",
            found=f"no {', '.join(missing)}",
            wanted=", ".join(packages),
            mend=f"apt-get install {' '.join(sorted({packages[name] for name in missing}))}",
        )
