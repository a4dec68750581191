"""What a program is told by its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.local_cluster.program import Program
from provision.services.service import ServiceSpec

SPEC = ServiceSpec(name="agent", description="agent", argv=("/bin/true",), log_path=Path("/l"))


def test_told_once_and_otherwise(tmp_path: Path) -> None:
    program = Program(SPEC, tmp_path / "agent.args", ("--label=a=b", "--node-name", ""))
    assert (program.told, program.differs()) == (False, False)
    program.tell()
    assert program.arguments_file.read_text() == "--label=a=b\n--node-name\n\n"
    assert (program.told, program.differs()) == (True, False)
    before = program.arguments_file.stat().st_mtime_ns
    program.tell()
    assert program.arguments_file.stat().st_mtime_ns == before
    other = Program(SPEC, program.arguments_file, ("--label=a=c",))
    assert (other.told, other.differs()) == (True, True)
    other.tell()
    assert program.differs()


@pytest.mark.parametrize("word", ["a\nb", "a\n", "a\rb", "a\u2028b"])
def test_a_setting_that_would_become_two(tmp_path: Path, word: str) -> None:
    program = Program(SPEC, tmp_path / "agent.args", (word,))
    with pytest.raises(KtoolError, match="the agent cannot be told this setting"):
        program.tell()
    assert not program.told
