"""Who a machine is and whom it lets in, told from outside at its first start. Nothing of it is secret.

Images built by ktool read SMBIOS strings (systemd: "Credentials", SMBIOS OEM strings), which need no disk and no time.
They stand in QEMU's command line, which every user of the host can read: so there are public keys only. A machine that
goes on from kept memory has those of another in it: it reads the same lines from a small disk. Images that were given
have cloud-init, which reads another kind of small disk (cloud-init: "NoCloud").
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

from kube.errors import KtoolError
from provision.command import run
from provision.machine import find_command
from provision.machine_image.guest_files import IDENTITY_MARK, MAC_FILE

# A disk keeps its size while the memory of who reads it is kept.
IDENTITY_BYTES = 16384


def oem_strings(name: str, authorized_key: str) -> tuple[str, ...]:
    """The strings for an image built by ktool: lines of tmpfiles.d(5), followed at every start."""
    lines = "".join(f"{line}\n" for line in _lines(name, authorized_key))
    return (f"io.systemd.credential.binary:tmpfiles.extra={_encoded(lines)}",)


def identity_disk(name: str, authorized_key: str, *, mac: str, machine_id: str) -> bytes:
    """The content of the disk that a machine reads when it goes on from kept memory; KtoolError if it gets too long."""
    lines = [
        IDENTITY_MARK,
        *_lines(name, authorized_key),
        _file(f"/{MAC_FILE}", 0o644, mac),
        _file("/etc/machine-id", 0o444, machine_id),
    ]
    content = "".join(f"{line}\n" for line in lines).encode()
    if len(content) > IDENTITY_BYTES:
        raise KtoolError(
            "what a machine is told at its first start gets too long",
            found=f"{len(content)} bytes",
            wanted=f"at most {IDENTITY_BYTES}",
            mend="let it start the other way: ktool_warm_start: false",
        )
    return content.ljust(IDENTITY_BYTES, b"\0")


def _lines(name: str, authorized_key: str) -> list[str]:
    hosts = f"127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost"
    return [
        _file("/root/.ssh/authorized_keys", 0o600, authorized_key.strip()),
        _file("/etc/hostname", 0o644, name),
        _file("/etc/hosts", 0o644, hosts),
    ]


def _file(path: str, mode: int, text: str) -> str:
    return f"f+~ {path} {mode:04o} root root - {_encoded(text + chr(10))}"


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def nocloud(name: str, user: str, authorized_key: str) -> dict[str, str]:
    """The files of a NoCloud disk: the name, one user who may become root, the key; host keys go to the console."""
    account: dict[str, object] = {"name": user, "ssh_authorized_keys": [authorized_key.strip()], "lock_passwd": True}
    if user != "root":
        account |= {"sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/bash"}
    settings = {
        "hostname": name,
        "manage_etc_hosts": True,
        "users": [account],
        "disable_root": user != "root",
        "ssh_pwauth": False,
        "ssh_genkeytypes": ["ed25519"],
        "ssh": {"emit_keys_to_console": True},
        "growpart": {"mode": "auto"},
    }
    return {
        "meta-data": json.dumps({"instance-id": name, "local-hostname": name}) + "\n",
        # JSON is YAML.
        "user-data": "#cloud-config\n" + json.dumps(settings, indent=1) + "\n",
    }


def nocloud_disk(files: dict[str, str]) -> bytes:
    """An ISO 9660 disk with these files, with the label that cloud-init looks for. KtoolError without a program."""
    program = next((p for name in ("xorriso", "genisoimage", "mkisofs") if (p := find_command(name))), "")
    if not program:
        raise KtoolError(
            "no disk for cloud-init can be made: a program is missing",
            found="none of xorriso, genisoimage, mkisofs",
            wanted="one of them, for machines whose image was given",
            mend="apt-get install xorriso",
        )
    with tempfile.TemporaryDirectory(prefix="ktool-seed-") as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text)
        target = Path(folder, "seed.iso")
        emulating = ["-as", "genisoimage"] if program.endswith("xorriso") else []
        names = [str(Path(folder, name)) for name in files]
        run([program, *emulating, "-quiet", "-output", str(target), "-volid", "cidata", "-joliet", "-rock", *names])
        return target.read_bytes()
