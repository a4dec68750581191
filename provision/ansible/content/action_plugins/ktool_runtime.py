"""Where Ansible runs: which runtime a machine gets, and its archive's way there if the machine has none of it.

One round trip where nothing is to be done: the machine is told the keys that would do, and answers. Only then is an
archive chosen for its version of Python, and copied. Where somebody has looked at the machine a moment ago (`seen`,
from `ktool lab`), not even that one is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

PYTHONS_MEND = "Install that version of Python on the machine, or use an image that has it."


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """The action `ktool_runtime`."""

    _supports_check_mode = True
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Look, then copy and install if that is needed."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = dict(self._task.args)
        archives = [] if args.get("role") == "none" else (args.pop("archives", None) or local_archives())
        args["archives"] = []
        wanted = suitable(archives, str(args.get("role", "agent")))
        args["keys"] = [archive["key"] for archive in wanted]
        found = known(args, args.pop("seen", None) or {})
        if found is None or self._task.check_mode:
            found = self._module(args, task_vars)
        result.update(found)
        if found.get("failed") or not found.get("needs") or self._task.check_mode:
            return result
        archive = choose(wanted, set(found["interpreters"]), found["arch"], role=str(args.get("role", "agent")))
        folder = self._make_tmp_path()
        try:
            remote = self._connection._shell.join_path(folder, "runtime.tar.gz")
            self._transfer_file(archive["path"], remote)
            self._fixup_perms2((folder, remote))
            manifest = {name: archive[name] for name in ("key", "python_tag", "arch", "compiled") if name in archive}
            done = self._module({**args, "archive": remote, "manifest": manifest, "keys": [archive["key"]]}, task_vars)
        finally:
            self._remove_tmp_path(folder)
        result.update(done)
        result["changed"] = bool(found.get("changed") or done.get("changed"))
        result["installed"] = found["installed"]
        return result

    def _module(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        found: dict[str, Any] = self._execute_module(module_name="ktool_runtime", module_args=args, task_vars=task_vars)
        return found


def known(args: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a look would find, where a look a moment ago (provision.facts) tells; None if the machine must be asked.

    It tells if no package is missing, and the machine has the runtime in use or none whatever.
    """
    commands = {str(one["command"]) for one in args.get("packages") or ()}
    if not seen or commands - {*seen["commands"]} or args.get("role") == "none":
        return None
    current = str(seen["runtime"])
    if current and (current not in args["keys"] or not seen["linked"]):
        return None
    return {
        "changed": False,
        "installed": [],
        "needs": not current,
        "arch": seen["arch"],
        "runtime": current,
        "interpreters": list(seen["interpreters"]),
        "joined": bool(seen["joined"]),
        "master": bool(seen.get("master")),
    }


def suitable(archives: list[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    """The archives that have what a role needs, its own first: a control plane's has all of an agent's."""
    roles = [role, "control"] if role == "agent" else [role]
    return sorted((a for a in archives if a["role"] in roles), key=lambda a: roles.index(a["role"]))


def choose(archives: list[dict[str, Any]], tags: set[str], arch: str, *, role: str) -> dict[str, Any]:
    """The archive for a machine; made for its version of Python where none of those at hand is, if that is possible."""
    for archive in archives:
        if archive["python_tag"] in tags and archive["arch"] == arch:
            return archive
    try:
        from provision.bundle.other_python import build_for
    except ImportError:
        wanted = sorted({f"{archive['python_tag']} on {archive['arch']}" for archive in archives})
        raise AnsibleActionFail(
            f"no runtime fits this machine (found: {', '.join(sorted(tags)) or 'no Python'} on {arch}; "
            f"wanted: {', '.join(wanted)}). {PYTHONS_MEND}"
        ) from None
    from kube.errors import KtoolError
    from provision.bundle.archive import ArchiveRole
    from provision.lab_state import cache_dir

    try:
        return build_for(ArchiveRole(role), cache_dir(), tags=tags, arch=arch).described()
    except KtoolError as error:
        raise AnsibleActionFail(str(error)) from error


def local_archives() -> list[dict[str, Any]]:
    """The runtimes of the ktool that is installed where Ansible runs."""
    try:
        from kube.errors import KtoolError
        from provision.bundle.archive import archives
        from provision.lab_state import cache_dir
    except ImportError:
        raise AnsibleActionFail(
            "ktool_archives is empty, and ktool is not installed where Ansible runs "
            "(wanted: ansible-playbook of ktool's own environment, or ktool_archives from a bundle)"
        ) from None
    try:
        return [archive.described() for archive in archives(cache_dir()).values()]
    except KtoolError as error:
        raise AnsibleActionFail(str(error)) from error
