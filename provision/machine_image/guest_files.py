"""What ktool puts into a machine's root besides packages: files, links, units that are not to run.

The aim is a machine that answers SSH soon, also where each instruction is emulated: nothing is waited for that a lab
machine does not need, and what a node needs later (Docker, the login service) starts after SSH.

A machine is told who it is from outside (host name, authorized keys: systemd credentials in SMBIOS strings, a seed, or
files laid over the root), so nothing here is secret or differs between machines.
"""

from __future__ import annotations

from dataclasses import dataclass

# The line in which a machine tells its public host key on its console: whoever made it can pin the key, without
# trusting what answers on the network.
HOST_KEY_MARK = "ktool-host-key:"

_PROGRAMS = "usr/local/lib/ktool-machine"
_UNITS = "etc/systemd/system"
_AFTER_SSH = "[Unit]\nAfter=ssh.service\n"


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file in the root; `path` has no leading slash."""

    path: str
    content: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class GuestLink:
    """A symbolic link in the root; `path` has no leading slash."""

    path: str
    target: str


# ssh-keygen writes two files: the private key gets its name last, so that a machine that lost power in between makes
# them anew. The root's device is synced, or a key that was pinned could be lost with the power.
_HOST_KEY = f"""\
#!/bin/sh
# A host key of this machine's own, made at its first boot, and told on the console at each one.
key=/etc/ssh/ssh_host_ed25519_key
if [ ! -s "$key" ]; then
    rm -f "$key.new" "$key.new.pub"
    ssh-keygen -q -t ed25519 -N '' -C '' -f "$key.new" || exit 1
    mv "$key.new.pub" "$key.pub"
    mv "$key.new" "$key"
    sync "$key" "$key.pub"
fi
read -r type value rest <"$key.pub"
echo "{HOST_KEY_MARK} $type $value" >/dev/console || true
"""

_NAME_SERVERS = """\
#!/bin/sh
# networkd learns name servers from DHCP; nobody else writes them where programs look.
servers=$(sed -n 's/^DNS=//p' /run/systemd/netif/state)
[ -n "$servers" ] || exit 0
for server in $servers; do echo "nameserver $server"; done >/etc/resolv.conf.new
mv /etc/resolv.conf.new /etc/resolv.conf
"""

FILES = (
    GuestFile("etc/hostname", "ktool-machine\n"),
    GuestFile("etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"),
    GuestFile("etc/fstab", ""),
    GuestFile(
        "etc/ssh/sshd_config.d/10-ktool.conf",
        "HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        "UseDNS no\nMaxStartups 50\n",
    ),
    GuestFile(f"{_PROGRAMS}/host-key", _HOST_KEY, 0o755),
    GuestFile(
        f"{_UNITS}/ssh.service.d/ktool.conf",
        # The unit's own line checks the configuration, which takes as long as reading it once more.
        f"[Service]\nExecStartPre=\nExecStartPre=/{_PROGRAMS}/host-key\n",
    ),
    GuestFile(
        "etc/systemd/network/80-ktool.network",
        # A lease is looked up by the hardware address, which is the machine's own and stays.
        "[Match]\nName=eth* en*\nType=ether\nKind=!veth\n\n"
        "[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nKeepConfiguration=dhcp-on-stop\n\n"
        "[DHCPv4]\nClientIdentifier=mac\nUseDNS=yes\n",
    ),
    GuestFile(f"{_PROGRAMS}/name-servers", _NAME_SERVERS, 0o755),
    GuestFile(
        f"{_UNITS}/ktool-name-servers.path",
        "[Unit]\nDescription=Name servers from DHCP\n\n[Path]\nPathChanged=/run/systemd/netif/state\n\n"
        "[Install]\nWantedBy=multi-user.target\n",
    ),
    GuestFile(
        f"{_UNITS}/ktool-name-servers.service",
        f"[Unit]\nDescription=Name servers from DHCP\n\n[Service]\nType=oneshot\nExecStart=/{_PROGRAMS}/name-servers\n",
    ),
    GuestFile(
        f"{_UNITS}/ktool-grow-root.service",
        "[Unit]\nDescription=Grow the root file system to its disk\nAfter=ssh.service\n"
        "ConditionVirtualization=!container\n\n"
        "[Service]\nType=oneshot\nExecStart=/usr/lib/systemd/systemd-growfs /\n\n"
        "[Install]\nWantedBy=multi-user.target\n",
    ),
    # Few kinds of devices matter to a virtual machine: asking for all others again takes a second.
    GuestFile(
        f"{_UNITS}/systemd-udev-trigger.service.d/ktool.conf",
        "[Service]\nExecStart=\nExecStart=-udevadm trigger --action=add --subsystem-match=net --subsystem-match=block "
        "--subsystem-match=pci --subsystem-match=virtio --subsystem-match=acpi --subsystem-match=input\n",
    ),
    *(
        GuestFile(f"{_UNITS}/{unit}.d/ktool.conf", _AFTER_SSH)
        for unit in ("docker.service", "docker.socket", "containerd.service", "systemd-logind.service")
    ),
    # /proc/sys has what pods' traffic needs before anybody sets it by hand.
    GuestFile("etc/sysctl.d/80-ktool.conf", "net.ipv4.ip_forward=1\n"),
)

LINKS = (
    GuestLink(f"{_UNITS}/default.target", "/usr/lib/systemd/system/multi-user.target"),
    *(
        GuestLink(f"{_UNITS}/multi-user.target.wants/{unit}", f"{folder}/{unit}")
        for unit, folder in (
            ("systemd-networkd.service", "/usr/lib/systemd/system"),
            ("ktool-name-servers.path", f"/{_UNITS}"),
            ("ktool-grow-root.service", f"/{_UNITS}"),
        )
    ),
)

# Each of these costs time at boot, or waits, and gives a lab machine nothing.
MASKED = (
    # waits for the network, or for people at a console that nobody sits at
    "systemd-networkd-wait-online.service",
    "getty.target",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "serial-getty@ttyAMA0.service",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    # once-only and housekeeping work on a machine that lives for hours
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    "systemd-firstboot.service",
    "systemd-sysusers.service",
    "systemd-machine-id-commit.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-pstore.service",
    "systemd-fsck-root.service",
    "systemd-journal-flush.service",
    "systemd-random-seed.service",
    # file systems and modules that nothing here uses, or that are mounted when they are needed
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-binfmt.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "kmod-static-nodes.service",
    # devices that virtual machines do not have
    "systemd-initctl.socket",
    "systemd-rfkill.socket",
)
