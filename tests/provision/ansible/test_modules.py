"""The parts of our Ansible modules that decide, and the script that installs a runtime."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import stat
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.loader import action_loader

from provision.ansible import CONTENT
from provision.bundle.archive import ArchiveRole, Manifest
from provision.bundle.runtime import python_tag, write_layer


def _load(path: str) -> ModuleType:
    """A module of Ansible's content, which is no package."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), CONTENT / f"{path}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _action(name: str) -> ModuleType:
    """The module of an action plugin, by Ansible's own loader."""
    return sys.modules[action_loader.get(name, class_only=True).__module__]


action_loader.add_directory(str(CONTENT / "action_plugins"))
action: Any = _action("ktool_runtime")
runtime: Any = _load("library/ktool_runtime")
node: Any = _action("ktool_node")
token: Any = _action("ktool_token")


def _archive(role: str, tag: str = "cp311", arch: str = "x86_64") -> dict[str, Any]:
    return {"path": "/x", "key": f"{role}-{tag}-{arch}", "role": role, "python_tag": tag, "arch": arch}


AGENT, CONTROL = _archive("agent"), _archive("control")


@pytest.mark.parametrize(
    ("role", "found"),
    [("agent", [AGENT, CONTROL]), ("control", [CONTROL])],
)
def test_a_control_planes_runtime_does_for_an_agent(role: str, found: list[dict[str, Any]]) -> None:
    assert action.suitable([CONTROL, AGENT], role) == found


def test_the_archive_is_for_the_machines_python() -> None:
    other = _archive("agent", "cp312")
    assert action.choose([AGENT, other], {"cp39", "cp312"}, "x86_64", role="agent") == other
    assert action.choose([AGENT, other], {"cp39", "cp311"}, "x86_64", role="agent") == AGENT


def test_a_machine_without_a_fitting_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTOOL_CACHE", str(tmp_path))
    with pytest.raises(Exception, match=r"cp39.*cp311, cp312"):
        action.choose([AGENT], {"cp39"}, "x86_64", role="agent")


SEEN = {
    "runtime": "k1",
    "linked": True,
    "joined": True,
    "arch": "x86_64",
    "interpreters": ["cp311"],
    "commands": ["ip"],
}


@pytest.mark.parametrize(
    ("seen", "needs"),
    [
        ({}, None),  # nobody looked
        (SEEN, False),
        ({**SEEN, "runtime": ""}, True),
        ({**SEEN, "runtime": "k2"}, False),
        ({**SEEN, "runtime": "other"}, None),
        ({**SEEN, "linked": False}, None),
        ({**SEEN, "commands": []}, None),
    ],
)
def test_a_look_that_was_taken_is_not_taken_again(seen: dict[str, Any], needs: bool | None) -> None:
    args = {"role": "agent", "keys": ["k1", "k2"], "packages": [{"command": "ip"}]}
    found = action.known(args, seen)
    assert (found and found["needs"]) == needs
    if found:
        assert (found["runtime"], found["joined"], found["changed"]) == (seen["runtime"], True, False)


def test_who_needs_a_token() -> None:
    hostvars: dict[str, Any] = {
        "a": {"ktool_runtime_state": {"joined": True}},
        "b": {"ktool_runtime_state": {"joined": False}, "ktool_node_name": "node-b"},
        "c": {},
        "later": {},
    }
    assert token.joining({"ansible_play_batch": ["a", "b", "c"], "hostvars": hostvars}) == {"b": "node-b", "c": "c"}


def test_whom_a_master_invites_as_it_is_made() -> None:
    seen: dict[str, Any] = {"joined": False}
    hostvars: dict[str, Any] = {
        "m": {"ktool_seen": seen},
        "both": {"ktool_seen": seen},
        "a": {"ktool_seen": seen, "ktool_node_name": "node-a"},
        "b": {"ktool_seen": seen},
        "joined": {"ktool_seen": {"joined": True}},
        "unseen": {},
        "left-out": {"ktool_seen": seen},
    }
    batch = [host for host in hostvars if host != "left-out"]
    groups = {"masters": ["m", "both"], "workers": ["both", "a", "b", "joined", "unseen", "left-out"]}
    found = node.inviting({"ansible_play_hosts_all": batch, "hostvars": hostvars, "groups": groups})
    assert found == {"a": "node-a", "b": "b"}


def test_a_token_that_was_just_made_is_not_told_either(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = node.ActionModule.__new__(node.ActionModule)
    said = '{"joinFiles": ["{\\"token\\": \\"abcdef.0123456789abcdef'  # an answer that was cut
    monkeypatch.setattr(plugin, "_shell", lambda line, stdin: (0, said, ""))
    with pytest.raises(AnsibleActionFail) as caught:
        plugin._ktool(["ktool", "up"])
    assert "0123456789abcdef" not in str(caught.value)
    assert "********" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}\n', [{"a": 1}]),
        ('{\n "a": "}{"}\n{"b": 2}\n', [{"a": "}{"}, {"b": 2}]),
        ("", []),
        ('{"a": 1}\nWarning: x', []),
        ('{"a"', []),
    ],
)
def test_several_join_files_in_one_answer(text: str, found: list[dict[str, Any]]) -> None:
    assert [json.loads(one) for one in token.documents(text)] == found


def test_a_join_file_is_kept_for_its_user_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path))
    path = Path(token.ActionModule.keep('{"token": "t.s"}'))
    assert path.parent == tmp_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == '{"token": "t.s"}'


def test_what_actions_are_made_from_is_none() -> None:
    """No task can name it by mistake: Ansible says that there is no such action."""
    assert action_loader.get("ktool_action", *[None] * 5) is None


@pytest.mark.parametrize(
    ("taint", "written"),
    [
        ("gpu=yes:NoExecute", "gpu=yes:NoExecute"),
        ({"key": "gpu", "value": "yes", "effect": "NoExecute"}, "gpu=yes:NoExecute"),
        ({"key": "gpu", "effect": "NoSchedule"}, "gpu:NoSchedule"),
    ],
)
def test_taints(taint: object, written: str) -> None:
    assert node.written(taint) == written


PARAMS = {
    "state": "up",
    "data_dir": "/var/lib/ktool",
    "name": "m1",
    "address": "10.0.0.1",
    "labels": {"tier": "one", "empty": None},
    "taints": ["gpu:NoSchedule"],
    "ready_timeout": 240,
    "agent": "no",
    "tls_sans": ["lb.example", ""],
    "api_port": 7443,
    "pod_cidr": "10.1.0.0/16",
}
OPTIONS = (
    "--node-name m1 --node-address 10.0.0.1 --supervisor auto --ready-timeout 240 --label empty= --label tier=one "
    "--taint gpu:NoSchedule"
)
MASTERS = "--api-port 7443 --schedulable --no-agent --tls-san lb.example"


@pytest.mark.parametrize(
    ("args", "by_file", "line"),
    [
        ({"state": "up"}, False, f"up {OPTIONS} {MASTERS} --control-plane --pod-cidr 10.1.0.0/16"),
        (
            {"state": "up", "store": "etcd"},
            False,
            f"up {OPTIONS} {MASTERS} --control-plane --store etcd --pod-cidr 10.1.0.0/16",
        ),
        ({"state": "prepared"}, False, f"join {OPTIONS} --prepare --pod-cidr 10.1.0.0/16"),
        ({"state": "joined"}, True, f"join {OPTIONS} -"),
        ({"state": "joined", "server": "https://a:1"}, False, f"join {OPTIONS} --server https://a:1"),
        ({"state": "joined", "control_plane": True}, True, f"join {OPTIONS} --control-plane {MASTERS} -"),
    ],
)
def test_command_lines(args: dict[str, Any], by_file: bool, line: str) -> None:
    params = node.parameters({**PARAMS, **args})
    argv = node.command_line(params, by_file=by_file)
    assert " ".join(argv) == f"/opt/ktool/current/bin/ktool --data-dir /var/lib/ktool {line}"


@pytest.mark.parametrize(
    ("args", "message"),
    [({"state": "on"}, "state: found 'on'"), ({"state": "up", "adress": "x"}, "unknown parameters: adress")],
)
def test_wrong_parameters(args: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleActionFail, match=message):
        node.parameters(args)


def test_what_ktool_reports_is_the_result() -> None:
    out = 'some text\n{"changed": true, "steps": [], "node": "m1"}\n'
    assert node.told(0, out, "") == {"changed": True, "steps": [], "node": "m1"}


@pytest.mark.parametrize(
    ("out", "err", "message"),
    [
        (
            json.dumps({"error": {"what": "no memory", "found": "1 MiB", "wanted": "512 MiB", "mend": "Add some."}}),
            "",
            "no memory (found: 1 MiB; wanted: 512 MiB). Add some.",
        ),
        ("", "Traceback...\nKeyError: 1", "Traceback...\nKeyError: 1"),
        ("", "", "ktool ended with status 1"),
    ],
)
def test_failures_of_ktool(out: str, err: str, message: str) -> None:
    with pytest.raises(AnsibleActionFail) as caught:
        node.told(1, out, err)
    assert caught.value.message == message


def test_secrets_of_a_join_file_are_not_told() -> None:
    key = "-----BEGIN KEY-----\nabc\n"
    join = json.dumps({"token": "t.s", "controlPlane": {"files": {"ca.key": key, "ca.crt": "public"}}})
    said = json.dumps({"error": {"what": f"wrong: t.s {key} public"}})
    assert node.without(said, node.secrets_of(join)) == '{"error": {"what": "wrong: ******** ******** public"}}'
    assert node.without(key, node.secrets_of(join)) == "********"
    assert node.secrets_of("") == set()
    assert node.secrets_of("no JSON") == {"no JSON"}


@pytest.mark.parametrize("has_runtime", [True, False])
def test_what_remains_of_packages_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_runtime: bool) -> None:
    """Also on a load balancer, where there is a record of packages and no runtime."""
    folder = tmp_path / "ktool"
    folder.mkdir()
    (folder / "packages.json").write_text('["haproxy"]\n')
    ktool = folder / "bin"
    if has_runtime:
        ktool.write_text('#!/bin/sh\necho \'{"changed": false, "removed": []}\'\n')
        ktool.chmod(0o755)
    monkeypatch.setattr(node, "KTOOL", str(ktool))
    monkeypatch.setattr(node, "PACKAGES_FILE", str(folder / "packages.json"))
    monkeypatch.setattr(node, "_LINK", "true")
    monkeypatch.setattr(node, "_RUNTIMES", node._RUNTIMES.replace("/opt/ktool", str(folder)))

    def shell(line: str, stdin: bytes = b"") -> tuple[int, str, str]:
        done = subprocess.run(["/bin/sh", "-c", line], input=stdin, capture_output=True, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    plugin = node.ActionModule.__new__(node.ActionModule)
    monkeypatch.setattr(plugin, "_shell", shell, raising=False)
    result = plugin._absent(node.parameters({"state": "absent"}))
    assert result["remains"] == ["packages that ktool installed: haproxy"]
    assert result["changed"] is True
    assert result.get("removed") == ([] if has_runtime else None)
    assert not folder.exists()
    again = plugin._absent(node.parameters({"state": "absent"}))
    assert (again["changed"], again["remains"]) == (False, [])


def test_links_are_changed_in_one_step(tmp_path: Path) -> None:
    link = tmp_path / "bin" / "current"
    assert runtime.link("one", str(link))
    assert not runtime.link("one", str(link))
    assert runtime.link("two", str(link))
    assert link.readlink() == Path("two")
    link.unlink()
    link.write_text("a file of somebody else's")
    assert runtime.link("two", str(link))


def test_the_runtime_in_use_and_the_one_before_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "RUNTIMES", str(tmp_path))
    monkeypatch.setattr(runtime, "CURRENT", str(tmp_path / "current"))
    monkeypatch.setattr(runtime, "COMMAND", str(tmp_path / "command"))
    (tmp_path / "packages.json").write_text("[]")
    (tmp_path / "one").mkdir()
    assert runtime.use("one") is True
    for name in ("two", "three", ".new-abandoned"):
        (tmp_path / name).mkdir()
    assert runtime.use("two") is True
    assert runtime.use("two") is False
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()) == [
        "one",
        "two",
    ]
    assert (tmp_path / "packages.json").exists()


def test_a_runtime_without_its_interpreter_is_none(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"key": "abc"}')
    assert runtime.read_manifest(str(tmp_path)) == {}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/bin/sh")
    assert runtime.read_manifest(str(tmp_path)) == {"key": "abc"}
    (tmp_path / "manifest.json").write_text("{")
    assert runtime.read_manifest(str(tmp_path)) == {}


def _packed(key: str, files: dict[str, bytes]) -> tuple[dict[str, Any], bytes]:
    """A small runtime: what is said of it, and its archive."""
    manifest = Manifest(key=key, role=ArchiveRole.AGENT, version="1", python_tag=python_tag(), arch="x86_64")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        write_layer(tar, manifest, [(PurePosixPath(name), data) for name, data in files.items()])
    described = {"key": key, "python_tag": manifest.python_tag, "arch": "x86_64", "compiled": True}
    return described, gzip.compress(packed.getvalue())


def _installed(folder: Path, key: str, files: dict[str, bytes], *, cut: int | None = None) -> tuple[int, str, str]:
    """Status and outputs of the script with a runtime (of which only `cut` bytes arrive)."""
    archive, data = _packed(key, files)
    text = action.script(archive, runtimes=str(folder / "opt"), command=str(folder / "bin/ktool"))
    done = subprocess.run(["sh", "-c", text], input=data[:cut], capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_runtime_is_installed_from_standard_input(tmp_path: Path) -> None:
    library = Path("/proc/self/maps").read_text().split("libc.so.6")[0].rsplit(maxsplit=1)[-1] + "libc.so.6"
    files = {"ktool/__init__.py": b"", "some/native.so": Path(library).read_bytes()}
    (tmp_path / "opt/.new-abandoned").mkdir(parents=True)
    (tmp_path / "opt/packages.json").write_text("[]")
    for key in ("one", "two", "three"):
        assert _installed(tmp_path, key, files) == (0, "", "")
        assert runtime.read_manifest(str(tmp_path / "opt/current"))["key"] == key
    assert (tmp_path / "bin/ktool").readlink() == tmp_path / "opt/current/bin/ktool"
    # The one before stays.
    assert {path.name for path in (tmp_path / "opt").iterdir()} == {"two", "three", "current", "packages.json"}
    # What an interrupted run has left in the place is replaced.
    (tmp_path / "opt/current").unlink()
    (tmp_path / "opt/three/manifest.json").unlink()
    assert _installed(tmp_path, "three", files)[0] == 0
    assert runtime.read_manifest(str(tmp_path / "opt/three"))["key"] == "three"


@pytest.mark.parametrize(
    ("files", "cut", "message"),
    [
        ({"a.py": b""}, 100, "ktool's runtime cannot be unpacked (found: "),
        (
            {"some/native.so": b"\x7fELF for another machine"},
            None,
            "ktool's runtime does not run on this machine (found: ",
        ),
    ],
)
def test_a_runtime_that_cannot_be_used_leaves_nothing(
    tmp_path: Path, files: dict[str, bytes], cut: int | None, message: str
) -> None:
    assert _installed(tmp_path, "one", {"ktool/__init__.py": b""})[0] == 0
    status, out, err = _installed(tmp_path, "two", files, cut=cut)
    error = action.problem(status, out, err, AGENT)
    assert action.Base.sentence(error).startswith(message), error
    assert {path.name for path in (tmp_path / "opt").iterdir()} == {"one", "current"}
    assert runtime.read_manifest(str(tmp_path / "opt/current"))["key"] == "one"


def test_no_room_for_a_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action, "NEEDED_MB", 10**12)
    status, out, err = _installed(tmp_path, "one", {"a.py": b"x" * 10**6})
    error = action.problem(status, out, err, AGENT)
    assert action.Base.sentence(error).startswith("there is no room for ktool's runtime (found: ")
    assert list((tmp_path / "opt").iterdir()) == []


def test_every_package_has_a_name_for_each_family() -> None:
    defaults = yaml.safe_load((CONTENT / "roles/common/defaults/main.yml").read_text())
    assert defaults["ktool_packages"]
    for package in defaults["ktool_packages"]:
        assert set(package) == {"command", "debian", "redhat"}
        assert package["debian"]
        assert package["redhat"]


@pytest.mark.parametrize("playbook", sorted(CONTENT.glob("*.yml")), ids=lambda path: path.stem)
def test_playbooks_gather_no_facts(playbook: Path) -> None:
    for play in yaml.safe_load(playbook.read_text()):
        assert play["gather_facts"] is False
        assert play["become"] is True
