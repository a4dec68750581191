"""A join file from the master, kept where Ansible runs until the machine that it is for has joined.

Ansible prints and records what a task gives back. So the file's content is not given back, only where it lies: in
Ansible's own temporary folder, which only its user can read and which Ansible removes when it ends.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

KTOOL = "/opt/ktool/current/bin/ktool"


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """The action `ktool_token`; delegated to the master."""

    _supports_check_mode = True
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Have the master make a token, and write the join file."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        if args.get("master_failure"):
            raise AnsibleActionFail(f"the master {args['master']} failed: {args['master_failure']}")
        if self._task.check_mode:
            return {**result, "changed": False, "skipped": True, "msg": "makes no token in check mode"}
        data_dir = args.get("data_dir", "/var/lib/ktool")
        argv = [KTOOL, "--data-dir", data_dir, "--kubeconfig", f"{data_dir}/admin.kubeconfig", "token", "create"]
        argv += ["--node", args["name"], "--server", args["server"], "--join-file", "-"]
        found = self._execute_module(
            module_name="ansible.legacy.command", module_args={"argv": argv}, task_vars=task_vars
        )
        if found.get("unreachable"):
            raise AnsibleActionFail(f"the master {args['master']} cannot be reached: {found.get('msg', '')}")
        if found.get("rc") != 0:
            said = found.get("stderr") or found.get("msg") or "no answer"
            raise AnsibleActionFail(f"the master {args['master']} makes no token: {' '.join(str(said).split())}")
        text = str(found["stdout"])
        try:
            json.loads(text)
        except ValueError:
            raise AnsibleActionFail(f"the master {args['master']} gave something else than a join file") from None
        descriptor, path = tempfile.mkstemp(prefix="join-", dir=constants.DEFAULT_LOCAL_TMP)  # mode 0600
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        return {**result, "changed": False, "file": path}
