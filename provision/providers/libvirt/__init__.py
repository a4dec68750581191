"""Virtual machines by libvirt: `qemu:///system`, `qemu:///session`, `qemu+ssh://...`."""
