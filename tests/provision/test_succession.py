"""A program that goes on as a new process, as systemd sees it (kube.late_arguments; sd_notify(3): MAINPID)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kube import late_arguments
from provision.services.service import ServiceSpec
from provision.services.systemd import unit_text
from tests import machines
from tests.machines import Host

pytestmark = [
    pytest.mark.machines,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(machines.missing()), reason=machines.missing()),
]

FOLDER = "/var/lib/later"
UNIT = "ktool-later.service"
# Another machine's id is found where the program had found its own before.
PROGRAM = f"""
import os, sys, time
from pathlib import Path
import late_arguments

late_arguments.MACHINE_ID = Path("{FOLDER}/machine-id")
late_arguments.wait(sys.argv[1:], lambda: None)
Path("{FOLDER}/pids").open("a").write(f"{{os.getpid()}} {{os.environ.get('NOTIFY_SOCKET', '')}}\\n")
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with machines.machines(["later"], cidr="10.73.0.0/24") as (made,):
        folder = made.var_lib / "later"
        folder.mkdir()
        (folder / "late_arguments.py").write_text(Path(late_arguments.__file__).read_text())
        (folder / "program.py").write_text(PROGRAM)
        spec = ServiceSpec(
            name="later",
            description="goes on as a new process",
            argv=("/usr/bin/python3", f"{FOLDER}/program.py", f"@{FOLDER}/x.args"),
            log_path=Path(FOLDER, "log"),
            succession=True,
        )
        text = unit_text(spec, prefix="ktool-", data_dir=Path(FOLDER))
        (made.root / "etc/systemd/system" / UNIT).write_text(text)
        yield made


def main_pid(host: Host) -> int:
    return int(host.output(f"systemctl show --value --property=MainPID {UNIT}"))


def handed_over(host: Host) -> tuple[int, int]:
    """Start it, and let it go on in another machine; its pids before and after."""
    host.run(
        f"systemctl stop {UNIT}; systemctl reset-failed {UNIT}; cd {FOLDER} && rm -f pids x.args* && echo a >machine-id"
    )
    host.run(f"systemctl start {UNIT}")
    host.eventually(f"test -e {FOLDER}/x.args.waiting")
    before = main_pid(host)
    host.run(f"cd {FOLDER} && echo b >machine-id && touch x.args")
    host.eventually(f"test -e {FOLDER}/pids && ! kill -0 {before} 2>/dev/null")
    return before, main_pid(host)


def test_a_new_main_process_is_looked_after_as_the_first_one_was(host: Host) -> None:
    before, after = handed_over(host)
    assert before != after
    assert host.output(f"cat {FOLDER}/pids").split() == [str(after)], (
        "one goes on, and its children tell systemd nothing"
    )
    assert host.output(f"systemctl show --value --property=NRestarts {UNIT}") == "0"
    assert host.output(f"ps -o ppid= -p {after}").strip() == "1"
    host.run(f"kill -9 {after}")
    host.eventually(f"test $(wc -l <{FOLDER}/pids) = 2", timeout=10)
    assert host.output(f"systemctl show --value --property=NRestarts {UNIT}") == "1"
    assert main_pid(host) == int(host.output(f"tail -n 1 {FOLDER}/pids").split()[0])


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_it_can_be_stopped(host: Host, verb: str) -> None:
    _, after = handed_over(host)
    host.run(f"systemctl {verb} {UNIT}", timeout=10)
    assert host.run(f"kill -0 {after}", check=False).returncode != 0
    running = host.output(f"pgrep -f {FOLDER}/[p]rogram.py | wc -l")
    assert running == ("0" if verb == "stop" else "1")


def test_stopped_while_it_hands_over_nothing_is_left(host: Host) -> None:
    for pause in ("0", "0.05", "0.1", "0.15"):
        host.run(
            f"systemctl stop {UNIT}; cd {FOLDER} && rm -f pids x.args* && echo a >machine-id; systemctl start {UNIT}"
        )
        host.eventually(f"test -e {FOLDER}/x.args.waiting")
        host.run(
            f"cd {FOLDER} && echo b >machine-id && touch x.args && sleep {pause}; systemctl stop {UNIT}", timeout=20
        )
        assert host.run(f"pgrep -f {FOLDER}/[p]rogram.py", check=False).stdout == ""
