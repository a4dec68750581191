"""What the value of a variable may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.inventory import values
from provision.inventory.lab import NetworkMode, Taint

Parse = Callable[[Any], Any]
cpus = values.whole_number(1, 64)
mode = values.one_of(NetworkMode)
cidr = values.cidr(29)


@pytest.mark.parametrize(
    ("parse", "value", "wanted"),
    [
        (values.text, " a ", "a"),
        (values.text, 7, "7"),
        (cpus, 2, 2),
        (cpus, "2", 2),
        (values.boolean, True, True),
        (values.boolean, "no", False),
        (values.boolean, "Yes", True),
        (values.boolean, 1, True),
        (mode, "NAT", NetworkMode.NAT),
        (values.dns_label, "lab-1", "lab-1"),
        (cidr, "192.168.150.0/24", "192.168.150.0/24"),
        (values.ipv4_address, "192.0.2.1", "192.0.2.1"),
        (values.mac, "52-54-00-AB-cd-01", "52:54:00:ab:cd:01"),
        (values.image, "debian-12", "debian-12"),
        (values.image, "./disk.qcow2", "./disk.qcow2"),
        (values.image, "https://example.com/disk.qcow2", "https://example.com/disk.qcow2"),
        (values.checksum, f"sha256:{'AB' * 32}", f"sha256:{'ab' * 32}"),
        (values.packages, "htop, vim", ("htop", "vim")),
        (values.packages, ["g++", "libc6-dev"], ("g++", "libc6-dev")),
        (values.labels, {"example.com/disk": "ssd", "empty": None}, {"example.com/disk": "ssd", "empty": ""}),
        (values.labels, "a=b,c=", {"a": "b", "c": ""}),
        (values.labels, "", {}),
        (values.taints, ["a=b:NoSchedule"], (Taint(key="a", value="b"),)),
        (values.taints, "a:NoExecute,b=c:PreferNoSchedule",
         (Taint(key="a", effect="NoExecute"), Taint(key="b", value="c", effect="PreferNoSchedule"))),
        (values.taints, [{"key": "a", "effect": "NoSchedule"}], (Taint(key="a"),)),
        (values.taints, [], ()),
        (values.host_key, "ssh-ed25519 AAAAC3Nz me@here", "ssh-ed25519 AAAAC3Nz"),
        (values.jumps, "admin@a.example.com:22,b", ("admin@a.example.com:22", "b")),
        (values.jumps, ["me@[2001:db8::1]:2222"], ("me@[2001:db8::1]:2222",)),
        (values.user, "me@example.com", "me@example.com"),
        (values.http_url, "https://bmc.example.com:8443/x", "https://bmc.example.com:8443/x"),
        (values.libvirt_uri, "qemu+ssh://root@host/system", "qemu+ssh://root@host/system"),
        (values.libvirt_uri, "test:///default", "test:///default"),
        (values.path, "keys/a", Path("keys/a")),
    ],
)  # fmt: skip
def test_accepted(parse: Parse, value: Any, wanted: Any) -> None:
    assert parse(value) == wanted


@pytest.mark.parametrize(
    ("parse", "value", "says"),
    [
        (values.text, True, "text"),
        (values.text, ["a"], "text"),
        (cpus, 0, "from 1 to 64"),
        (cpus, 65, "from 1 to 64"),
        (cpus, True, "whole number"),
        (cpus, "two", "whole number"),
        (cpus, 1.5, "whole number"),
        (cpus, "9" * 5000, "whole number"),
        (values.boolean, "maybe", "true or false"),
        (values.boolean, 2, "true or false"),
        (values.boolean, None, "true or false"),
        (mode, "bridged", "one of existing, nat, isolated, user"),
        (mode, ["nat"], "one of"),
        (values.dns_label, "Lab_1", "lower-case"),
        (values.network_name, "a/b", "network's name"),
        (values.bridge, "a" * 16, "up to 15"),
        (cidr, "192.168.150.0", "ADDRESS/PREFIX"),
        (cidr, "192.168.150.1/24", "starts at its first address"),
        (cidr, "192.168.150.0/30", "8 to 29"),
        (cidr, "0.0.0.0/0", "8 to 29"),
        (cidr, "fd00::/64", "IPv4"),
        (values.ipv4_address, "192.0.2.256", "IPv4 address"),
        (values.ipv4_address, "192.0.2.1/24", "IPv4 address"),
        (values.ipv4_address, 3221225985, "IPv4 address"),
        (values.mac, "52:54:00:12:34", "hardware address"),
        (values.mac, "01:00:5e:00:00:01", "group"),
        (values.mac, "00:00:00:00:00:00", "hardware address"),
        (values.image, "debian-99", "debian-12"),
        (values.image, "ubuntu", "debian-12"),
        (values.image, "ftp://example.com/x", "https://"),
        (values.checksum, "ab" * 32, "sha256:HEX"),
        (values.checksum, "sha256:abc", "64"),
        (values.packages, "-oDebug=1", "Debian packages"),
        (values.packages, "a;b", "Debian packages"),
        (values.labels, {"a": 1}, "text as value"),
        (values.labels, {"a": True}, "text as value"),
        (values.labels, {"a b": "c"}, "keys of labels"),
        (values.labels, {"a": "-"}, "values of labels"),
        (values.labels, "a", "no '='"),
        (values.labels, ["a"], "mapping"),
        (values.taints, ["a=b"], "NoSchedule, PreferNoSchedule, NoExecute"),
        (values.taints, ["a=b:Never"], "NoSchedule"),
        (values.taints, ["=b:NoSchedule"], "keys of taints"),
        (values.taints, ["a=-:NoSchedule"], "values of taints"),
        (values.taints, ["a:NoSchedule", "a=b:NoSchedule"], "twice"),
        (values.taints, [{"key": "a", "efect": "NoSchedule"}], "efect"),
        (values.taints, [{"key": 1, "effect": "NoSchedule"}], "text"),
        (values.taints, [1], "as text"),
        (values.taints, {"a": "b"}, "list"),
        (values.host_key, "AAAA", "public key"),
        (values.host_key, "ssh-ed25519", "public key"),
        (values.jumps, "a b@", "user@host:port"),
        (values.jumps, "-oProxyCommand=x y", "user@host:port"),
        (values.user, "-oX", "user's name"),
        (values.user, "", "user's name"),
        (values.http_url, "bmc.example.com", "URL"),
        (values.http_url, "https://a:b@bmc.example.com", "without a password"),
        (values.libvirt_uri, "qemu", "libvirt URI"),
        (values.path, "", "path"),
    ],
)  # fmt: skip
def test_refused(parse: Parse, value: Any, says: str) -> None:
    with pytest.raises(values.Refused) as refused:
        parse(value)
    assert says in refused.value.wanted


@pytest.mark.parametrize(
    ("parse", "value", "mend"),
    [
        (mode, "isolate", "Did you mean isolated?"),
        (values.image, "debian12", "Did you mean debian-12?"),
        (values.taints, ["a:noschedule"], "Did you mean NoSchedule?"),
        (values.labels, {"a": True}, 'Put it into quotes: a: "true".'),
        (values.mac, 190184, "quotes"),
        (cidr, "192.168.150.1/24", "Write 192.168.150.0/24."),
    ],
)
def test_a_refusal_says_how_to_mend_it(parse: Parse, value: Any, mend: str) -> None:
    with pytest.raises(values.Refused) as refused:
        parse(value)
    assert mend in refused.value.mend


@pytest.mark.parametrize("jump", ["-oProxyCommand=touch", "-J", "a@-b"])
def test_a_jump_host_is_no_option_of_ssh(jump: str) -> None:
    with pytest.raises(values.Refused):
        values.jumps([jump])
