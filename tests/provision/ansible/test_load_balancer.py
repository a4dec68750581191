from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from provision.ansible import CONTENT
from provision.ansible.hosts import Host
from provision.ansible.run import run
from provision.lab_state import LabState


@pytest.mark.skipif(not shutil.which("haproxy"), reason="HAProxy is not installed")
def test_haproxy_takes_the_configuration(tmp_path: Path) -> None:
    target = tmp_path / "haproxy.cfg"
    playbook = tmp_path / "render.yml"
    template = CONTENT / "roles/load_balancer/templates/haproxy.cfg.j2"
    playbook.write_text(
        f"- hosts: load_balancers\n  gather_facts: false\n  roles: [common]\n  tasks:\n"
        f"    - ansible.builtin.template: {{src: {template}, dest: {target}}}\n"
    )
    hosts = [
        Host(name="m1", endpoint=None, groups=("masters",), variables={"ktool_node_address": "192.0.2.1"}),
        Host(name="m2", endpoint=None, groups=("masters",), variables={"ktool_address": "192.0.2.2"}),
        Host(name="lb", endpoint=None, groups=("load_balancers",), variables={"ktool_api_port": 7443}),
    ]
    result = run(str(playbook), hosts, state=LabState(tmp_path / "lab"))
    assert not result.failed
    text = target.read_text()
    assert "bind :7443" in text
    assert "server m1 192.0.2.1:7443" in text
    assert "server m2 192.0.2.2:7443" in text
    done = subprocess.run(["haproxy", "-c", "-f", str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("there", "before", "wanted"),
    [
        ("mine\n", None, "mine\n"),
        ("# Written by ktool: x\n", "mine\n", "mine\n"),
        ("# Written by ktool: x\n", None, None),
        (None, None, None),
    ],
)
def test_what_was_there_before_comes_back(
    tmp_path: Path, there: str | None, before: str | None, wanted: str | None
) -> None:
    target, kept = tmp_path / "haproxy.cfg", tmp_path / "haproxy.cfg.before-ktool"
    for path, text in ((target, there), (kept, before)):
        if text is not None:
            path.write_text(text)
    playbook = tmp_path / "absent.yml"
    playbook.write_text(
        f"- hosts: load_balancers\n  gather_facts: false\n  vars: {{ktool_haproxy_file: {target},"
        f" ktool_load_balancer_state: absent}}\n  roles: [load_balancer]\n"
    )
    # There is no systemd here that could restart anything: that task may fail, after the files are as they were.
    run(str(playbook), [Host(name="lb", endpoint=None, groups=("load_balancers",))], state=LabState(tmp_path / "lab"))
    assert (target.read_text() if target.exists() else None) == wanted
    assert not kept.exists()
