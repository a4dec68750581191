"""A machine's part in a ktool cluster: runs ktool's own commands on the machine, which look first and change what
differs, and gives what they say of themselves as the task's result.

    state          up: a master, joined: a node (or, with control_plane, one more master), absent: neither;
                   prepared: ready to join, while the master is still being made
    name, address  the node's; the address empty for that of the default route
    labels, taints of the node; taints as KEY[=VALUE]:EFFECT or mappings of key, value, effect
    server         URL of the API server for a machine that joins or has joined
    join_file      a file with a join file's content, on the machine that runs Ansible; it is removed afterwards.
                   A machine that has joined needs none
    invite         with up: have tokens made for the workers of this run that `ktool lab` saw without one. Their join
                   files are kept where Ansible runs, and the result's `files` maps hosts to them
    store          with up: sqlite or etcd, empty for the one that is there
    leave          with absent: whether one of several masters leaves their etcd
    ready_timeout  seconds until each part must be ready
    data_dir       where ktool keeps its state

There is no module of this name: ktool is called as it is, by the shell. Ansible's own part of a module's start takes an
emulated machine seconds, as long as that of ktool. A join file's content goes through standard input, and is no
parameter of the task: Ansible neither prints nor records it.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.loader import action_loader

Base: Any = action_loader.get("ktool_action", class_only=True)
RUNTIMES, KTOOL, COMMAND = Base.RUNTIMES, Base.KTOOL, Base.COMMAND
PACKAGES_FILE = "/opt/ktool/packages.json"
TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
DEFAULTS: dict[str, Any] = {
    "data_dir": "/var/lib/ktool",
    "name": "",
    "address": "",
    "labels": {},
    "taints": [],
    "supervisor": "auto",
    "ready_timeout": 60,
    "agent": True,
    "schedulable": True,
    "tls_sans": [],
    "api_port": 6443,
    "pod_cidr": "",
    "service_cidr": "",
    "server": "",
    "control_plane": False,
    "invite": False,
    "store": "",
    "leave": True,
    "remove_packages": False,
}
# Steps of `absent`, each with what it prints if it changed something.
_LINK = f'case "$(readlink {COMMAND})" in {RUNTIMES}/*) rm -f {COMMAND} && echo changed;; esac'
_RUNTIMES = f"if [ -e {RUNTIMES} ] || [ -L {RUNTIMES} ]; then rm -rf {RUNTIMES} && echo changed; fi"
_PURGE = "DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq {0} || dnf remove -y -q {0}"


class ActionModule(Base):  # type: ignore[misc]  # Ansible has no types
    """The action `ktool_node`."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do what `state` says; the join file is removed whatever becomes of it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = dict(self._task.args)
        file = args.pop("join_file", "")
        try:
            if failure := args.pop("master_failure", ""):
                raise AnsibleActionFail(f"the master {args.get('master')} failed: {failure}")
            args.pop("master", None)
            may_do_without = has_joined(task_vars) and not args.get("control_plane")
            if (failure := args.pop("token_failure", "")) and not file and not may_do_without:
                raise AnsibleActionFail(failure)
            params = parameters(args)
            join = Path(file).read_text() if file else ""
        finally:
            if file:
                with contextlib.suppress(OSError):
                    Path(file).unlink()
        if self._task.check_mode:
            return {**result, "changed": self._differs(params), "msg": "not run in check mode"}
        if params["state"] == "absent":
            return {**result, **self._absent(params)}
        guests = inviting(task_vars or {}) if params["invite"] else {}
        argv = command_line(params, by_file=bool(join))
        found = self._ktool([*argv, *(word for name in guests.values() for word in ("--invite", name))], join)
        texts = found.pop("joinFiles", [])
        files = dict(zip(guests, texts, strict=True)) if len(texts) == len(guests) else {}
        return {**result, **found, "files": {host: self.keep(text) for host, text in files.items()}}

    def _ktool(self, argv: list[str], stdin: str = "") -> dict[str, Any]:
        """What a command of ktool reports. AnsibleActionFail with its steps if it failed."""
        code, out, err = self._shell(shlex.join([*argv, "-o", "json"]), stdin.encode())
        secrets = secrets_of(stdin)
        out, err = without(out, secrets), without(err, secrets)
        try:
            return told(code, out, err)
        except AnsibleActionFail as error:
            # Tokens that were just made are no secrets that could be known here.
            raise AnsibleActionFail(TOKEN.sub("********", str(error)), result=error.result) from None

    def _differs(self, params: Mapping[str, Any]) -> bool:
        """Whether a run would certainly change something."""
        journal = shlex.quote(f"{params['data_dir']}/journal.jsonl")
        _, out, _ = self._shell(f"test -e {journal} && echo journal; test -e {RUNTIMES} && echo runtimes; true")
        there = set(out.split())
        return bool(there) if params["state"] == "absent" else "journal" not in there

    def _absent(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`ktool down`, then the runtime itself."""
        result: dict[str, Any] = {"changed": False, "steps": [], "remains": []}
        # A load balancer has a record of packages, and no runtime.
        has_ktool, out, _ = self._shell(f"cat {PACKAGES_FILE} 2>/dev/null; test -x {KTOOL}")
        if has_ktool == 0:
            leave = [] if params["leave"] else ["--no-leave"]
            result.update(self._ktool([*start(params, "down"), *leave]))
        packages = [str(name) for name in json.loads(out or "[]")]
        if packages and params["remove_packages"]:
            code, out, err = self._shell(f"sh -c {shlex.quote(_PURGE.format(shlex.join(packages)))}")
            if code != 0:
                raise AnsibleActionFail("packages cannot be removed: " + (err or out).strip()[-300:])
            packages = []
        if packages:
            result["remains"].append("packages that ktool installed: " + ", ".join(packages))
        code, out, err = self._shell(f"sh -c {shlex.quote(f'{_LINK}; {_RUNTIMES}')}")
        if code != 0:
            raise AnsibleActionFail("the runtime cannot be removed: " + (err or out).strip()[-300:])
        result["changed"] = bool(result["changed"] or out.split())
        return result


def has_joined(task_vars: Mapping[str, Any] | None) -> bool:
    """Whether the machine has joined already, as the role `runtime` saw it: it needs no token then."""
    return bool(((task_vars or {}).get("ktool_runtime_state") or {}).get("joined"))


def inviting(task_vars: Mapping[str, Any]) -> dict[str, str]:
    """The workers of this run that have not joined, as far as somebody has looked: hosts, and the names of their nodes.
    The role `agent` asks for what is missing then."""
    groups = task_vars.get("groups") or {}
    found = {}
    # Those, too, that are through with this play already: the batch has them no more.
    for host in task_vars.get("ansible_play_hosts_all", ()):
        if host not in groups.get("workers", ()) or host in groups.get("masters", ()):
            continue
        variables = task_vars["hostvars"][host]
        seen = variables.get("ktool_seen") or {}
        if seen and not seen["joined"]:
            found[host] = str(variables.get("ktool_node_name", host))
    return found


def parameters(args: Mapping[str, Any]) -> dict[str, Any]:
    """The task's parameters with their defaults, as their types. AnsibleActionFail for unknown ones."""
    if unknown := sorted(args.keys() - DEFAULTS.keys() - {"state"}):
        raise AnsibleActionFail(f"unknown parameters: {', '.join(unknown)} (wanted: {', '.join(sorted(DEFAULTS))})")
    if args.get("state") not in ("up", "joined", "prepared", "absent"):
        raise AnsibleActionFail(f"state: found {args.get('state')!r}, wanted up, joined, prepared or absent")
    given = {**DEFAULTS, **args}
    return {name: boolean(value) if isinstance(DEFAULTS.get(name), bool) else value for name, value in given.items()}


def command_line(params: Mapping[str, Any], *, by_file: bool) -> list[str]:
    """How ktool is called for a state other than `absent`; `by_file`: with a join file on standard input."""
    if params["state"] == "up":
        return up(params)
    return prepared(params) if params["state"] == "prepared" else joined(params, by_file=by_file)


def up(params: Mapping[str, Any]) -> list[str]:
    """The command line of `ktool up`."""
    argv = [*start(params, "up"), *node_options(params), *master_options(params), "--control-plane"]
    return [*argv, *(["--store", params["store"]] if params["store"] else []), *networks(params)]


def prepared(params: Mapping[str, Any]) -> list[str]:
    """The command line of `ktool join` for a machine that nobody can invite yet."""
    return [*start(params, "join"), *node_options(params), "--prepare", *networks(params)]


def networks(params: Mapping[str, Any]) -> list[str]:
    """Options about the cluster's addresses."""
    argv = []
    for name in ("pod_cidr", "service_cidr"):
        argv += [f"--{name.replace('_', '-')}", params[name]] if params[name] else []
    return argv


def joined(params: Mapping[str, Any], *, by_file: bool) -> list[str]:
    """The command line of `ktool join`, with a join file on standard input or the one that the machine joined by."""
    argv = [*start(params, "join"), *node_options(params)]
    argv += ["--control-plane", *master_options(params)] if params["control_plane"] else []
    argv += ["--server", params["server"]] if params["server"] else []
    return [*argv, *(["-"] if by_file else [])]


def start(params: Mapping[str, Any], command: str) -> list[str]:
    """The beginning of ktool's command line."""
    return [KTOOL, "--data-dir", params["data_dir"], command]


def node_options(params: Mapping[str, Any]) -> list[str]:
    """Options of `up` and `join` about the node."""
    argv = ["--node-name", params["name"]] if params["name"] else []
    argv += ["--node-address", params["address"]] if params["address"] else []
    argv += ["--supervisor", params["supervisor"], "--ready-timeout", str(params["ready_timeout"])]
    for key, value in sorted(params["labels"].items()):
        argv += ["--label", f"{key}={'' if value is None else value}"]
    for taint in params["taints"]:
        argv += ["--taint", written(taint)]
    return argv


def written(taint: Any) -> str:
    """A taint as KEY[=VALUE]:EFFECT."""
    if not isinstance(taint, dict):
        return str(taint)
    value = "=" + taint["value"] if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def master_options(params: Mapping[str, Any]) -> list[str]:
    """Options of `up`, and of `join` for a master."""
    argv = ["--api-port", str(params["api_port"])]
    argv += ["--schedulable"] if params["schedulable"] else []
    argv += [] if params["agent"] else ["--no-agent"]
    for name in params["tls_sans"]:
        argv += ["--tls-san", name] if name else []
    return argv


def secrets_of(join: str) -> set[str]:
    """What in a join file nobody may read: the token, the keys of the cluster."""
    try:
        known = json.loads(join or "{}")
    except ValueError:
        return {join}
    files = (known.get("controlPlane") or {}).get("files") or {}
    return {text for text in (known.get("token"), *(files[name] for name in files if name.endswith(".key"))) if text}


def without(text: str, secrets: Iterable[str]) -> str:
    """A text in which secrets, were they in it, cannot be read."""
    for secret in secrets:
        text = text.replace(secret, "********").replace(json.dumps(secret)[1:-1], "********")
    return text


def told(code: int, out: str, err: str) -> dict[str, Any]:
    """ktool's report. AnsibleActionFail, with the report so far, if ktool failed."""
    lines = [line for line in out.splitlines() if line.startswith("{")]
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        found = {}
    if code == 0 and found:
        return found
    error = found.get("error") or {}
    text = error.get("what") or (err or out).strip()[-600:] or f"ktool ended with status {code}"
    message = Base.sentence({**error, "what": text})
    result = {"error": error, "steps": found.get("steps", []), "changed": found.get("changed", False)}
    raise AnsibleActionFail(message, result=result)
