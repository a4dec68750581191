"""Kernel settings that the proxy changes, with the memory that takes them back.

Before a setting is changed for the first time, its old value is written to a record, so that `restore` gives it back
exactly even if the process that changed it is long gone. Settings are named by their path below /proc/sys
(`net/ipv4/ip_forward`), as sysctl(8) accepts them too.
"""

from __future__ import annotations

import logging
from pathlib import Path

import orjson

from kube.errors import KtoolError
from kube.files import write_atomic

log = logging.getLogger(__name__)

PROC_SYS = Path("/proc/sys")


class Sysctls:
    """Settings of the present network namespace; `record` is the file that remembers what they were."""

    def __init__(self, record: Path, *, root: Path = PROC_SYS) -> None:
        self._record = record
        self._root = root

    def exists(self, name: str) -> bool:
        """Whether the kernel knows the setting (it does not while a module or link is missing)."""
        return (self._root / name).exists()

    def set(self, name: str, value: str) -> bool:
        """Set `name` to `value`, remembering what it was; whether that was necessary. KtoolError if refused."""
        path = self._root / name
        try:
            old = path.read_text().strip()
            if old == value:
                return False
            before = self._remembered()
            if name not in before:
                # first the record: a crash in between must not lose the old value
                self._remember({**before, name: old})
            path.write_text(value)
        except OSError as error:
            raise KtoolError(
                f"cannot set {name.replace('/', '.')}", found=str(error), wanted=value, mend="run as root"
            ) from error
        log.info("set %s to %s (was %s)", name, value, old)
        return True

    def restore(self) -> None:
        """Give every setting back its old value and forget the record; links that are gone took theirs along."""
        for name, old in self._remembered().items():
            try:
                (self._root / name).write_text(old)
            except FileNotFoundError:
                log.debug("%s is gone, nothing to restore", name)
        self._record.unlink(missing_ok=True)

    def _remembered(self) -> dict[str, str]:
        try:
            found = orjson.loads(self._record.read_bytes())
        except FileNotFoundError:
            return {}
        except orjson.JSONDecodeError as error:
            raise KtoolError(
                f"the record of changed kernel settings is damaged: {self._record}",
                found=str(error),
                mend="set the values listed there by hand and delete the file",
            ) from error
        return {str(name): str(value) for name, value in found.items()}

    def _remember(self, values: dict[str, str]) -> None:
        write_atomic(self._record, orjson.dumps(values, option=orjson.OPT_INDENT_2))
