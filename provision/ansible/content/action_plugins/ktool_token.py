"""Join files from the master, kept where Ansible runs until the machines that they are for have joined.

The master makes the tokens of all machines in one call: to start ktool takes longer than to make a token. Ansible
prints and records what a task gives back. So the files' content is not given back, only where they lie: in Ansible's
own temporary folder, which only its user can read and which Ansible removes when it ends.

A further master gets a file of its own (`name`, `control_plane`), which has the cluster's keys, too.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.loader import action_loader

Base: Any = action_loader.get("ktool_action", class_only=True)


class ActionModule(Base):  # type: ignore[misc]  # Ansible has no types
    """The action `ktool_token`; delegated to the master, and run once for all machines of a batch.

    What goes wrong is given back as `failure`, for each machine to fail with: a task that is run once and fails would
    leave the others without a word.
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Have the master make tokens, and write the join files: `files` maps hosts to them. `made` are files that are
        there already, as `ktool up` has made them."""
        args = self._task.args
        made = {host: path for host, path in (args.get("made") or {}).items() if os.path.exists(path)}
        result: dict[str, Any] = {**super().run(tmp, task_vars), "changed": False, "files": made, "failure": ""}
        own = str(args.get("name", ""))
        names = {str((task_vars or {})["inventory_hostname"]): own} if own else joining(task_vars or {})
        names = {host: name for host, name in names.items() if host not in made}
        if not names:
            return {**result, "skipped": True, "msg": "all have joined, or a join file"}
        if args.get("master_failure"):
            return {**result, "failure": f"the master {args['master']} failed: {args['master_failure']}"}
        if self._task.check_mode:
            return {**result, "skipped": True, "msg": "makes no token in check mode"}
        data_dir = args.get("data_dir", "/var/lib/ktool")
        argv = [self.KTOOL, "--data-dir", data_dir, "--kubeconfig", f"{data_dir}/admin.kubeconfig", "token", "create"]
        argv += [word for name in names.values() for word in ("--node", name)]
        argv += ["--server", args["server"], "--join-file", "-"]
        argv += ["--control-plane"] if args.get("control_plane") else []
        try:
            # By the shell, for the reasons that ktool_node gives.
            code, out, err = self._shell(shlex.join(argv))
        except AnsibleConnectionFailure as error:
            return {**result, "failure": f"the master {args['master']} cannot be reached: {error}"}
        if code != 0:
            said = " ".join((err or "no answer").split())
            return {**result, "failure": f"the master {args['master']} makes no token: {said}"}
        files = documents(out)
        if len(files) != len(names):
            return {**result, "failure": f"the master {args['master']} gave something else than join files"}
        return {**result, "files": made | {host: self.keep(text) for host, text in zip(names, files, strict=True)}}


def joining(task_vars: Mapping[str, Any]) -> dict[str, str]:
    """The machines of this batch that have not joined, and the names of their nodes."""
    found = {}
    for host in task_vars.get("ansible_play_batch", ()):
        variables = task_vars["hostvars"][host]
        if not (variables.get("ktool_runtime_state") or {}).get("joined"):
            found[host] = str(variables.get("ktool_node_name", host))
    return found


def documents(text: str) -> list[str]:
    """The JSON documents that stand one after the other in a text; none if there is anything else."""
    found = []
    rest = text.strip()
    while rest:
        try:
            _, end = json.JSONDecoder().raw_decode(rest)
        except ValueError:
            return []
        found.append(rest[:end])
        rest = rest[end:].strip()
    return found
