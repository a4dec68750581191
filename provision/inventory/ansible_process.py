"""Reads an inventory with Ansible's own code and prints it as JSON; a program of its own, run by ansible_source.

Importing Ansible changes the process that does it: it installs import hooks, reads an ansible.cfg, makes folders,
writes warnings wherever it likes. In a process of its own that hurts nobody. Nothing of ktool is imported here, so the
program also starts quickly.

Standard output is one object: `hosts` (name, groups, variables, where each was written, which could not be resolved,
which are secret) in the inventory's order, or `failures`, what Ansible's inventory plugins said.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

# What Ansible itself adds to every host's variables; none of it was written by the inventory's author.
_MAGIC = frozenset(
    {
        "ansible_check_mode",
        "ansible_config_file",
        "ansible_collection_name",
        "ansible_dependent_role_names",
        "ansible_diff_mode",
        "ansible_facts",
        "ansible_forks",
        "ansible_inventory_sources",
        "ansible_limit",
        "ansible_local",
        "ansible_parent_role_names",
        "ansible_play_batch",
        "ansible_play_hosts",
        "ansible_play_hosts_all",
        "ansible_play_name",
        "ansible_play_role_names",
        "ansible_playbook_python",
        "ansible_role_name",
        "ansible_role_names",
        "ansible_run_tags",
        "ansible_skip_tags",
        "ansible_verbosity",
        "ansible_version",
        "environment",
        "group_names",
        "groups",
        "hostvars",
        "inventory_dir",
        "inventory_file",
        "inventory_hostname",
        "inventory_hostname_short",
        "module_setup",
        "omit",
        "play_hosts",
        "playbook_dir",
        "role_name",
        "role_names",
        "role_path",
        "role_uuid",
        "vars",
    }
)


def main(source: str) -> dict[str, Any]:
    """The inventory at an absolute path, as plain data."""
    from ansible.errors import AnsibleError
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader
    from ansible.vars.manager import VariableManager

    failures = _collect_failures()
    init_plugin_loader([])
    loader = DataLoader()
    # group_vars and host_vars are looked for beside the inventory, and not in the folder where the user happens to be
    loader.set_basedir(source if os.path.isdir(source) else os.path.dirname(source))
    try:
        _unlock(loader)
        inventory = InventoryManager(loader=loader, sources=[source])
        variables = VariableManager(loader=loader, inventory=inventory)
        hosts = [_host(host, loader, variables) for host in inventory.get_hosts("all")]
    except AnsibleError as error:
        return {"hosts": [], "failures": [*failures, _message(error)]}
    return {"hosts": hosts, "failures": []}


def _collect_failures() -> list[str]:
    """A list that fills with what inventory plugins could not read; nothing of it is printed."""
    from ansible.utils.display import Display

    found: list[str] = []
    display = Display()

    def error_as_warning(msg: str | None = None, exception: BaseException | None = None, *_: Any, **__: Any) -> None:
        found.append(f"{msg or ''} {_message(exception) if exception else ''}".strip())

    display.error_as_warning = error_as_warning
    display.warning = lambda msg, *_, **__: None
    display.deprecated = lambda *_, **__: None
    return found


def _unlock(loader: Any) -> None:
    """Give the loader the vault's password if the configuration (ANSIBLE_VAULT_PASSWORD_FILE) names its file."""
    from ansible import constants
    from ansible.parsing.vault import get_file_vault_secret

    if named := constants.config.get_config_value("DEFAULT_VAULT_PASSWORD_FILE"):
        secret = get_file_vault_secret(filename=named, vault_id="default", loader=loader)
        secret.load()
        loader.set_vault_secrets([("default", secret)])


def _host(host: Any, loader: Any, manager: Any) -> dict[str, Any]:
    from ansible.template import Templar

    found = manager.get_vars(host=host, include_hostvars=True)
    templar = Templar(loader=loader, variables=found)
    variables: dict[str, Any] = {}
    origins: dict[str, str] = {}
    unresolved: dict[str, str] = {}
    secret: list[str] = []
    for key in sorted(set(found) - _MAGIC):
        raw, name = found[key], str(key)
        origin = _origin(raw) or _origin(key)
        if origin:
            origins[name] = origin
        try:
            resolved = templar.template(raw)
            variables[name] = _plain(resolved)
            if _is_secret(raw) or _is_secret(resolved) or _is_vaulted(origin.rpartition(":")[0] or origin):
                secret.append(name)
        except Exception as error:  # noqa: BLE001 a template runs anything; who wrote it learns what happened
            unresolved[name] = _message(error)
    return {
        "name": str(host.name),
        "groups": [str(group.name) for group in host.get_groups() if group.name not in ("all", "ungrouped")],
        "variables": variables,
        "origins": origins,
        "unresolved": unresolved,
        "secret": secret,
    }


def _plain(value: Any) -> Any:
    """A value of Ansible's own types as what JSON has."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return "".join(str(value))


def _origin(value: Any) -> str:
    """Where a value was written, as FILE:LINE (ansible-core tags its data since 2.19), or empty."""
    try:
        from ansible._internal._datatag._tags import Origin
    except ImportError:
        return ""
    tag = value if isinstance(value, Origin) else Origin.get_tag(value)
    if tag is None or not tag.path:
        return ""
    return f"{tag.path}:{tag.line_num}" if tag.line_num else str(tag.path)


def _is_secret(value: Any) -> bool:
    """Whether a value, or one inside of it, is encrypted by itself (`!vault`)."""
    try:
        from ansible._internal._datatag._tags import VaultedValue
        from ansible.parsing.vault import EncryptedString
    except ImportError:
        return type(value).__name__ == "AnsibleVaultEncryptedUnicode"
    if isinstance(value, Mapping):
        return any(_is_secret(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_is_secret(item) for item in value)
    return isinstance(value, EncryptedString) or bool(VaultedValue.is_tagged_on(value))


@cache
def _is_vaulted(path: str) -> bool:
    """Whether a whole file is encrypted; Ansible does not tell that of the values that it read from one."""
    try:
        with open(path, "rb") as file:
            return file.read(14) == b"$ANSIBLE_VAULT"
    except OSError:
        return False


def _message(error: BaseException) -> str:
    """What an error of Ansible's says, with where, in one line."""
    parts: list[str] = []
    where = ""
    seen: BaseException | None = error
    while seen is not None:
        text = " ".join(str(getattr(seen, "_original_message", "") or getattr(seen, "message", "") or seen).split())
        text = text.rstrip(".")
        if text and not any(text.lower() in part.lower() or part.lower() in text.lower() for part in parts):
            parts.append(text)
        where = where or _origin(getattr(seen, "obj", None))
        seen = seen.__cause__ or seen.__context__
    return ": ".join(parts) + (f" ({where})" if where else "")


if __name__ == "__main__":
    # Ansible, and what a template runs, may print: only the result goes to the real standard output
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with result:
        json.dump(main(sys.argv[1]), result)
