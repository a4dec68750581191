from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.lab_state import LabState


def test_the_identifier_is_made_once(tmp_path: Path) -> None:
    state = LabState(tmp_path / "lab")
    assert state.id == ""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: state.create(), range(32)))
    made = state.id
    assert len(made) == 36
    state.create()
    assert state.id == made
    assert [path.name for path in state.path.iterdir()] == ["id"]
    assert stat.S_IMODE(state.id_file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("noted", "refused"),
    [("", False), ("mine.yml", False), ("gone.yml", False), ("link.yml", False), ("theirs.yml", True)],
)
def test_whose_the_folder_is(tmp_path: Path, noted: str, refused: bool) -> None:
    mine = tmp_path / "mine.yml"
    for name in ("mine.yml", "theirs.yml"):
        (tmp_path / name).touch()
    (tmp_path / "link.yml").symlink_to(mine)
    state = LabState(tmp_path / "lab")
    state.create()
    if noted:
        state.source_file.write_text(f"{tmp_path / noted}\n")
    if refused:
        with pytest.raises(KtoolError, match="another inventory has a lab of the name lab"):
            state.require_source(mine)
        with pytest.raises(KtoolError, match="another inventory has a lab of the name lab") as error:
            state.claim(mine)
        assert "theirs.yml" in error.value.found
        assert "ktool_lab: another-name" in error.value.mend
    else:
        state.require_source(mine)
        assert state.source_file.exists() == bool(noted)
        state.claim(mine)
        state.claim(mine)
        assert Path(state.source_file.read_text().strip()).samefile(mine)


@pytest.mark.parametrize(("left", "refused"), [("providers/nspawn/machines/one/config.json", True), ("runs/1", False)])
def test_it_stays_while_there_are_machines(tmp_path: Path, left: str, refused: bool) -> None:
    state = LabState(tmp_path / "lab")
    state.create()
    (state.provider("libvirt")).mkdir(parents=True)
    (state.path / left).parent.mkdir(parents=True)
    (state.path / left).touch()
    if refused:
        with pytest.raises(KtoolError, match="cannot be removed") as error:
            state.remove()
        assert "left: nspawn" in error.value.found
        assert (state.path / left).exists()
    else:
        state.remove()
        state.remove()
        assert not state.path.exists()
