"""From hosts with variables to a Lab: a pure function, which goes on after an error to find the others too.

What a variable's value may be is in `variables`; what must hold between variables and machines is in `checks`. Here is
what follows from what: groups to roles, defaults that depend on other values, Ansible's own variables to SSH settings.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from kube.errors import show
from provision.inventory import values
from provision.inventory.ansible_source import Host
from provision.inventory.finding import Finding
from provision.inventory.lab import (
    ImageSettings,
    Lab,
    Machine,
    NetworkSettings,
    ProviderName,
    RedfishSettings,
    Role,
    SSHSettings,
    Store,
    Taint,
)
from provision.inventory.values import Refused
from provision.inventory.variables import ALIASES, NETWORK_KEYS, VARIABLES, suggestion, unknown

GROUPS = {"masters": Role.MASTER, "workers": Role.WORKER, "load_balancers": Role.LOAD_BALANCER}

# Kubernetes: "Well-Known Labels, Annotations and Taints"
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"

# Providers whose machines start from an image that ktool may have built.
MADE = frozenset({ProviderName.LIBVIRT, ProviderName.NSPAWN, ProviderName.REDFISH})

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Translation:
    """A Lab as good as it gets, and what was wrong on the way. With findings the Lab is for further checks only."""

    lab: Lab
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Values:
    """The parsed variables of one host."""

    host: Host
    found: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def get(self, name: str, default: Any) -> Any:
        return self.found.get(name, default)

    def given(self, prefix: str, kind: type) -> dict[str, Any]:
        """Arguments for a dataclass: its fields that were given as variables with a prefix."""
        names = [f.name for f in fields(kind)]
        return {name: self.found[prefix + name] for name in names if prefix + name in self.found}


def translate(hosts: Sequence[Host], path: Path) -> Translation:
    """The Lab that an inventory at `path` describes."""
    findings: list[Finding] = []
    chosen = []
    for host in hosts:
        if set(host.groups) & set(GROUPS):
            chosen.append(host)
        elif misspelt := _misspelt_group(host):
            findings.append(misspelt)
    parsed = [_parse(host) for host in chosen]
    for one in parsed:
        findings += one.findings
    lab_wide, disagreements = _lab_wide(parsed)
    findings += disagreements
    has_workers = any("workers" in host.groups for host in chosen)
    folder = path if path.is_dir() else path.parent
    machines = tuple(_machine(one, folder.absolute(), has_workers=has_workers) for one in parsed)
    network = _Values(Host(""), lab_wide).given("ktool_network_", NetworkSettings)
    if "ktool_network" in lab_wide:
        network["name"] = lab_wide["ktool_network"]
    name = lab_wide.get("ktool_lab") or lab_name(path)
    if not name:
        findings.append(
            Finding(
                variable="ktool_lab", what=f"{path.name!r} gives the lab no name", mend="Set ktool_lab for all hosts."
            )
        )
    others = _Values(Host(""), lab_wide).given("ktool_", Lab)
    others.pop("network", None)
    if sum(machine.is_master for machine in machines) > 1:
        others.setdefault("store", Store.ETCD)
    machines = _with_packages(machines, others.get("store", Store.SQLITE))
    lab = Lab(
        name=name or "lab", source=path.absolute(), machines=machines, network=NetworkSettings(**network), **others
    )
    return Translation(lab, tuple(findings))


def _with_packages(machines: tuple[Machine, ...], store: Store) -> tuple[Machine, ...]:
    """The machines, whose images (where ktool builds them) have the packages that some of them want besides.

    All of a lab's machines get the same: one image more to keep, not one for each role. Labs that want nothing of this
    have the image that all others have.
    """
    extra = {"etcd-server"} if store is Store.ETCD else set()
    extra |= {"haproxy"} if any(Role.LOAD_BALANCER in machine.roles for machine in machines) else set()
    if not extra:
        return machines
    return tuple(
        replace(m, image=replace(m.image, packages=tuple(sorted({*m.image.packages, *extra}))))
        if m.provider in MADE and "/" not in m.image.source
        else m
        for m in machines
    )


def lab_name(path: Path) -> str:
    """A lab's name from its inventory's: the file without suffix, in what a DNS label may have. May be empty."""
    stem = path.absolute().name if path.is_dir() else path.name.partition(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40].strip("-")


def _misspelt_group(host: Host) -> Finding | None:
    """A host in no group of ktool's is not ours, unless it seems that somebody meant it to be."""
    for group in host.groups:
        if near := values.closest(group, GROUPS):
            return Finding(
                hosts=(host.name,),
                what=f"the group {group!r} means nothing to ktool",
                wanted=f"a group out of {', '.join(GROUPS)}",
                mend=near,
            )
    return None


def _parse(host: Host) -> _Values:
    result = _Values(host)
    for name, raw in _expanded(host, result.findings).items():
        variable = VARIABLES.get(ALIASES.get(name, name))
        hosts = (host.name,)
        if unknown(name):
            result.findings.append(
                Finding(hosts=hosts, variable=name, what="there is no such variable", mend=suggestion(name))
            )
        elif variable is not None and name in host.unresolved:
            result.findings.append(
                Finding(
                    hosts=hosts,
                    variable=name,
                    what="its template or vault cannot be resolved",
                    found=host.unresolved[name],
                )
            )
        elif variable is not None and raw is not None:  # `name:` without a value is as good as absent
            try:
                result.found[variable.name] = variable.parse(raw)
            except Refused as refused:
                secret = variable.secret or name in host.secret
                result.findings.append(
                    Finding(
                        hosts=hosts,
                        variable=name,
                        found="what is not shown, as it is secret" if secret else _shown(raw),
                        wanted=refused.wanted,
                        mend=refused.mend,
                    )
                )
    return result


def _expanded(host: Host, findings: list[Finding]) -> dict[str, Any]:
    """The host's variables, with `ktool_network` as a mapping taken apart, and those that have no value as None."""
    found = {**dict.fromkeys(host.unresolved), **host.variables}
    network = found.get("ktool_network")
    if isinstance(network, dict):
        del found["ktool_network"]
        for key, value in network.items():
            if key in NETWORK_KEYS:
                found.setdefault(NETWORK_KEYS[key], value)
            else:
                findings.append(
                    Finding(
                        hosts=(host.name,),
                        variable="ktool_network",
                        found=f"the key {key!r}",
                        wanted=f"keys out of {', '.join(NETWORK_KEYS)}",
                        mend=values.closest(key, NETWORK_KEYS),
                    )
                )
    return found


def _shown(value: Any) -> str:
    text = show(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _lab_wide(parsed: Sequence[_Values]) -> tuple[dict[str, Any], list[Finding]]:
    """Values that hold for the whole lab, and findings where hosts disagree on them."""
    found: dict[str, Any] = {}
    findings = []
    for name, variable in VARIABLES.items():
        if not variable.of_lab:
            continue
        said: dict[Any, list[str]] = {}
        for one in parsed:
            if name in one.found:
                said.setdefault(one.found[name], []).append(one.host.name)
        if said:
            found[name] = next(iter(said))
        if len(said) > 1:
            (first, of_first), (second, of_second) = list(said.items())[:2]
            findings.append(
                Finding(
                    hosts=(of_second[0],),
                    variable=name,
                    found=f"{_shown(second)}, and {_shown(first)} for {of_first[0]}",
                    wanted="the same for all hosts, as it concerns the whole lab",
                    mend="Set it once, in the vars of the group all.",
                )
            )
    return found, findings


def _machine(parsed: _Values, folder: Path, *, has_workers: bool) -> Machine:
    host = parsed.host
    roles = frozenset(role for group, role in GROUPS.items() if group in host.groups)
    is_local = parsed.get("ansible_connection", "") == "local"
    provider = parsed.get("ktool_provider", ProviderName.LOCAL if is_local else ProviderName.SSH)
    is_master = Role.MASTER in roles
    runs_agent = parsed.get("ktool_agent", roles != {Role.LOAD_BALANCER})
    schedulable = parsed.get("ktool_schedulable", not is_master or Role.WORKER in roles or not has_workers)
    labels = parsed.get("ktool_labels", {})
    taints = parsed.get("ktool_taints", ())
    if is_master:
        labels = {CONTROL_PLANE: "", **labels}
    if not schedulable and CONTROL_PLANE not in {taint.key for taint in taints}:
        taints = (Taint(key=CONTROL_PLANE), *taints)
    own = parsed.given("ktool_", Machine)
    for name in ("provider", "labels", "taints", "image"):
        own.pop(name, None)
    return Machine(
        name=host.name,
        provider=provider,
        roles=roles,
        groups=host.groups,
        ssh=_ssh(parsed, provider, folder),
        image=_image(parsed, folder),
        labels=labels,
        taints=taints,
        runs_agent=runs_agent,
        redfish=_redfish(parsed, folder) if provider is ProviderName.REDFISH else None,
        variables=host.variables,
        **own,
    )


def _ssh(parsed: _Values, provider: ProviderName, folder: Path) -> SSHSettings:
    address = parsed.get("ansible_host", "")
    if not address and provider is ProviderName.SSH:
        address = parsed.host.name  # as Ansible does; checks wants it to be something that can be reached
    identity = parsed.get("ansible_ssh_private_key_file", None)
    return SSHSettings(
        address=address,
        port=parsed.get("ansible_port", 22),
        user=parsed.get("ansible_user", "root"),
        identity_file=folder / identity if identity is not None else None,
        jump=parsed.get("ktool_jump", None) or proxy_jump(parsed.host.variables),
        host_key=parsed.get("ktool_ssh_host_key", ""),
        become=parsed.get("ansible_become", True),
    )


def proxy_jump(variables: dict[str, Any]) -> tuple[str, ...]:
    """The jump hosts that Ansible's own variables for ssh's arguments name (`-J`, `-o ProxyJump=`)."""
    for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        try:
            words = shlex.split(str(variables.get(name) or ""))
        except ValueError:
            continue
        for word, following in zip(words, [*words[1:], ""], strict=False):
            if word == "-J":
                return _jumps(following)
            option = following if word == "-o" else word.removeprefix("-o") if word.startswith("-o") else ""
            key, _, value = option.partition("=")
            if key.strip().lower() == "proxyjump" and value:
                return _jumps(value)
    return ()


def _jumps(value: str) -> tuple[str, ...]:
    try:
        return values.jumps(value)
    except Refused:
        return ()  # ssh's own arguments are Ansible's; what only ssh understands stays with it


def _image(parsed: _Values, folder: Path) -> ImageSettings:
    source = parsed.get("ktool_image", ImageSettings().source)
    if "/" in source and "://" not in source:
        source = str((folder / Path(source).expanduser()).resolve())
    return ImageSettings(
        source=source,
        checksum=parsed.get("ktool_image_checksum", ""),
        packages=parsed.get("ktool_image_packages", ()),
    )


def _redfish(parsed: _Values, folder: Path) -> RedfishSettings:
    given = parsed.given("ktool_redfish_", RedfishSettings)
    if "ca_file" in given:
        given["ca_file"] = folder / given["ca_file"]
    return RedfishSettings(**given)
