"""A node with pods and a second machine, in network namespaces without uplink that live as long as this process wants.

    pods a, b, c (10.244.1.11 to 13) ── ktool0 10.244.1.1 [node] eth0 192.0.2.1 ── 192.0.2.2 [far] with pod 10.244.2.21

A namespace is an open file: nothing has a name on the machine, and whatever was made in it (links, routes, rules) goes
with the last process that uses it. In each pod and at `far` something answers on port 8080, TCP and UDP, with its own
name and the client's address.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyroute2 import IPRoute

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)

_ANSWERER = """
import selectors, socket, sys
name, choose = sys.argv[1], selectors.DefaultSelector()
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    s = socket.socket(socket.AF_INET, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((sys.argv[2], int(sys.argv[3])))
    kind == socket.SOCK_STREAM and s.listen(256)
    choose.register(s, selectors.EVENT_READ, kind)
print("ready", flush=True)
while True:
    for key, _ in choose.select():
        if key.data == socket.SOCK_STREAM:
            connection, client = key.fileobj.accept()
            with connection:
                connection.sendall(f"{name} {client[0]}".encode())
        else:
            client = key.fileobj.recvfrom(100)[1]
            key.fileobj.sendto(f"{name} {client[0]}".encode(), client)
"""


def missing() -> str:
    """Why there can be no lab here, empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    if not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        return "the kernel has no br_netfilter"
    return ""


class Namespace:
    """A network namespace of our own."""

    def __init__(self, stack: ExitStack) -> None:
        own = os.open(_OWN, os.O_RDONLY)
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            self.fd = os.open(_OWN, os.O_RDONLY)
        finally:
            _check(_libc.setns(own, _CLONE_NEWNET))
            os.close(own)
        stack.callback(os.close, self.fd)
        self.run("ip", "link", "set", "lo", "up")
        # the kernel sends only so many ICMP errors a second, to each address and in all: here each refusal is awaited
        self.sysctl("net/ipv4/icmp_ratemask", "0")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, is in the namespace."""
        own = os.open(_OWN, os.O_RDONLY)
        _check(_libc.setns(self.fd, _CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(own, _CLONE_NEWNET))
            os.close(own)

    def run(self, *command: str) -> str:
        """Run a command in the namespace; its output."""
        with self.inside():
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def ip(self, *lines: str) -> None:
        """Several commands of ip(8)."""
        with self.inside():
            subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, timeout=20, check=True)

    def sysctl(self, name: str, value: str | None = None) -> str:
        """A setting below /proc/sys, after setting it if a value is given."""
        with self.inside():
            path = Path("/proc/sys") / name
            if value is not None:
                path.write_text(value)
            return path.read_text().strip()

    def take_link(self, other: Namespace, name: str, *, peer: str) -> None:
        """A pair of links: `name` here, `peer` in the other namespace."""
        with self.inside(), IPRoute() as netlink:
            netlink.link("add", ifname=name, kind="veth", peer=peer)
            netlink.link("set", index=netlink.link_lookup(ifname=peer)[0], net_ns_fd=other.fd)

    def answerer(self, stack: ExitStack, name: str, ip: str = "0.0.0.0", port: int = 8080) -> None:
        """Something that answers on a port until the stack is left."""
        with self.inside():
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _ANSWERER, name, ip, str(port)], stdout=subprocess.PIPE
            )

        def end() -> None:
            process.kill()
            process.wait(5)
            if process.stdout is not None:
                process.stdout.close()

        stack.callback(end)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

    def ask(self, ip: str, port: int, *, udp: bool = False, timeout: float = 3.0) -> str:
        """The answer at an address; OSError (refused, timeout) as from connect()."""
        with self.inside(), socket.socket(type=socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as client:
            client.settimeout(timeout)
            client.connect((ip, port))
            if udp:
                client.send(b"?")
            return client.recv(100).decode()

    def count(self, ip: str, port: int, times: int) -> Counter[str]:
        """Who answers how often."""
        return Counter(self.ask(ip, port).split()[0] for _ in range(times))


class Lab:
    """The node, its pods and the far machine."""

    def __init__(self, stack: ExitStack) -> None:
        self.node = Namespace(stack)
        self.far = Namespace(stack)
        self.pods = [Namespace(stack) for _ in "abc"]
        node = self.node
        # no duplicate address detection and no waiting: nobody else is there
        node.ip("link add ktool0 type bridge", "addr add 10.244.1.1/24 dev ktool0", "link set ktool0 up")
        node.take_link(self.far, "eth0", peer="uplink")
        node.ip("addr add 192.0.2.1/24 dev eth0", "link set eth0 up")
        self.far.ip(
            "link set uplink name eth0",
            "addr add 192.0.2.2/24 dev eth0",
            "addr add 10.244.2.21/32 dev lo",
            "link set eth0 up",
            *(f"route add {net} via 192.0.2.1" for net in ("10.244.1.0/24", "203.0.113.0/24", "10.96.0.0/16")),
        )
        node.ip("route add 10.244.2.0/24 via 192.0.2.2")
        # `far` as a client of itself would be sent redirects, which count against its allowance of ICMP errors; pods
        # stay as they are on any machine
        for interface in ("all", "eth0"):
            node.sysctl(f"net/ipv4/conf/{interface}/send_redirects", "0")
        for number, (name, pod) in enumerate(zip("abc", self.pods, strict=True)):
            pod.take_link(node, "eth0", peer=f"pod-{name}")
            node.ip(f"link set pod-{name} master ktool0", f"link set pod-{name} up")
            pod.ip(
                f"addr add 10.244.1.{11 + number}/24 dev eth0",
                "link set eth0 up",
                "route add default via 10.244.1.1",
            )
            pod.answerer(stack, name)
        self.far.answerer(stack, "far")


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "network namespace: " + os.strerror(ctypes.get_errno()))
