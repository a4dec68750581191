"""What must hold between the machines of a lab, and between their settings: pure functions from a Lab to findings."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

from kube import names
from provision.inventory.finding import Finding
from provision.inventory.lab import Lab, Machine, NetworkMode, ProviderName, Role, Store

# Measured: systemd and sshd alone live in 256 MiB; Docker, agent and a pod need half a gigabyte.
MEMORY_MIB = 256
MEMORY_OF_NODE_MIB = 512
# etcd: "What is maximum cluster size?"
MASTERS = 7

MADE = frozenset({ProviderName.LIBVIRT, ProviderName.NSPAWN})
_URL_SCHEMES = ("http://", "https://")


def check(lab: Lab) -> list[Finding]:
    """Everything that is wrong with a lab, in the order of its machines."""
    found: list[Finding] = []
    for of_lab in (_masters, _nodes, _balancers, _local, _ports, _duplicates, _ranges, _network):
        found += of_lab(lab)
    for machine in lab.machines:
        found += _name(machine)
        found += _size(machine)
        found += _image(machine)
        found += _reach(machine, lab)
        found += _bare_metal(machine)
        found += _address(machine, lab)
    return found


def _masters(lab: Lab) -> Iterator[Finding]:
    masters = [machine.name for machine in lab.masters]
    if not masters:
        yield Finding(
            what="there is no master",
            found=f"{len(lab.machines)} hosts, none in the group masters" if lab.machines else "no hosts for ktool",
            wanted="a host in the group masters",
            mend="Put one host into the group masters; inventories/ has examples.",
        )
    if len(masters) > 1 and lab.store is Store.SQLITE:
        yield Finding(
            hosts=tuple(masters),
            variable="ktool_store",
            what="several masters need a store that they share",
            found=f"sqlite for {len(masters)} hosts in the group masters",
            wanted="etcd (which is what several masters get if nothing is said)",
            mend="Leave ktool_store out, or leave one host in masters.",
        )
    elif len(masters) > 1 and len(masters) % 2 == 0:
        yield Finding(
            hosts=tuple(masters),
            what="an even number of masters bears the loss of no more of them than one less does, and fails more often",
            found=f"{len(masters)} hosts in the group masters; etcd needs {len(masters) // 2 + 1} of them",
            wanted=f"{len(masters) - 1} or {len(masters) + 1}",
            mend="Put one more host into masters, or move one into workers.",
        )
    elif len(masters) > MASTERS:
        yield Finding(
            hosts=tuple(masters),
            what="each master writes all that any of them writes",
            found=f"{len(masters)} hosts in the group masters",
            wanted=f"at most {MASTERS}",
            mend="Three masters bear the loss of one, five the loss of two.",
        )


def _nodes(lab: Lab) -> Iterator[Finding]:
    for machine in lab.machines:
        if Role.WORKER in machine.roles and not machine.runs_agent:
            yield Finding(
                hosts=(machine.name,),
                variable="ktool_agent",
                found="false",
                wanted="true for a worker, which is nothing without an agent",
            )


def _balancers(lab: Lab) -> Iterator[Finding]:
    for machine in lab.balancers:
        if machine.is_master:
            yield Finding(
                hosts=(machine.name,),
                what="a load balancer listens on the API server's port, and so does a master",
                found="a host in both masters and load_balancers",
                wanted="a machine of its own for the load balancer",
            )


def _local(lab: Lab) -> Iterator[Finding]:
    local = [machine.name for machine in lab.machines if machine.provider is ProviderName.LOCAL]
    if len(local) > 1:
        yield Finding(
            hosts=tuple(local),
            variable="ktool_provider",
            found=f"{len(local)} hosts that are this machine",
            wanted="one at most",
            mend="`ktool_provider: nspawn` makes several machines on this one.",
        )


def _ports(lab: Lab) -> Iterator[Finding]:
    if lab.api_port == lab.kubelet_port:
        yield Finding(
            variable="ktool_api_port",
            found=f"{lab.api_port}, the kubelets' port as well",
            wanted="a port of its own for the API server",
        )


def _duplicates(lab: Lab) -> Iterator[Finding]:
    reached = [m for m in lab.machines if m.ssh.address and m.provider is not ProviderName.LOCAL]
    kinds: tuple[tuple[str, Sequence[Machine], Callable[[Machine], str]], ...] = (
        ("", lab.machines, lambda m: m.name.lower()),
        ("ktool_address", lab.machines, lambda m: m.address),
        ("ktool_mac", lab.machines, lambda m: m.mac),
        # the same address with other ports, or behind other jump hosts, may be another machine
        ("ansible_host", reached, lambda m: f"{','.join((*m.ssh.jump, m.ssh.address.lower()))}:{m.ssh.port}"),
    )
    for variable, machines, key in kinds:
        seen: dict[str, Machine] = {}
        for machine in machines:
            if not (value := key(machine)):
                continue
            if (first := seen.setdefault(value, machine)) is not machine:
                yield Finding(
                    hosts=(machine.name,),
                    variable=variable,
                    found=f"{value}, which {first.name} has as well" if variable else f"the name of {first.name}",
                    wanted="one of its own",
                )


def _range_of(lab: Lab) -> list[tuple[str, ipaddress.IPv4Network]]:
    ranges = [("ktool_pod_cidr", lab.pod_cidr), ("ktool_service_cidr", lab.service_cidr)]
    if any(machine.provider in MADE for machine in lab.machines) and lab.network.mode is not NetworkMode.EXISTING:
        ranges.append(("ktool_network_cidr", lab.network.cidr))
    return [(name, ipaddress.IPv4Network(cidr)) for name, cidr in ranges]


def _ranges(lab: Lab) -> Iterator[Finding]:
    for (first, one), (second, other) in combinations(_range_of(lab), 2):
        if one.overlaps(other):
            yield Finding(
                variable=second,
                found=f"{other}, which overlaps with {first} {one}",
                wanted="ranges for pods, Services and machines that have no address in common",
            )


def _network(lab: Lab) -> Iterator[Finding]:
    network = lab.network
    if network.mode is NetworkMode.EXISTING and not (network.name or network.bridge):
        yield Finding(
            variable="ktool_network_mode",
            found="existing, without saying which one",
            wanted="ktool_network (a libvirt network's name) or ktool_network_bridge (a bridge of the host)",
        )
    if network.bridge and network.mode is not NetworkMode.EXISTING:
        yield Finding(
            variable="ktool_network_bridge",
            found=f"{network.bridge} with ktool_network_mode {network.mode}",
            wanted="a bridge only where the network exists already",
            mend="Set `ktool_network_mode: existing`, or leave the bridge out.",
        )


def _name(machine: Machine) -> Iterator[Finding]:
    if wrong := names.dns1123_subdomain(machine.name):
        mend = "Rename the host"
        better = machine.name.lower().replace("_", "-")
        if not names.dns1123_subdomain(better):
            mend += f", for example to {better}"
        yield Finding(
            hosts=(machine.name,),
            what="this cannot be a node's name",
            wanted=f"a DNS name: it {wrong[0]}",
            mend=f"{mend}; ansible_host says where it is reached.",
        )
    elif machine.name.count(".") == 3 and all(part.isdigit() for part in machine.name.split(".")):
        yield Finding(
            hosts=(machine.name,),
            what="an address is no name for a node",
            wanted="a name, and the address in ansible_host",
        )
    elif len(machine.name) > names.DNS1123_LABEL_MAX:
        # Linux: HOST_NAME_MAX; the node's name is a label's value too (kubernetes.io/hostname)
        yield Finding(
            hosts=(machine.name,),
            what="a host's name has at most 63 characters",
            found=f"{len(machine.name)} characters",
        )


def _size(machine: Machine) -> Iterator[Finding]:
    if machine.provider not in MADE:
        return
    least = MEMORY_OF_NODE_MIB if machine.runs_agent else MEMORY_MIB
    if machine.memory_mib < least:
        yield Finding(
            hosts=(machine.name,),
            variable="ktool_memory_mib",
            found=f"{machine.memory_mib} MiB",
            wanted=f"at least {least} MiB, 1024 to work with",
        )
    if machine.disk_gib < 2:
        yield Finding(
            hosts=(machine.name,),
            variable="ktool_disk_gib",
            found=f"{machine.disk_gib} GiB",
            wanted="at least 2 GiB (disks grow as they are filled)",
        )


def _image(machine: Machine) -> Iterator[Finding]:
    if machine.provider not in (*MADE, ProviderName.REDFISH):
        return
    image = machine.image
    is_url = image.source.startswith(_URL_SCHEMES)
    if is_url and not image.checksum:
        yield Finding(
            hosts=(machine.name,),
            variable="ktool_image_checksum",
            found=f"none for {image.source}",
            wanted="sha256:HEX, as what comes over a network is checked",
            mend="Its publisher has a file SHA256SUMS beside it; `sha256sum FILE` makes it of a file you trust.",
        )
    if image.packages and "/" in image.source:
        yield Finding(
            hosts=(machine.name,),
            variable="ktool_image_packages",
            found=f"packages for {image.source}, which is ready made",
            wanted="packages only with an image that ktool builds (debian-12)",
        )


def _reach(machine: Machine, lab: Lab) -> Iterator[Finding]:
    address = machine.ssh.address
    given = address != machine.name
    if machine.provider is ProviderName.SSH and not given and "." not in address:
        yield Finding(
            hosts=(machine.name,),
            variable="ansible_host",
            found="none",
            wanted="an address or a DNS name to reach the machine at",
            mend='If the host\'s own name can be resolved: `ansible_host: "{{ inventory_hostname }}.your.domain"`.',
        )
    if not given:
        return
    try:
        ip = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        if (address or machine.provider is ProviderName.SSH) and names.dns1123_subdomain(address.lower().rstrip(".")):
            yield Finding(
                hosts=(machine.name,),
                variable="ansible_host",
                found=address or "nothing",
                wanted="an address or a DNS name",
            )
        return
    if ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
        yield Finding(
            hosts=(machine.name,), variable="ansible_host", found=address, wanted="the address of one machine"
        )
    for variable, network in _range_of(lab)[:2]:
        if ip in network:
            yield Finding(
                hosts=(machine.name,),
                variable="ansible_host",
                found=f"{address}, which is in {variable} {network}",
                wanted="an address outside of it",
                mend=f"Choose another {variable}.",
            )


def _bare_metal(machine: Machine) -> Iterator[Finding]:
    if machine.provider is ProviderName.REDFISH:
        if not machine.wake_on_lan and not (machine.redfish and machine.redfish.url):
            yield Finding(
                hosts=(machine.name,),
                variable="ktool_redfish_url",
                found="none",
                wanted="the URL of the machine's BMC",
                mend="A machine without a BMC: `ktool_wake_on_lan: true` and ktool_mac.",
            )
        if not (machine.ssh.address or machine.address):
            yield Finding(
                hosts=(machine.name,),
                variable="ktool_address",
                found="none",
                wanted="the address that the machine gets when it is installed (or ansible_host)",
            )
    if machine.wake_on_lan and not machine.mac:
        yield Finding(
            hosts=(machine.name,),
            variable="ktool_mac",
            found="none",
            wanted="the hardware address to wake it by",
        )


def _address(machine: Machine, lab: Lab) -> Iterator[Finding]:
    if not machine.address or machine.provider not in MADE or lab.network.mode is NetworkMode.EXISTING:
        return
    network = ipaddress.IPv4Network(lab.network.cidr)
    address = ipaddress.IPv4Address(machine.address)
    wanted = ""
    if address not in network:
        wanted = f"an address out of the network's range {network}"
    elif address == network.network_address + 1:
        wanted = f"another address of {network}: the first one is the host's own, the machines' gateway"
    elif address in (network.network_address, network.broadcast_address):
        wanted = f"an address of {network} that is neither its first nor its last"
    if wanted:
        yield Finding(hosts=(machine.name,), variable="ktool_address", found=machine.address, wanted=wanted)


def without_echoes(findings: Iterable[Finding], earlier: Sequence[Finding]) -> list[Finding]:
    """Findings of checks without those that only follow from a value that could not be read."""
    refused = {(host, f.variable) for f in earlier if f.variable for host in f.hosts}
    refused_anywhere = {f.variable for f in earlier if f.variable}

    def is_echo(finding: Finding) -> bool:
        if not finding.hosts:
            return finding.variable in refused_anywhere
        return any((host, finding.variable) in refused for host in finding.hosts)

    return [finding for finding in findings if not is_echo(finding)]
