"""Inventories in Ansible's formats, read by Ansible's own code, and errors with file, line, host and variable."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.inventory.ansible_source import environment, load
from provision.inventory.finding import NAMED_HOSTS, InventoryError
from provision.inventory.lab import Taint
from provision.inventory.read import read

GOOD = """
    all:
      vars:
        ktool_provider: libvirt
        base: 512
        ktool_memory_mib: "{{ base * 2 }}"
      children:
        masters:
          hosts:
            m1:
              ktool_address: 192.168.150.10
        workers:
          hosts:
            w[1:3]:
          vars:
            ktool_labels:
              example.com/name: "{{ inventory_hostname }}"
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder / next(iter(files))


def errors_of(path: Path) -> list[str]:
    with pytest.raises(InventoryError) as raised:
        read(path)
    return [str(finding) for finding in raised.value.findings]


def test_yaml_with_ranges_children_and_templates(tmp_path: Path) -> None:
    lab = read(write(tmp_path, {"lab.yml": GOOD}))
    assert lab.name == "lab"
    assert lab.source == tmp_path / "lab.yml"
    assert [machine.name for machine in lab.machines] == ["m1", "w1", "w2", "w3"]
    assert {machine.memory_mib for machine in lab.machines} == {1024}
    assert lab.machines[2].labels == {"example.com/name": "w2"}
    assert lab.machines[0].variables["base"] == 512


def test_ini(tmp_path: Path) -> None:
    text = """\
        [masters]
        m1 ansible_host=192.0.2.1 ktool_schedulable=yes

        [workers]
        w[1:2] ktool_taints="a=b:NoSchedule,c:NoExecute"
        [workers:vars]
        ktool_labels="disk=ssd"
        ansible_host="{{ inventory_hostname }}.example.com"
        ansible_port=2222
    """
    lab = read(write(tmp_path, {"hosts": text}))
    assert [machine.name for machine in lab.machines] == ["m1", "w1", "w2"]
    assert lab.machines[1].ssh.address == "w1.example.com"
    assert lab.machines[1].ssh.port == 2222
    assert lab.machines[1].labels == {"disk": "ssd"}
    assert lab.machines[1].taints == (Taint(key="a", value="b"), Taint(key="c", effect="NoExecute"))
    assert lab.machines[0].taints == ()


def test_a_folder_with_group_vars_and_host_vars(tmp_path: Path) -> None:
    folder = tmp_path / "rack"
    write(
        folder,
        {
            "hosts.ini": "[masters]\nm1\n[workers]\nw1\nw2\n",
            "more.yml": "all: {children: {workers: {hosts: {w3: {}}}}}",
            "group_vars/all.yml": "ktool_provider: nspawn\nktool_memory_mib: 700\n",
            "group_vars/workers/sizes.yml": "ktool_memory_mib: 800\n",
            "host_vars/w2.yml": "ktool_memory_mib: 900\n",
        },
    )
    lab = read(folder)
    assert lab.name == "rack"
    assert {m.name: m.memory_mib for m in lab.machines} == {"m1": 700, "w1": 800, "w2": 900, "w3": 800}


def test_group_vars_beside_a_file_count_and_those_of_the_current_folder_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, {"group_vars/all.yml": "ktool_cpus: 7\n"})
    path = write(tmp_path / "here", {"lab.yml": GOOD, "group_vars/workers.yml": "ktool_cpus: 3\n"})
    monkeypatch.chdir(elsewhere)
    assert [machine.cpus for machine in read(path).machines] == [2, 3, 3, 3]


def test_a_vault_whose_password_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    path = write(tmp_path, {"lab.yml": GOOD, "group_vars/all.yml": "secret_word: hunter2\nktool_cpus: [hunter2]\n"})
    vault = Path(sys.executable).with_name("ansible-vault")
    subprocess.run(
        [vault, "encrypt", "--vault-password-file", password, tmp_path / "group_vars/all.yml"],
        check=True, capture_output=True, timeout=60, env={**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp")},
    )  # fmt: skip
    with pytest.raises(KtoolError, match="vault"):
        read(path)
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(password))
    assert load(path).hosts[0].variables["secret_word"] == "hunter2"
    (error,) = errors_of(path)
    assert "ktool_cpus" in error
    assert "hunter2" not in error


def test_an_inventory_script(tmp_path: Path) -> None:
    script = tmp_path / "made"
    listing = {"masters": {"hosts": ["m"]}, "_meta": {"hostvars": {"m": {"ansible_host": "192.0.2.1"}}}}
    script.write_text(f"#!/bin/sh\necho '{json.dumps(listing)}'\n")
    script.chmod(0o755)
    assert read(script).machines[0].ssh.address == "192.0.2.1"


def test_errors_name_file_line_host_and_variable_and_come_together(tmp_path: Path) -> None:
    text = """\
        all:
          vars:
            ktool_provider: libvirt
            ktool_memroy_mib: 1024
          children:
            masters:
              hosts:
                m1:
                  ktool_cpus: two
            workers:
              hosts:
                w[1:5]:
              vars:
                ktool_image: debian-13
        """
    path = write(tmp_path, {"lab.yml": text, "host_vars/w1.yml": "\nktool_address: 192.168.150.1\n"})
    found = errors_of(path)
    assert found == [
        f"{tmp_path}/host_vars/w1.yml:2: host w1: ktool_address: found 192.168.150.1; wanted another address of"
        " 192.168.150.0/24: the first one is the host's own, the machines' gateway",
        f"{path}:4: hosts m1, w1, w2 and 3 more: ktool_memroy_mib: there is no such variable."
        " Did you mean ktool_memory_mib?",
        f'{path}:9: host m1: ktool_cpus: found "two"; wanted a whole number from 1 to 1024',
        f'{path}:14: hosts w1, w2, w3 and 2 more: ktool_image: found "debian-13"; wanted debian-12, the release that'
        " ktool builds; a path or a URL for any other",
    ]
    assert NAMED_HOSTS == 3


def test_lines_of_ini_files(tmp_path: Path) -> None:
    path = write(tmp_path, {"lab.ini": "[masters]\nm1 ansible_host=192.0.2.1\n[masters:vars]\nktool_api_port=0\n"})
    assert errors_of(path) == [
        f"{path}:4: host m1: ktool_api_port: found 0; wanted a whole number from 1 to 65535",
    ]


def test_paths_below_the_current_folder_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"lab.ini": "[masters]\nm1 ansible_host=192.0.2.1 ktool_cpus=0\n"})
    monkeypatch.chdir(tmp_path)
    assert errors_of(Path("lab.ini"))[0].startswith("lab.ini:2: host m1: ktool_cpus: ")


def test_a_template_that_cannot_be_resolved(tmp_path: Path) -> None:
    path = write(tmp_path, {"lab.yml": GOOD.replace("base * 2", "bass * 2")})
    (error,) = errors_of(path)
    assert f"{path}:6: hosts m1, w1, w2 and 1 more: ktool_memory_mib: its template or vault" in error
    assert "'bass' is undefined" in error


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("lab.yml", "all:\n  hosts:\n   a: [\n", "lab.yml:4"),
        ("lab.yml", "all:\n  hosts:\n   a:\n   b:\n   a:\n", "duplicate mapping key 'a'"),
        ("lab.ini", "[masters\nm1\n", "lab.ini"),
        ("lab.yml", "- a\n", "dict"),
    ],
)
def test_what_ansible_cannot_read(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(KtoolError) as raised:
        read(write(tmp_path, {name: text}))
    assert says in raised.value.found
    assert "ansible-inventory -i" in raised.value.mend


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="there is no inventory"):
        read(tmp_path / "absent.yml")


def test_an_empty_inventory_has_no_master(tmp_path: Path) -> None:
    assert any(
        "there is no master" in error for error in errors_of(write(tmp_path, {"lab.yml": "all:\n  hosts: {}\n"}))
    )


def test_it_leaves_nothing_behind_says_nothing_and_imports_nothing(tmp_path: Path) -> None:
    """In a fresh process, with warnings as errors, a poor locale and a home of its own."""
    path = write(
        tmp_path / "inventory", {"lab.yml": GOOD.replace("m1:", "m1: # ä"), "group_vars/all.yml": "motd: ä€\n"}
    )
    home = tmp_path / "home"
    home.mkdir()
    script = (
        "import sys, signal, locale\n"
        "from pathlib import Path\n"
        "from provision.inventory.read import read\n"
        "before = (signal.getsignal(signal.SIGINT), list(sys.meta_path), locale.setlocale(locale.LC_ALL))\n"
        f"lab = read(Path({str(path)!r}))\n"
        "assert lab.machines[0].variables['motd'] == 'ä€', lab.machines[0].variables\n"
        "assert not [m for m in sys.modules if m.partition('.')[0] in ('ansible', 'jinja2')]\n"
        "assert before == (signal.getsignal(signal.SIGINT), list(sys.meta_path), locale.setlocale(locale.LC_ALL))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C", "PYTHONWARNINGS": "error"},
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
    assert sorted(p.name for p in path.parent.rglob("*")) == ["all.yml", "group_vars", "lab.yml"]


def test_it_is_quick(tmp_path: Path) -> None:
    path = write(tmp_path, {"lab.yml": GOOD})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    read(path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU time, as tests share a machine: 0.6 s, which are as many seconds if nothing else runs
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 2.0


def test_the_users_own_plugins_stay() -> None:
    found = environment({"ANSIBLE_INVENTORY_PLUGINS": "/own", "HOME": "/h"}, Path("/scratch"))
    assert found["ANSIBLE_INVENTORY_PLUGINS"].endswith("plugins:/own")
    assert found["HOME"] == "/h"
    assert found["ANSIBLE_LOCAL_TEMP"] == "/scratch"
