"""Hands the module of the same name a join file's content, as a parameter that Ansible neither prints nor records."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """The action `ktool_node`."""

    _supports_check_mode = True
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module; the join file is removed whatever becomes of it."""
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
            if file:
                args["join"] = Path(file).read_text()
            result.update(self._execute_module(module_name="ktool_node", module_args=args, task_vars=task_vars))
        finally:
            if file:
                with contextlib.suppress(OSError):
                    Path(file).unlink()
        return result


def has_joined(task_vars: dict[str, Any] | None) -> bool:
    """Whether the machine has joined already, as the role `runtime` saw it: it needs no token then."""
    return bool(((task_vars or {}).get("ktool_runtime_state") or {}).get("joined"))
