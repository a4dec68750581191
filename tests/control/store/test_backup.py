"""Objects out of one store and into another, of any engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from control.store import backup
from control.store.sqlite import SqliteStore
from kube.errors import KtoolError
from tests.contract.store_engines import ENGINES, running


@pytest.mark.parametrize("into", ENGINES)
@pytest.mark.parametrize("out_of", ENGINES)
async def test_all_objects_as_of_one_revision(out_of: str, into: str, tmp_path: Path) -> None:
    objects = {f"/registry/pods/ns/p{n}": json.dumps({"n": n, "text": "ä\\n\n"}).encode() for n in range(130)}
    with running(out_of) as engine, running(into) as other:
        store = await engine(tmp_path / "a")
        for key, value in objects.items():
            await store.put(key, value)
        lease = await store.grant_lease(60)
        await store.put("/registry/events/ns/e", b"{}", lease=lease)
        await store.put("/masterleases/192.0.2.1", b"x")
        lines: list[bytes] = []
        dumped = await backup.dump(store, lines.append)
        assert dumped == backup.Dumped(130, await store.revision())
        await store.close()

        fresh = await other(tmp_path / "b")
        assert await backup.load(fresh, lines) == 130
        assert {kv.key: kv.value for kv in (await fresh.range("")).items} == objects
        with pytest.raises(KtoolError, match="not empty"):
            await backup.load(fresh, lines)
        await fresh.close()


async def test_what_changes_meanwhile_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "PAGE", 2)
    store = await SqliteStore.open(tmp_path / "state.db")
    for name in "abcde":
        await store.put(f"/registry/x/{name}", b"1")

    class Meddling:
        """Changes what comes next whenever a page has been read."""

        async def range(self, prefix: str, **how: object) -> object:
            page = await store.range(prefix, **how)  # type: ignore[arg-type]
            await store.put("/registry/x/e", b"2")
            await store.put("/registry/x/f", b"2")
            return page

    lines: list[bytes] = []
    await backup.dump(Meddling(), lines.append)  # type: ignore[arg-type]
    assert [json.loads(line) for line in lines] == [{"key": f"/registry/x/{n}", "value": 1} for n in "abcde"]
    await store.close()


@pytest.mark.parametrize("line", [b"{", b'{"key": "/registry/a"}', b'{"key": "/other/a", "value": {}}'])
async def test_a_damaged_line_is_told(line: bytes, tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "state.db")
    with pytest.raises(KtoolError, match="damaged"):
        await backup.load(store, [b'{"key": "/registry/b", "value": {}}', line])
    await store.close()
