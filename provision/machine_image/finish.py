"""The last step of a build, inside the new root: what makes it a machine of nobody in particular, and its initrd.

Debian's own initrd finds any root on any hardware, with udev and a shell library: seconds of work where each
instruction is emulated. A virtual machine of ours has one disk whose driver is known, so its initrd is a static
busybox, the few kernel modules, and a script that loads them, mounts the disk and hands over.
"""

from __future__ import annotations

from provision.machine_image.purpose import Purpose
from provision.machine_image.recipe import INITRD_MODULES

# pid 1 of the initrd. The root's device is waited for, at most ten seconds, and named on the console if it is missing.
_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "/modules/$module"; done </modules/order
root=/dev/vda
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in root=*) root=${word#root=} ;; esac
done
tries=0
while [ ! -b "$root" ] && [ "$tries" -lt 200 ]; do
    tries=$((tries + 1))
    /bin/busybox sleep 0.05
done
if ! /bin/busybox mount -t ext4 -o rw,relatime "$root" /root; then
    echo "ktool-initrd: cannot mount $root as root"
    exec /bin/busybox poweroff -f
fi
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /sbin/init
"""

_COMMON = """\
set -eu
rm -f /ktool-finish /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
# Empty: systemd makes one at the first boot.
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/log/*.log /var/log/apt
: >/etc/resolv.conf
"""

_INITRD = """\
version=$(ls /lib/modules)
work=$(mktemp -d)
mkdir -p "$work/bin" "$work/dev" "$work/proc" "$work/root" "$work/modules" /boot/ktool
cp /bin/busybox "$work/bin/busybox"
: >"$work/modules/order"
for module in {modules}; do
    modprobe --ignore-install --set-version "$version" --show-depends "$module" | while read -r word path rest; do
        [ "$word" = insmod ] || continue
        name=$(basename "$path")
        name=${{name%.xz}}
        [ ! -e "$work/modules/$name" ] || continue
        case $path in
        *.xz) busybox xzcat "$path" >"$work/modules/$name" ;;
        *) cp "$path" "$work/modules/$name" ;;
        esac
        echo "$name" >>"$work/modules/order"
    done
done
cat >"$work/init" <<'INIT'
{init}INIT
chmod 755 "$work/init"
# Not compressed: it is small, and unpacking takes longer than reading.
(cd "$work" && find . | busybox cpio -o -H newc) >/boot/ktool/initrd
cp "/boot/vmlinuz-$version" /boot/ktool/vmlinuz
rm -rf "$work" "/boot/vmlinuz-$version" "/boot/initrd.img-$version" /vmlinuz /vmlinuz.old /initrd.img /initrd.img.old
"""


def finish_script(purpose: Purpose) -> str:
    """The shell script for a root of that purpose."""
    if purpose is Purpose.METAL:
        return _COMMON
    return _COMMON + _INITRD.format(modules=" ".join(INITRD_MODULES), init=_INIT)
