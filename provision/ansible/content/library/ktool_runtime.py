#!/usr/bin/python
# On the machine: looks at packages and ktool's runtime, and changes what differs; in one go, for every further task
# costs seconds on a slow machine. To install a runtime that is not there is the work of the action plugin of this name.
# Any Python from 3.8 on runs this; nothing but Ansible's own module code is imported.
from __future__ import annotations

import glob
import json
import os
import platform
import shutil
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ktool_runtime
short_description: Packages that ktool needs, and ktool's runtime
description:
  - Installs the packages whose command is missing, and has one of the wanted runtimes be in use if one is there.
  - The action plugin of the same name installs one if none is.
options:
  role: {description: "agent, control, or none for packages only.", type: str, default: agent}
  archives: {description: Read by the action plugin., type: list, elements: dict}
  seen: {description: "Read by the action plugin: what was seen of the machine a moment ago.", type: dict}
  packages:
    description: >-
      command, and for each family of distributions names to try; `unit`, one of the package's that is not to start.
    type: list
    elements: dict
  data_dir: {description: Where ktool keeps its state., type: path, default: /var/lib/ktool}
"""

RUNTIMES = "/opt/ktool"
CURRENT = "/opt/ktool/current"
COMMAND = "/usr/local/bin/ktool"
PACKAGES_FILE = "/opt/ktool/packages.json"
UNITS = "/etc/systemd/system"
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C"}


def missing(packages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose command is not there."""
    return [one for one in packages if not shutil.which(one["command"], path=SEARCH)]


def family() -> str:
    """debian, redhat or an empty string: what the machine's package manager is."""
    if shutil.which("apt-get", path=SEARCH):
        return "debian"
    if shutil.which("dnf", path=SEARCH):
        return "redhat"
    return ""


def last_words(text: str) -> str:
    """The end of a program's output, as one line."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return "; ".join(lines[-2:])[-400:]


def give_up(module: Any, what: str, found: str = "", wanted: str = "", mend: str = "") -> None:
    """Fail with the four parts of ktool's errors."""
    sides = "; ".join(f"{name}: {text}" for name, text in (("found", found), ("wanted", wanted)) if text)
    message = what + (f" ({sides})" if sides else "") + (". " + mend if mend else "")
    module.fail_json(msg=message, error={"what": what, "found": found, "wanted": wanted, "mend": mend})


def install_packages(module: Any, absent: list[dict[str, Any]]) -> list[str]:
    """Install the packages of missing commands; gives their names."""
    kind = family()
    units = [one["unit"] for one in absent if one.get("unit")]
    commands = ", ".join(one["command"] for one in absent)
    if not kind:
        give_up(
            module,
            "commands are missing, and there is no package manager that ktool knows",
            found="no " + commands,
            wanted="apt-get or dnf, or these commands",
            mend="Install them by hand.",
        )
    hold(module, units)
    try:
        names = fetch_packages(module, kind, absent)
    finally:
        release(module, units)
    note_packages(names)
    return names


def hold(module: Any, units: list[str]) -> None:
    """Keep a package's own service from starting when it is installed: it would have other settings than ours."""
    for unit in units:
        link("/dev/null", os.path.join(UNITS, unit))
    if units:
        module.run_command(["systemctl", "daemon-reload"])


def release(module: Any, units: list[str]) -> None:
    """The service is as any other again, and does not start at boot."""
    for unit in units:
        path = os.path.join(UNITS, unit)
        if os.path.islink(path) and os.readlink(path) == "/dev/null":
            os.unlink(path)
    if units:
        module.run_command(["systemctl", "daemon-reload"])
        module.run_command(["systemctl", "disable", "--quiet", *units])


def fetch_packages(module: Any, kind: str, absent: list[dict[str, Any]]) -> list[str]:
    """Have the package manager install the packages of missing commands; gives their names."""
    if kind == "debian":
        names = [one["debian"][0] for one in absent]
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
        fresh = glob.glob("/var/lib/apt/lists/*_Packages*")
        code, out, err = (
            (1, "", "") if not fresh else module.run_command(install + names, environ_update=APT_ENVIRONMENT)
        )
        if code != 0:
            module.run_command(["apt-get", "update", "-qq"], environ_update=APT_ENVIRONMENT)
            code, out, err = module.run_command(install + names, environ_update=APT_ENVIRONMENT)
    else:
        names = [available(module, one["redhat"]) for one in absent]
        code, out, err = module.run_command(["dnf", "install", "-y", "-q", "--setopt=install_weak_deps=False", *names])
    still = missing(absent)
    if code != 0 or still:
        give_up(
            module,
            "packages cannot be installed",
            found=last_words(err or out) or "no " + ", ".join(one["command"] for one in still),
            wanted=", ".join(names),
            mend="Look at the machine's package sources, or install them by hand.",
        )
    return names


def available(module: Any, names: list[str]) -> str:
    """The first of several names that dnf can install."""
    for name in names:
        if module.run_command(["dnf", "-q", "list", name])[0] == 0:
            return name
    return names[0]


def note_packages(names: list[str]) -> None:
    """Remember what was installed, for `reset`."""
    os.makedirs(RUNTIMES, mode=0o755, exist_ok=True)
    known: list[str] = []
    if os.path.exists(PACKAGES_FILE):
        with open(PACKAGES_FILE) as file:
            known = json.load(file)
    with open(PACKAGES_FILE + ".new", "w") as file:
        json.dump(sorted(set(known) | set(names)), file)
    os.replace(PACKAGES_FILE + ".new", PACKAGES_FILE)


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a runtime; empty if there is none, or its interpreter is gone."""
    try:
        with open(os.path.join(folder, "manifest.json")) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if os.access(os.path.join(folder, "bin", "python"), os.X_OK) else {}


def interpreters() -> dict[str, str]:
    """Versions of Python on the machine: {"cp311": "/usr/bin/python3.11"}."""
    found: dict[str, str] = {}
    for folder in ("/usr/bin", "/usr/local/bin"):
        for path in glob.glob(folder + "/python3.[0-9]*"):
            number = path.rsplit(".", 1)[1]
            if number.isdigit() and os.access(path, os.X_OK):
                found.setdefault("cp3" + number, path)
    return found


def link(target: str, path: str) -> bool:
    """Have a symbolic link lead to `target`, in one step; True if it did not."""
    if os.path.islink(path) and os.readlink(path) == target:
        return False
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    beside = path + ".new"
    if os.path.lexists(beside):
        os.unlink(beside)
    os.symlink(target, beside)
    os.replace(beside, path)
    return True


def use(key: str) -> bool:
    """Have a runtime that is there be the one in use; the one before it stays, older ones go."""
    before = os.readlink(CURRENT) if os.path.islink(CURRENT) else ""
    changed = link(key, CURRENT)
    changed = link(CURRENT + "/bin/ktool", COMMAND) or changed
    if changed:
        for name in os.listdir(RUNTIMES):
            path = os.path.join(RUNTIMES, name)
            if os.path.isdir(path) and not os.path.islink(path) and name not in (key, before):
                shutil.rmtree(path, ignore_errors=True)
    return changed


def main() -> None:
    """Look, and do what is missing."""
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str", "default": "agent"},
            "packages": {"type": "list", "elements": "dict", "default": []},
            "data_dir": {"type": "path", "default": "/var/lib/ktool"},
            "archives": {"type": "list", "elements": "dict", "default": []},
            # from the action plugin
            "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    result: dict[str, Any] = {"changed": False, "installed": [], "needs": False, "arch": platform.machine()}
    absent = missing(params["packages"])
    if absent:
        result["changed"] = True
        result["installed"] = [one["command"] for one in absent]
        if not module.check_mode:
            result["installed"] = install_packages(module, absent)
    if params["role"] == "none":
        module.exit_json(**result)
    current = read_manifest(CURRENT)
    if params["keys"] and current.get("key") not in params["keys"]:
        there = [key for key in params["keys"] if read_manifest(os.path.join(RUNTIMES, key))]
        result["changed"] = True
        if there and not module.check_mode:
            use(there[0])
            current = read_manifest(CURRENT)
        else:
            result["needs"] = not there
    elif current and not module.check_mode:
        result["changed"] = link(CURRENT + "/bin/ktool", COMMAND) or result["changed"]
    result["runtime"] = current.get("key", "")
    result["interpreters"] = interpreters()
    agent = os.path.join(params["data_dir"], "agent")
    # A master that has its vote in etcd needs no keys any more.
    result["master"] = os.path.exists(os.path.join(params["data_dir"], "admin.kubeconfig"))
    result["joined"] = all(
        os.path.exists(os.path.join(agent, *file)) for file in (["join.json"], ["pki", "kubelet-client.crt"])
    )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
