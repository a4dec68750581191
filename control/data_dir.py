"""The master's data directory: what is where in it, and whether it is one that this version may use.

version.json                 the layout's number and the ktool that wrote it
admin.kubeconfig             for the administrator (0600)
pki/                         ca, apiserver, apiserver-kubelet-client, sa: .crt and .key (0600)
store/state.db               the embedded store
run/                         what lives only as long as the process
"""

from __future__ import annotations

import os
from pathlib import Path

import orjson
from msgspec import Struct

from kube.errors import KtoolError
from kube.files import write_atomic

LAYOUT = 1


class DataDir(Struct, frozen=True):
    """Paths in a master's data directory."""

    root: Path

    @property
    def version_file(self) -> Path:
        return self.root / "version.json"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def store(self) -> Path:
        return self.root / "store" / "state.db"

    @property
    def admin_kubeconfig(self) -> Path:
        return self.root / "admin.kubeconfig"

    def kubeconfig(self, component: str) -> Path:
        """Kubeconfig of a part of the control plane that runs in a process of its own."""
        return self.root / "run" / f"{component}.kubeconfig"

    def prepare(self) -> None:
        """Make the directory, or check that it is one of ours. KtoolError if it is not, or not of this version."""
        try:
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.pki.mkdir(mode=0o755, exist_ok=True)
            (self.root / "run").mkdir(mode=0o700, exist_ok=True)
            self._check_version()
        except OSError as error:
            raise KtoolError(
                f"the data directory {self.root} cannot be used",
                found=error.strerror or str(error),
                wanted="a directory that this user can write to",
                mend="Run the master as root, or give it another directory (--data-dir)",
            ) from error

    def _check_version(self) -> None:
        try:
            found = orjson.loads(self.version_file.read_bytes())
            layout, by = found["layout"], found.get("ktool", "unknown")
        except FileNotFoundError:
            if self.store.exists():
                raise KtoolError(
                    f"{self.root} holds a store, but nothing says which version wrote it",
                    found=f"no {self.version_file.name}",
                    wanted=f"layout {LAYOUT}",
                    mend="Restore version.json beside it, or move the directory away to start with an empty cluster",
                ) from None
            data = {"layout": LAYOUT, "ktool": os.environ.get("KTOOL_VERSION", "")}
            write_atomic(self.version_file, orjson.dumps(data) + b"\n")
            return
        except (orjson.JSONDecodeError, KeyError, TypeError):
            layout, by = "none that can be read", "unknown"
        if layout != LAYOUT:
            raise KtoolError(
                f"{self.root} holds the state of another version of ktool",
                found=f"layout {layout}, written by ktool {by}",
                wanted=f"layout {LAYOUT}",
                mend="Run the version that wrote it, or move the directory away to start with an empty cluster",
            )
