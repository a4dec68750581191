"""ansible-runner for real, on this machine's own connection, with playbooks that change nothing."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.ansible.events import RunEvent, TaskState
from provision.ansible.hosts import Host
from provision.ansible.run import POLL_SECONDS, configuration, new_log, playbook_path, prune, run
from provision.lab_state import LabState

HERE = Host(name="here", endpoint=None, groups=("masters",), variables={"mine": "very-secret-variable"})
PLAYBOOK = """
- hosts: all
  gather_facts: false
  become: true
  tasks:
    - name: What Ansible is
      ansible.builtin.command: env
      register: seen
      changed_when: given == "very-secret-extra"
      no_log: true
    - name: Settings
      ansible.builtin.debug:
        msg: "{{ lookup('config', 'DEFAULT_LOCAL_TMP') }} {{ lookup('config', 'DEFAULT_FORKS') }}"
    - name: Fails
      when: fails | default(false)
      ansible.builtin.command: sh -c 'echo "no such thing" >&2; exit 3'
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a user who has an Ansible of his own."""
    path = tmp_path / "home"
    path.mkdir()
    (path / ".ansible.cfg").write_text("[defaults]\nforks = 77\nstdout_callback = does.not.exist\n")
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("ANSIBLE_STRATEGY", "no-such-strategy")
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def state(tmp_path: Path) -> LabState:
    return LabState(tmp_path / "lab")


def _playbook(folder: Path, text: str = PLAYBOOK) -> str:
    path = folder / "probe.yml"
    path.write_text(text)
    return str(path)


def test_events_result_and_what_stays(
    tmp_path: Path, home: Path, state: LabState, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[RunEvent] = []
    monkeypatch.setattr(tempfile, "tempdir", str(short_dir))
    result = run(
        _playbook(tmp_path), [HERE], state=state, extra_vars={"given": "very-secret-extra"}, on_event=events.append
    )
    host = result.hosts["here"]
    assert (host.ok, host.changed, host.skipped, host.failed) == (2, 1, 1, False)
    assert result.changed == 1
    told = [(event.task, event.state) for event in events]
    assert told[:3] == [
        ("What Ansible is", TaskState.STARTED),
        ("What Ansible is", TaskState.OK),  # what a task with no_log did is seen in the numbers only
        ("Settings", TaskState.STARTED),
    ]
    assert result.log.parent == state.runs
    assert result.log.name.endswith("Z-probe")
    assert stat.S_IMODE(state.runs.stat().st_mode) == 0o700
    assert "PLAY RECAP" in (result.log / "stdout").read_text()
    kept = "".join(path.read_text() for path in result.log.rglob("*") if path.is_file())
    assert "very-secret" not in kept
    assert "no-such-strategy" not in kept
    # The user's own Ansible was neither asked nor written to.
    assert sorted(path.name for path in home.rglob("*")) == [".ansible.cfg"]
    settings = next(text for text in kept.splitlines() if '"msg"' in text and "local" in text)
    assert " 10" in settings
    assert " 77" not in settings
    assert not list(short_dir.iterdir())


def test_settings_that_no_variable_sets(tmp_path: Path, home: Path, state: LabState) -> None:
    """What has to be in an ansible.cfg gets there, beside what those who run Ansible by hand have."""
    seen = f"""
- hosts: all
  gather_facts: false
  tasks:
    - name: As wanted
      ansible.builtin.assert:
        that: lookup('config', 'DEFAULT_INTERNAL_POLL_INTERVAL') == {POLL_SECONDS}
"""
    assert run(_playbook(tmp_path, seen), [HERE], state=state).hosts["here"].ok == 1
    assert "timeout = 15" in configuration("[defaults]\ntimeout = 15\n[ssh_connection]\nssh_args = -o A=%h\n")
    assert "ssh_args = -o A=%h" in configuration("[defaults]\n[ssh_connection]\nssh_args = -o A=%h\n")


def test_a_failure_is_in_the_result(tmp_path: Path, home: Path, state: LabState) -> None:
    other = Host(name="there", endpoint=None, groups=("workers",))
    failing = Host(name="here", endpoint=None, variables={"fails": True})
    result = run(_playbook(tmp_path), [failing, other], state=state, extra_vars={"given": ""})
    assert list(result.failed) == ["here"]
    (failure,) = result.hosts["here"].failures
    assert (failure.task, failure.message) == ("Fails", "no such thing")
    assert result.hosts["there"].ok == 2


def test_check_and_limit(tmp_path: Path, home: Path, state: LabState) -> None:
    hosts = [HERE, Host(name="there", endpoint=None)]
    result = run(_playbook(tmp_path), hosts, state=state, extra_vars={"given": ""}, check=True, limit=["there"])
    assert list(result.hosts) == ["there"]
    assert result.hosts["there"].skipped == 2


def test_a_playbook_that_ansible_refuses(tmp_path: Path, home: Path, state: LabState) -> None:
    with pytest.raises(KtoolError, match="could not run") as caught:
        run(_playbook(tmp_path, "- hosts: all\n  no_such_keyword: 1\n"), [HERE], state=state)
    assert "no_such_keyword" in caught.value.found


def test_there_is_no_such_playbook(state: LabState) -> None:
    with pytest.raises(KtoolError, match="no such playbook") as caught:
        playbook_path("sight")
    assert caught.value.wanted == "reset, site, upgrade"


def test_cancelled(tmp_path: Path, home: Path, state: LabState) -> None:
    """Nothing runs on when the run was cancelled."""
    mark = f"31.{os.getpid()}"
    text = f"- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.command: sleep {mark}\n"
    cancel = threading.Event()

    def on_event(event: RunEvent) -> None:
        cancel.set()

    started = time.monotonic()
    with pytest.raises(KtoolError, match="cancelled"):
        run(_playbook(tmp_path, text), [HERE], state=state, on_event=on_event, cancel=cancel)
    assert time.monotonic() - started < 25
    deadline = time.monotonic() + 5
    while _running(mark):
        assert time.monotonic() < deadline, "Ansible's command lives on"
        time.sleep(0.1)


def _running(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words and b"sleep" in words[0]:
            found.append(path.parent.name)
    return found


def test_logs_are_kept_for_a_while(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    made = [new_log(runs, "site") for _ in range(4)]
    assert len(set(made)) == 4
    prune(runs, kept=2)
    assert len(list(runs.iterdir())) == 2
