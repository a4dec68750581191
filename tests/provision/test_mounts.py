from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from provision.mounts import below, mount_points, remove_tree

MOUNTINFO = r"""
21 1 0:19 / / rw - ext4 /dev/root rw
30 21 0:22 / /d rw - tmpfs t rw
31 30 0:23 / /d/a\040b rw - tmpfs t rw
32 30 0:24 / /d/a\040b/deep rw - tmpfs t rw
33 21 0:25 / /data rw - tmpfs t rw
34 31 0:26 / /d/a\040b rw - tmpfs again rw
"""


def test_innermost_and_latest_first() -> None:
    points = mount_points(MOUNTINFO.strip())
    assert points == ["/", "/d", "/d/a b", "/d/a b/deep", "/data", "/d/a b"]
    assert below(Path("/d"), points) == ["/d/a b/deep", "/d/a b", "/d/a b", "/d"]
    assert below(Path("/dat"), points) == []


def test_remove_tree(tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to("/etc")
    (tmp_path / "to-etc").symlink_to("/etc")
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "to-etc")
    remove_tree(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
    assert Path("/etc").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_what_is_mounted_is_never_emptied(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("data")
    (tmp_path / "tree" / "volume").mkdir(parents=True)
    code = """
import sys
from pathlib import Path
from kube.errors import KtoolError
from provision.command import run
from provision.mounts import remove_tree, unmount_below
tree, precious = Path(sys.argv[1]), sys.argv[2]
run(["mount", "--bind", precious, str(tree / "volume")])
try:
    remove_tree(tree)
except KtoolError as error:
    assert "mounted below it" in error.found, error
else:
    raise SystemExit("removed")
assert unmount_below(tree, itself=False) == []
run(["mount", "-t", "tmpfs", "own", str(tree)])
(tree / "deep").mkdir()
run(["mount", "-t", "tmpfs", "ours", str(tree / "deep")])
assert unmount_below(tree, itself=False) == [] and tree.is_mount() and not (tree / "deep").is_mount()
assert unmount_below(tree) == [] and not tree.is_mount()
remove_tree(tree)
"""
    subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", sys.executable, "-c", code),
            *(str(tmp_path / "tree"), str(precious)),
        ],
        check=True,
        timeout=30,
    )
    assert (precious / "data").read_text() == "data"
    assert not (tmp_path / "tree").exists()
