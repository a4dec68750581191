"""An inventory as Ansible understands it: hosts, their groups and variables, and where each variable was written.

Ansible's own code reads it, in a process of its own (ansible_process), so that every format, group_vars, host_vars,
ranges, children, vaults and templates mean what they mean to `ansible -i`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kube.errors import KtoolError

PROGRAM = Path(__file__).with_name("ansible_process.py")
PLUGINS = Path(__file__).with_name("plugins")

# Scripts and plugins may ask a network; a file takes half a second.
TIMEOUT_SECONDS = 120.0

# What ktool wants to be different from the user's own settings of Ansible: errors instead of warnings, and quiet.
_SETTINGS = {
    "ANSIBLE_DUPLICATE_YAML_DICT_KEY": "error",
    "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
    "ANSIBLE_DEPRECATION_WARNINGS": "False",
    "ANSIBLE_NOCOLOR": "True",
    "PYTHONWARNINGS": "ignore",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "LC_ALL": "C.UTF-8",
}


class Host(msgspec.Struct, frozen=True):
    """One host, everything resolved. Places are `/path/to/file:line`, by variable's name; they may be missing.

    `unresolved` tells of templates that failed, by variable; those are not in `variables`. `secret` are the variables
    that came out of a vault.
    """

    name: str
    groups: tuple[str, ...] = ()
    variables: dict[str, Any] = {}
    origins: dict[str, str] = {}
    unresolved: dict[str, str] = {}
    secret: tuple[str, ...] = ()


class Source(msgspec.Struct, frozen=True):
    """All hosts of an inventory in its order, or what Ansible said against it."""

    hosts: tuple[Host, ...] = ()
    failures: tuple[str, ...] = ()


def load(path: Path) -> Source:
    """Read an inventory: a file in one of Ansible's formats, or a folder of them.

    Raises KtoolError if there is none, or if Ansible's code cannot read it.
    """
    if not path.exists():
        raise KtoolError(
            f"there is no inventory {path}",
            wanted="an Ansible inventory: a YAML or INI file, or a folder of them",
            mend="`-i FILE` names one; inventories/ has examples for every kind of machine.",
        )
    with tempfile.TemporaryDirectory(prefix="ktool-ansible-") as scratch:
        argv = [sys.executable, "-P", str(PROGRAM), os.path.abspath(path)]
        try:
            done = subprocess.run(
                argv,
                env=environment(os.environ, Path(scratch)),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KtoolError(
                f"{path} was not read in time",
                found=f"no end within {TIMEOUT_SECONDS:g} s",
                mend=f"`ansible-inventory -i {path} --list -vvv` shows what Ansible waits for.",
            ) from error
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode != 0:
        if any("No module named 'ansible'" in line for line in said):
            raise KtoolError(
                "inventories are read by Ansible, which is not installed",
                mend="In a checkout: make setup-provision. Otherwise: pip install 'ktool[provision]'.",
            )
        raise KtoolError(f"Ansible could not read {path}", found="; ".join(said[-2:]))
    source = msgspec.json.decode(done.stdout, type=Source)
    if source.failures:
        raise KtoolError(
            f"{path} is no inventory that Ansible can read",
            found="; ".join(telling(path.name, source.failures)),
            wanted="YAML (all: hosts, vars, children) or INI ([group] and a host per line)",
            mend=f"`ansible-inventory -i {path} --list` shows all that Ansible says.",
        )
    return source


def environment(base: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The environment in which Ansible reads: the user's, quiet, with its temporary files in `scratch`."""
    plugins = [str(PLUGINS), *filter(None, [base.get("ANSIBLE_INVENTORY_PLUGINS")])]
    return {
        **base,
        **_SETTINGS,
        "ANSIBLE_LOCAL_TEMP": str(scratch),
        "ANSIBLE_INVENTORY_PLUGINS": os.pathsep.join(plugins),
    }


def telling(name: str, failures: Sequence[str]) -> list[str]:
    """The failures worth showing: of all plugins that tried, what the one for this kind of file said."""
    is_yaml = name.endswith((".yml", ".yaml", ".json"))
    dynamic = name.endswith((".ktool.yml", ".ktool.yaml")) or name in ("ktool.yml", "ktool.yaml")
    wanted = "'auto'" if dynamic else "'yaml'" if is_yaml else "'ini'"
    return [f for f in failures if f"with {wanted} plugin" in f] or list(failures[:-1]) or list(failures)
