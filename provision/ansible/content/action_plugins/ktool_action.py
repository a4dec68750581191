"""What the actions `ktool_node`, `ktool_runtime` and `ktool_token` are made from; no action by itself.

Action plugins are no package, and cannot import each other. Ansible's loader of plugins finds one for the other in
whatever way it found those: beside a playbook, or by a setting.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """An action that speaks to the machine by the shell. It has no `run`, so no task can name it."""

    RUNTIMES = "/opt/ktool"
    KTOOL = "/opt/ktool/current/bin/ktool"
    COMMAND = "/usr/local/bin/ktool"

    _supports_check_mode = True
    _requires_connection = True

    def _shell(self, line: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Status, standard output and standard error of a command line on the machine."""
        line = f"{self._compute_environment_string()} {line}".strip()
        # With nothing to write Ansible would ask for a terminal, on which outputs mix.
        found = self._low_level_execute_command(line, in_data=stdin or b"\n")
        return int(found["rc"]), str(found["stdout"]), str(found["stderr"])

    @staticmethod
    def keep(text: str) -> str:
        """Write a join file (mode 0600) to Ansible's temporary folder, which ends with this run; its path."""
        descriptor, path = tempfile.mkstemp(prefix="join-", dir=constants.DEFAULT_LOCAL_TMP)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        return path

    @staticmethod
    def sentence(error: Mapping[str, Any]) -> str:
        """The four parts of ktool's errors (what, found, wanted, mend) as one text."""
        sides = "; ".join(f"{side}: {error[side]}" for side in ("found", "wanted") if error.get(side))
        mend = f". {error['mend']}" if error.get("mend") else ""
        return f"{error['what']} ({sides}){mend}" if sides else f"{error['what']}{mend}"
