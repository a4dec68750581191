from __future__ import annotations

from provision.host_snapshot import HostSnapshot, difference, firewall_lines, take

SAVED = """\
# Generated
*filter
:INPUT ACCEPT [1:2]
:FORWARD DROP [0:0]
:mine - [0:0]
-A FORWARD -j mine
COMMIT
*nat
:PREROUTING ACCEPT [5:6]
COMMIT
"""

RULESET = """\
table ip filter {
	chain FORWARD {
		type filter hook forward priority filter; policy accept;
		ip saddr 192.0.2.1 drop
	}
}
table ip nat {
	chain OUTPUT {
		type nat hook output priority -100; policy accept;
	}
}
"""


def test_firewall_lines_know_their_place_and_nothing_empty() -> None:
    assert firewall_lines(SAVED) == ["*filter / :FORWARD DROP", "*filter / :mine -", "*filter / -A FORWARD -j mine"]
    assert firewall_lines(RULESET) == ["table ip filter / chain FORWARD / ip saddr 192.0.2.1 drop"]


def test_difference() -> None:
    before = HostSnapshot({"links": frozenset({"lo", "eth0"}), "files": frozenset({"/a"})})
    after = HostSnapshot(
        {"links": frozenset({"lo", "docker0", "veth9"}), "new": frozenset({"x"}), "files": frozenset({"/a"})}
    )
    (one,) = difference(before, after, ignore=("^veth",))
    assert (one.section, one.added, one.removed) == ("links", ("docker0",), ("eth0",))
    assert str(one) == "links:\n  + docker0\n  - eth0"
    assert difference(before, before) == []


def test_a_picture_of_this_machine_survives_a_file() -> None:
    picture = take()
    assert {"processes", "mounts", "files", "sysctls", "cgroups"} <= picture.sections.keys()
    assert HostSnapshot.from_json(picture.to_json()) == picture
