#!/usr/bin/python
# On the machine: `ktool up`, `ktool join` or `ktool down`, with what it says of itself as the task's result.
# Any Python from 3.8 on runs this; nothing but Ansible's own module code is imported.
from __future__ import annotations

import json
import os
import shutil
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ktool_node
short_description: A machine's part in a ktool cluster
description:
  - Runs ktool's own commands on the machine, which look first and change what differs.
options:
  state: {description: "up: a master, joined: a node, absent: neither.", choices: [up, joined, absent], required: true}
  name: {description: The node's name., type: str}
  address: {description: "Its address, empty for that of the default route.", type: str}
  labels: {description: The node's labels., type: dict}
  taints: {description: "A new node's taints, KEY[=VALUE]:EFFECT or mappings of key, value, effect.", type: list}
  join: {description: Content of a join file; not needed once the machine has joined., type: str}
  control_plane: {description: "With joined: one more master, by a join file for masters.", type: bool, default: false}
  store: {description: "With up: sqlite or etcd, empty for the one that is there.", type: str}
  leave: {description: "With absent: whether one of several masters leaves their etcd.", type: bool, default: true}
  server: {description: URL of the API server for a machine that has joined., type: str}
  ready_timeout: {description: Seconds until each part must be ready., type: int, default: 60}
  data_dir: {description: Where ktool keeps its state., type: path, default: /var/lib/ktool}
"""

RUNTIMES = "/opt/ktool"
KTOOL = "/opt/ktool/current/bin/ktool"
COMMAND = "/usr/local/bin/ktool"
PACKAGES_FILE = "/opt/ktool/packages.json"


def main() -> None:
    """Do what `state` says."""
    module = AnsibleModule(
        argument_spec={
            "state": {"choices": ["up", "joined", "absent"], "required": True},
            "data_dir": {"type": "path", "default": "/var/lib/ktool"},
            "name": {"type": "str", "default": ""},
            "address": {"type": "str", "default": ""},
            "labels": {"type": "dict", "default": {}},
            "taints": {"type": "list", "elements": "raw", "default": []},
            "supervisor": {"type": "str", "default": "auto"},
            "ready_timeout": {"type": "int", "default": 60},
            "agent": {"type": "bool", "default": True},
            "schedulable": {"type": "bool", "default": True},
            "tls_sans": {"type": "list", "elements": "str", "default": []},
            "api_port": {"type": "int", "default": 6443},
            "pod_cidr": {"type": "str", "default": ""},
            "service_cidr": {"type": "str", "default": ""},
            "server": {"type": "str", "default": ""},
            "join": {"type": "str", "default": "", "no_log": True},
            "control_plane": {"type": "bool", "default": False},
            "store": {"type": "str", "default": ""},
            "leave": {"type": "bool", "default": True},
            "remove_packages": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    state = module.params["state"]
    if module.check_mode:
        module.exit_json(changed=differs(module.params), msg="not run in check mode")
    if state == "absent":
        absent(module)
    elif state == "up":
        argv = [*start(module.params, "up"), *node_options(module.params), *master_options(module.params)]
        argv += ["--control-plane"]
        argv += ["--store", module.params["store"]] if module.params["store"] else []
        argv += ["--pod-cidr", module.params["pod_cidr"]] if module.params["pod_cidr"] else []
        argv += ["--service-cidr", module.params["service_cidr"]] if module.params["service_cidr"] else []
        module.exit_json(**told(module, *module.run_command([*argv, "-o", "json"])))
    else:
        joined(module)


def differs(params: dict[str, Any]) -> bool:
    """Whether a run would certainly change something."""
    there = os.path.exists(os.path.join(params["data_dir"], "journal.jsonl"))
    return (there or os.path.lexists(RUNTIMES)) if params["state"] == "absent" else not there


def start(params: dict[str, Any], command: str) -> list[str]:
    """The beginning of ktool's command line."""
    return [KTOOL, "--data-dir", params["data_dir"], command]


def node_options(params: dict[str, Any]) -> list[str]:
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


def master_options(params: dict[str, Any]) -> list[str]:
    """Options of `up`, and of `join` for a master."""
    argv = ["--api-port", str(params["api_port"])]
    argv += ["--schedulable"] if params["schedulable"] else []
    argv += [] if params["agent"] else ["--no-agent"]
    for name in params["tls_sans"]:
        argv += ["--tls-san", name] if name else []
    return argv


def joined(module: Any) -> None:
    """`ktool join` with the join file that was given, or with the one that the machine joined by."""
    params = module.params
    text = params["join"]
    if not text:
        with open(os.path.join(params["data_dir"], "agent", "join.json")) as file:
            text = file.read()
    known = json.loads(text)
    if params["server"] and known.get("server") != params["server"]:
        known["server"] = params["server"]
        text = json.dumps(known)
    # Whatever ktool may say: its secrets are taken out of the result.
    files = (known.get("controlPlane") or {}).get("files") or {}
    secrets = [known.get("token"), *(text for name, text in files.items() if name.endswith(".key"))]
    module.no_log_values.update(value for value in secrets if value)
    argv = [*start(params, "join"), *node_options(params)]
    argv += ["--control-plane", *master_options(params)] if params["control_plane"] else []
    # By a pipe: no file of it is left, however this ends.
    module.exit_json(**told(module, *module.run_command([*argv, "-o", "json", "-"], data=text)))


def absent(module: Any) -> None:
    """`ktool down`, then the runtime itself."""
    params = module.params
    result: dict[str, Any] = {"changed": False, "steps": [], "remains": []}
    if os.access(KTOOL, os.X_OK):
        leave = [] if params["leave"] else ["--no-leave"]
        code, out, err = module.run_command([*start(params, "down"), *leave, "-o", "json"])
        result.update(told(module, code, out, err))
    packages: list[str] = []
    if os.path.exists(PACKAGES_FILE):
        with open(PACKAGES_FILE) as file:
            packages = json.load(file)
    if packages and params["remove_packages"]:
        purge = ["apt-get", "purge", "-y", "-qq"] if shutil.which("apt-get") else ["dnf", "remove", "-y", "-q"]
        code, out, err = module.run_command(purge + packages, environ_update={"DEBIAN_FRONTEND": "noninteractive"})
        if code != 0:
            module.fail_json(msg="packages cannot be removed: " + (err or out).strip()[-300:])
        packages = []
    if packages:
        result["remains"].append("packages that ktool installed: " + ", ".join(packages))
    if os.path.islink(COMMAND) and os.readlink(COMMAND).startswith(RUNTIMES + "/"):
        os.unlink(COMMAND)
        result["changed"] = True
    if os.path.lexists(RUNTIMES):
        shutil.rmtree(RUNTIMES)
        result["changed"] = True
    module.exit_json(**result)


def told(module: Any, code: int, out: str, err: str) -> dict[str, Any]:
    """ktool's report; the task fails if ktool did."""
    lines = [line for line in out.splitlines() if line.startswith("{")]
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        found = {}
    if code != 0 or not found:
        error = found.get("error") or {}
        sides = "; ".join(f"{side}: {error[side]}" for side in ("found", "wanted") if error.get(side))
        text = error.get("what") or (err or out).strip()[-600:] or f"ktool ended with status {code}"
        message = text + (f" ({sides})" if sides else "") + (". " + error["mend"] if error.get("mend") else "")
        module.fail_json(msg=message, error=error, steps=found.get("steps", []), changed=found.get("changed", False))
    result: dict[str, Any] = found
    return result


if __name__ == "__main__":
    main()
