"""Who a machine is and whom it lets in, told from outside at its first start. Nothing of it is secret.

Images built by ktool read SMBIOS strings (systemd: "Credentials", SMBIOS OEM strings), which need no disk and no time.
They stand in QEMU's command line, which every user of the host can read: so there are public keys only. Images that
were given have cloud-init, which reads a small disk (cloud-init: "NoCloud").
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

from kube.errors import KtoolError
from provision.command import run
from provision.machine import find_command


def oem_strings(name: str, authorized_key: str) -> tuple[str, ...]:
    """The strings for an image built by ktool: lines of tmpfiles.d(5), followed at every start."""

    def encoded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    hosts = f"127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost\n"
    lines = [
        f"f+~ /root/.ssh/authorized_keys 0600 root root - {encoded(authorized_key.strip() + chr(10))}",
        f"f+~ /etc/hostname 0644 root root - {encoded(name + chr(10))}",
        f"f+~ /etc/hosts 0644 root root - {encoded(hosts)}",
    ]
    return (f"io.systemd.credential.binary:tmpfiles.extra={encoded(chr(10).join(lines) + chr(10))}",)


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
