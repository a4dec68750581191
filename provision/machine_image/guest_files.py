"""What ktool puts into a machine's root besides packages: files, links, units that are not to run.

The aim is a machine that answers SSH soon, also where each instruction is emulated: nothing is waited for that a lab
machine does not need, and what a node needs later (Docker, the login service) starts after SSH.

A machine is told who it is from outside (host name, authorized keys: systemd credentials in SMBIOS strings, a seed, or
files laid over the root), so nothing here is secret or differs between machines.
"""

from __future__ import annotations

from dataclasses import dataclass

from provision.bundle.contents import CURRENT, STANDBY
from provision.machine_image.purpose import Purpose

# The line in which a machine tells its public host key on its console: whoever made it can pin the key, without
# trusting what answers on the network.
HOST_KEY_MARK = "ktool-host-key:"

_PROGRAMS = "usr/local/lib/ktool-machine"
_UNITS = "etc/systemd/system"


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


# Each of these costs time at boot, or waits, and gives a lab machine nothing.
_MASKED = (
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
)
_MASKED_VIRTUAL = (
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
    "systemd-tmpfiles-setup-dev.service",
    "systemd-networkd.socket",
    # devices that virtual machines do not have
    "systemd-initctl.socket",
    "systemd-rfkill.socket",
)


# ssh-keygen writes two files: the private key gets its name last, so that a machine that lost power in between makes
# them anew. They are synced, or a key that was pinned could be lost with the power.
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

# Debian's unit waits for the whole system, the network and a check of the configuration, and asks PAM about each login,
# which takes as long as the login itself.
_SSH_UNIT = f"""\
[Unit]
Description=OpenSSH server, as soon as its keys are there
Documentation=man:sshd(8) man:sshd_config(5)
DefaultDependencies=no
Wants=systemd-tmpfiles-setup.service
After=local-fs.target systemd-tmpfiles-setup.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=notify
ExecStartPre=/{_PROGRAMS}/host-key
ExecStart=/usr/sbin/sshd -D
ExecReload=/usr/sbin/sshd -t
ExecReload=/bin/kill -HUP $MAINPID
KillMode=process
Restart=on-failure
RestartPreventExitStatus=255
# Whoever logs in first need not share the processor with all that starts now.
StartupCPUWeight=5000
RuntimeDirectory=sshd
RuntimeDirectoryMode=0755

[Install]
WantedBy=multi-user.target
Alias=sshd.service
"""
_SSH_CONFIGURATION = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 50
"""

# One interface with a known name, one lease: busybox does it in a tenth of the time of a network daemon and udev.
_NETWORK_UNIT = f"""\
[Unit]
Description=Address by DHCP
ConditionVirtualization=!container
DefaultDependencies=no
Wants=network.target
Before=network.target shutdown.target
Conflicts=shutdown.target

[Service]
# The shell's name of the host: systemd's (%H) is the one of the time when it read this.
ExecStart=/bin/sh -c 'exec busybox udhcpc -f -i eth0 -t 5 -T 1 -A 2 -x hostname:"$$(hostname)" -s /{_PROGRAMS}/lease'
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""
_LEASE = """\
#!/bin/sh
# Told by udhcpc what became of the lease. An address that was lost stays until another comes: connections live on.
case $1 in
deconfig) ip link set "$interface" up ;;
bound | renew)
    others=$(ip -4 -o address show dev "$interface" scope global | awk '{print $4}' | grep -vxF "$ip/$mask")
    for other in $others; do ip address delete "$other" dev "$interface"; done
    ip address replace "$ip/$mask" dev "$interface"
    [ -z "$router" ] || ip route replace default via "${router%% *}" dev "$interface"
    [ -n "$dns" ] || exit 0
    for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf.new
    mv /etc/resolv.conf.new /etc/resolv.conf
    ;;
esac
"""

# The word that tells it in the kernel's arguments, and what it says on its console once its memory can be kept.
# Its value says what the machines will be: `master`, `agent`, both with a comma, or nothing.
WARM_ARGUMENT = "ktool.warm"
WARM_MARK = "ktool-warm: ready"
# How the disk begins that tells a woken machine who it is: lines of tmpfiles.d(5), and zeros after them.
IDENTITY_MARK = "# ktool-machine"
# ktool's node runtime, in images that it was laid over.
NODE_RUNTIME = f"{CURRENT}/bin"
# Where these lines put the hardware address; the one that the memory was kept with is another's.
MAC_FILE = "run/ktool-machine/mac"

_WARM = f"""\
#!/bin/sh
# Waits, as nobody in particular, until the disk vdb says who this machine is. Its memory is kept while it waits, and
# each machine that starts from that memory goes on from here.
disk=/dev/vdb
if [ "$1" = wake ]; then
    set -e
    # The clock stood still meanwhile, and so did the kernel's random numbers: what comes next would be the same in
    # every machine. Some of what the host's generator gave waits in memory, too, so more is taken. The number is
    # RNDRESEEDCRNG.
    busybox hwclock --hctosys --utc
    cat "$disk" >/dev/urandom
    head -c 1024 /dev/hwrng >/dev/urandom
    perl -e 'open(RANDOM, ">", "/dev/urandom") && ioctl(RANDOM, 0x5207, 0) or exit 1'
    tr -d '\\0' <"$disk" >/run/ktool-machine.conf
    systemd-tmpfiles --create /run/ktool-machine.conf
    sync /etc/machine-id
    hostname -F /etc/hostname
    ip link set eth0 address "$(cat /{MAC_FILE})"
    systemctl start ktool-network.service ssh.service
    # It goes by the machine-id that it found at its start.
    systemctl restart systemd-journald.service || true
    exit
fi
# What a node loads at its start is loaded once for all of them: its programs wait for what they are told.
roles=$(tr ' ' '\\n' </proc/cmdline | sed -n 's/^{WARM_ARGUMENT}=//p')
if [ -n "$roles" ] && [ -x {NODE_RUNTIME}/ktool ]; then
    socket={STANDBY}/$(basename "$(readlink -f {NODE_RUNTIME}/..)")
    systemd-run --quiet --collect --unit=ktool-standby --property=KillMode=process \
        {NODE_RUNTIME}/python -m ktool.standby "$socket"
    case $roles in
    master,agent) {NODE_RUNTIME}/python -m ktool preload --control-plane ;;
    master) {NODE_RUNTIME}/python -m ktool preload --control-plane --no-agent ;;
    *) {NODE_RUNTIME}/python -m ktool preload ;;
    esac
    tries=0
    until [ -S "$socket" ] || [ $tries -ge 600 ]; do sleep 0.1; tries=$((tries + 1)); done
fi
# What must not be the same in two machines. One that starts from the disk without the memory makes these by itself.
systemctl stop ssh.service ktool-network.service
rm -f /etc/ssh/ssh_host_* /etc/docker/key.json /var/lib/docker/engine-id
: >/etc/machine-id
ip link set eth0 down
sync
echo "{WARM_MARK}" >/dev/console
until head -c {len(IDENTITY_MARK)} "$disk" | grep -qaF "{IDENTITY_MARK}"; do sleep 0.1; done

# Whatever is wrong with that, a boot makes it a machine like any other: the disk is nobody's yet.
if ! "$0" wake; then
    echo "ktool-warm: this machine cannot go on from kept memory: it boots" >/dev/console
    systemctl reboot --force
fi
"""
_WARM_UNIT = f"""\
[Unit]
Description=Wait to be told who this machine is
ConditionKernelCommandLine={WARM_ARGUMENT}
After=multi-user.target

[Service]
ExecStart=/{_PROGRAMS}/warm

[Install]
WantedBy=multi-user.target
"""

# On other hardware the interfaces are not known ahead.
_NETWORKD = """\
[Match]
Name=eth* en*
Type=ether
Kind=!veth

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no

[DHCPv4]
ClientIdentifier=mac
"""
_NAME_SERVERS = """\
#!/bin/sh
# networkd learns name servers from DHCP; nobody else writes them where programs look.
servers=$(sed -n 's/^DNS=//p' /run/systemd/netif/links/* | tr '\\n' ' ')
[ -n "$servers" ] || exit 0
for server in $servers; do echo "nameserver $server"; done >/etc/resolv.conf.new
mv /etc/resolv.conf.new /etc/resolv.conf
"""
_NAME_SERVERS_PATH = """\
[Unit]
Description=Name servers from DHCP

[Path]
PathChanged=/run/systemd/netif/state

[Install]
WantedBy=multi-user.target
"""
_NAME_SERVERS_UNIT = f"""\
[Unit]
Description=Name servers from DHCP

[Service]
Type=oneshot
ExecStart=/{_PROGRAMS}/name-servers
"""

# Pods have a network of their own, and the proxy's rules masquerade and balance for it. The engine's rules, and its
# default network, would be for nothing: 69 calls of iptables at its start, and more for each network.
_DOCKER = '{"bridge": "none", "iptables": false}\n'

_GROW_UNIT = """\
[Unit]
Description=Grow the root file system to its disk
After=ssh.service
ConditionVirtualization=!container

[Service]
Type=oneshot
ExecStart=/usr/lib/systemd/systemd-growfs /

[Install]
WantedBy=multi-user.target
"""

_ANY_MACHINE = (
    GuestFile("etc/hostname", "ktool-machine\n"),
    GuestFile("etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"),
    GuestFile("etc/fstab", ""),
    GuestFile("etc/docker/daemon.json", _DOCKER),
    GuestFile("etc/ssh/sshd_config.d/10-ktool.conf", _SSH_CONFIGURATION),
    GuestFile(f"{_PROGRAMS}/host-key", _HOST_KEY, 0o755),
    GuestFile(f"{_UNITS}/ssh.service", _SSH_UNIT),
    GuestFile(f"{_UNITS}/ktool-grow-root.service", _GROW_UNIT),
)
_VIRTUAL = (
    GuestFile(f"{_UNITS}/ktool-network.service", _NETWORK_UNIT),
    GuestFile(f"{_PROGRAMS}/lease", _LEASE, 0o755),
    GuestFile(f"{_UNITS}/ktool-warm.service", _WARM_UNIT),
    GuestFile(f"{_PROGRAMS}/warm", _WARM, 0o755),
    # Devices whose modules nothing loads, since nobody makes their files before.
    GuestFile("etc/modules-load.d/ktool.conf", "tun\nfuse\n"),
    # Few kinds of devices matter to a virtual machine: asking for all others again takes a second.
    GuestFile(
        f"{_UNITS}/systemd-udev-trigger.service.d/few-devices.conf",
        "[Service]\nExecStart=\nExecStart=-udevadm trigger --action=add --subsystem-match=net --subsystem-match=block "
        "--subsystem-match=pci --subsystem-match=virtio --subsystem-match=acpi --subsystem-match=input\n",
    ),
    *(
        GuestFile(f"{_UNITS}/{unit}.d/after-ssh.conf", "[Unit]\nAfter=ssh.service\n")
        for unit in (
            "containerd.service",
            "dbus.service",
            "docker.service",
            "systemd-logind.service",
            "systemd-modules-load.service",
            "systemd-sysctl.service",
            "systemd-udev-trigger.service",
            "systemd-udevd.service",
        )
    ),
)
_METAL = (
    GuestFile("etc/systemd/network/80-ktool.network", _NETWORKD),
    GuestFile(f"{_PROGRAMS}/name-servers", _NAME_SERVERS, 0o755),
    GuestFile(f"{_UNITS}/ktool-name-servers.path", _NAME_SERVERS_PATH),
    GuestFile(f"{_UNITS}/ktool-name-servers.service", _NAME_SERVERS_UNIT),
)

# They turn what may be configured elsewhere into units; of all that, a virtual machine of ours has nothing.
_GENERATORS = (
    *("cryptsetup", "debug", "fstab", "getty", "gpt-auto", "hibernate-resume", "integritysetup", "rc-local", "run"),
    *("ssh", "system-update", "sysv", "tpm2", "veritysetup"),
)


def files(purpose: Purpose) -> tuple[GuestFile, ...]:
    """The files of an image for that purpose."""
    return (*_ANY_MACHINE, *(_VIRTUAL if purpose is Purpose.VIRTUAL else _METAL))


def links(purpose: Purpose) -> tuple[GuestLink, ...]:
    """The links of an image for that purpose: units that start, generators that do not run."""
    wanted = [("ktool-grow-root.service", f"/{_UNITS}")]
    if purpose is Purpose.VIRTUAL:
        wanted += [("ktool-network.service", f"/{_UNITS}"), ("ktool-warm.service", f"/{_UNITS}")]
    else:
        wanted += [
            ("ktool-name-servers.path", f"/{_UNITS}"),
            ("systemd-networkd.service", "/usr/lib/systemd/system"),
        ]
    silent = _GENERATORS if purpose is Purpose.VIRTUAL else ()
    return (
        GuestLink(f"{_UNITS}/default.target", "/usr/lib/systemd/system/multi-user.target"),
        *(GuestLink(f"{_UNITS}/multi-user.target.wants/{unit}", f"{folder}/{unit}") for unit, folder in wanted),
        *(GuestLink(f"etc/systemd/system-generators/systemd-{name}-generator", "/dev/null") for name in silent),
    )


def masked(purpose: Purpose) -> tuple[str, ...]:
    """The units of an image for that purpose that are never to run."""
    return (*_MASKED, *(_MASKED_VIRTUAL if purpose is Purpose.VIRTUAL else ()))
