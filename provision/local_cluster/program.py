"""A program of ktool's as a service, whose arguments are in a file.

The unit is the same on every machine, so a program can be started before its machine's settings are known: it waits
for the file (kube.late_arguments).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kube.errors import KtoolError
from kube.files import write_atomic
from provision.services.service import ServiceSpec


@dataclass(frozen=True, slots=True)
class Program:
    """A service, and the `arguments` that its process reads from `arguments_file`."""

    spec: ServiceSpec
    arguments_file: Path
    arguments: tuple[str, ...]

    @property
    def told(self) -> bool:
        """Whether its process has been told what to do, if not the same as here."""
        return self.arguments_file.exists()

    def differs(self) -> bool:
        """Whether its process was told otherwise."""
        return self.told and self.arguments_file.read_text() != self._text()

    def tell(self) -> None:
        """Write the file. KtoolError for an argument that does not fit on a line."""
        for word in self.arguments:
            if word and word.splitlines() != [word]:
                raise KtoolError(
                    f"the {self.spec.name} cannot be told this setting",
                    found=repr(word),
                    wanted="a text without line breaks",
                )
        if not self.told or self.differs():
            write_atomic(self.arguments_file, self._text().encode())

    def _text(self) -> str:
        return "".join(f"{word}\n" for word in self.arguments)
