#!/bin/busybox sh
# ktool's installer: pid 1 of a small system that iPXE starts on a machine without an operating system.
#
# It fetches the image that ktool serves piece by piece, checks each piece's digest and writes it to the machine's disk,
# lays the first-boot seed over it, has the new system make its own SSH host key (the private half never leaves the
# machine), tells ktool the public half, and switches the machine off. ktool sets the boot device and switches it on again.
# Whatever goes wrong is told to ktool (and on the consoles), and the machine is switched off as well: it never boots
# something half-written, and never sits in a loop.

export PATH=/bin
set -o pipefail
NEW=/new

arguments() {
    for word in $(cat /proc/cmdline); do
        case $word in
        "$1="*) echo "${word#*=}" ;;
        esac
    done
}

# What ktool is told, one line. It must not stop the work if it fails.
say() {
    echo "ktool-installer: $*"
    timeout 30 wget -q -O /dev/null --post-data "$*" "$URL/say" || echo "ktool-installer: ktool does not listen"
}

fail() {
    echo "ktool-installer: failed: $*"
    timeout 30 wget -q -O /dev/null --post-data "$*" "$URL/failed"
    dmesg | tail -n 15
    sleep 5
    sync
    poweroff -f
}

load_drivers() {
    echo /bin/modprobe >/proc/sys/kernel/modprobe
    # What sits on a bus shows only after the bus's driver is there (virtio behind PCI): three rounds reach all.
    for round in 1 2 3; do
        find /sys/devices -name modalias | xargs cat 2>/dev/null | sort -u | xargs modprobe -abq 2>/dev/null
    done
    # Disks of these have no modalias of their own.
    modprobe -abq sd_mod ext4 crc32c_generic 2>/dev/null
}

# Prints the interface with ktool's hardware address.
interface() {
    for path in /sys/class/net/*; do
        [ "$(cat "$path/address")" = "$MAC" ] && basename "$path" && return
    done
}

start_network() {
    tries=0
    until IF=$(interface) && [ -n "$IF" ]; do
        tries=$((tries + 1))
        if [ "$tries" -gt 60 ]; then
            echo "ktool-installer: no interface has $MAC; there are:"
            cat /sys/class/net/*/address
            sleep 60
            poweroff -f
        fi
        sleep 0.5
    done
    ip link set lo up
    ip link set "$IF" up
    # A switch may let a new link wait for half a minute (spanning tree).
    if ! udhcpc -i "$IF" -s /dhcp -n -q -t 60 -T 1; then
        echo "ktool-installer: no DHCP server answers $MAC on $IF"
        sleep 60
        poweroff -f
    fi
}

# Prints the first disk that is no removable medium, no USB stick, and has room for the image.
choose_disk() {
    for path in /sys/block/*; do
        name=$(basename "$path")
        case $name in
        loop* | ram* | zram* | sr* | fd* | md* | dm-* | nbd*) continue ;;
        esac
        case $(readlink -f "$path") in
        */usb*) continue ;;
        esac
        [ "$(cat "$path/removable")" = 0 ] && [ "$(cat "$path/ro")" = 0 ] || continue
        [ "$(cat "$path/size")" -ge "$SECTORS" ] && echo "/dev/$name" && return
    done
}

find_disk() {
    tries=0
    while :; do
        TARGET=${DISK:-$(choose_disk)}
        [ -n "$TARGET" ] && [ -b "$TARGET" ] && break
        tries=$((tries + 1))
        [ "$tries" -lt 30 ] || fail "no disk ${DISK:-with room for $((SECTORS / 2048)) MiB}; there are: $(disks)"
        sleep 1
    done
    # A link (by-id, by-path) names the disk that it leads to.
    TARGET=$(readlink -f "$TARGET")
    [ "$(cat "/sys/class/block/$(basename "$TARGET")/size")" -ge "$SECTORS" ] ||
        fail "$TARGET is too small: the image takes $((SECTORS / 2048)) MiB"
}

disks() {
    for path in /sys/block/*; do
        [ "$(cat "$path/size")" = 0 ] || echo "$(basename "$path") ($(($(cat "$path/size") / 2048)) MiB)"
    done | tr '\n' ' '
}

# Fetches a piece of the image; it counts only with the right digest.
fetch_piece() {
    timeout 300 wget -q -O /piece "$URL/$1" || return 1
    read -r sum rest <<SUM
$(sha256sum /piece)
SUM
    [ "$sum" = "$2" ]
}

write_image() {
    total=$(wc -l </pieces)
    number=0
    while read -r name sum; do
        tries=1
        until fetch_piece "$name" "$sum"; do
            [ "$tries" -lt 5 ] || fail "piece $((number + 1)) of $total of the image does not arrive whole"
            tries=$((tries + 1))
            sleep 2
        done
        # fsync: a disk that cannot keep what it was given says so here.
        zstd -dcq /piece | dd of="$TARGET" bs=1M seek=$((number * PIECE_MIB)) iflag=fullblock conv=notrunc,fsync 2>/dd.txt ||
            fail "$TARGET cannot be written: $(tail -n 1 /dd.txt)"
        number=$((number + 1))
    done </pieces
    rm /piece
}

# Mounts the partition that has an operating system.
mount_new() {
    mkdir -p $NEW
    blockdev --rereadpt "$TARGET" || true
    sleep 1
    name=$(basename "$TARGET")
    for path in /sys/block/"$name"/"$name"*; do
        mount -t ext4 "/dev/$(basename "$path")" $NEW 2>/dev/null || continue
        [ -e $NEW/etc/os-release ] && return
        umount $NEW
    done
    fail "the image on $TARGET has no ext4 partition with an operating system"
}

seed() {
    timeout 30 wget -q -O /seed.tar "$URL/seed.tar" || fail "the seed cannot be had"
    mount -t devtmpfs dev $NEW/dev
    if [ "$USER_NAME" != root ] && ! grep -q "^$USER_NAME:" $NEW/etc/passwd; then
        chroot $NEW /usr/sbin/useradd -m -d "/home/$USER_NAME" -s /bin/bash "$USER_NAME" ||
            fail "the user $USER_NAME cannot be made"
    fi
    tar -xf /seed.tar -C $NEW || fail "the seed cannot be unpacked"
    [ "$USER_NAME" = root ] || chroot $NEW /bin/chown -R "$USER_NAME:" "/home/$USER_NAME/.ssh"
    rm -f $NEW/etc/ssh/ssh_host_*
    chroot $NEW /usr/bin/ssh-keygen -q -t ed25519 -N '' -C '' -f /etc/ssh/ssh_host_ed25519_key ||
        fail "no SSH host key can be made"
    read -r type value rest <$NEW/etc/ssh/ssh_host_ed25519_key.pub
    HOST_KEY="$type $value"
    : >$NEW/etc/machine-id
    umount $NEW/dev
    umount $NEW || fail "the new system cannot be unmounted"
    sync
}

mkdir -p /proc /sys /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
URL=$(arguments ktool.url)
MAC=$(arguments ktool.mac)

load_drivers
start_network
timeout 30 wget -q -O /plan "$URL/plan" || fail "the plan cannot be had"
. /plan
say "started"
find_disk
timeout 30 wget -q -O /pieces "$URL/pieces" || fail "the list of the image's pieces cannot be had"
say "writing the image to $TARGET"
write_image
say "image checked and written; preparing the first start"
mount_new
seed
timeout 30 wget -q -O /dev/null --post-data "$TARGET $HOST_KEY" "$URL/done" || fail "ktool does not take the result"
echo "ktool-installer: done"
poweroff -f
