"""The command line by itself: help that teaches, lazy imports, errors without tracebacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ktool.cli import SECTIONS, cli

HEAVY = (
    "aiohttp",
    "docker",
    "psutil",
    "numpy",
    "msgspec",
    "yaml",
    "rich",
    "cryptography",
    "control",
    "agent",
    "provision",
)


def invoke(*arguments: str, **more: Any) -> Result:
    return CliRunner().invoke(cli, [*arguments], prog_name="ktool", **more)


@pytest.mark.parametrize("command", [name for section in SECTIONS.values() for name in section])
def test_every_command_explains_itself(command: str) -> None:
    found = invoke(command, "--help")
    assert found.exit_code == 0, found.output
    assert f"ktool {command}" in found.output
    assert len(found.output.splitlines()) > 4


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from ktool.cli import cli;"
        "r = CliRunner().invoke(cli, ['--help']); assert r.exit_code == 0;"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("way", [("--lab", "x.yml"), ("--via", "ssh://x")])
@pytest.mark.parametrize("command", ["up", "join", "down", "reset", "image"])
def test_what_concerns_this_machine_goes_nowhere_else(way: tuple[str, str], command: str) -> None:
    found = invoke(*way, command)
    assert found.exit_code == 2
    assert f"`ktool {command}` does not work through {way[0]}" in found.output


def test_certificates_of_a_machine_that_makes_no_labs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a lab's machines get installed is without provision.lab."""
    for name in [name for name in sys.modules if name.startswith("provision.lab.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "provision.lab", None)
    found = invoke("--data-dir", str(tmp_path), "certs")
    assert "there are no certificates here" in found.output


def test_a_misspelt_command_gets_the_closest_one() -> None:
    found = invoke("aply")
    assert found.exit_code == 2
    assert "Did you mean 'apply'?" in found.output


def test_no_kubeconfig_says_what_was_looked_for_and_what_to_do(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.kubeconfig"
    found = invoke("--kubeconfig", str(missing), "get", "pods")
    assert found.exit_code == 1
    assert str(missing) in found.output
    assert "Traceback" not in found.output


def test_no_server_says_where_it_was_looked_for(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n"
        "users: [{name: u, user: {token: t}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
    )
    found = invoke("--kubeconfig", str(config), "version")
    assert found.exit_code == 1
    for words in ("the API server cannot be reached", "https://127.0.0.1:1", str(config), "ktool up"):
        assert words in found.output
    assert "Traceback" not in found.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    found = invoke("completion", shell)
    assert found.exit_code == 0
    assert "_KTOOL_COMPLETE" in found.output


def test_images_go_to_the_engine_that_the_agent_uses(tmp_path: Path) -> None:
    note = '{"cluster": "c", "nodeName": "n", "runtime": "docker", "dockerSocket": "%s", "network": "k", "bridge": "b",'
    note += '"clusterCidr": "", "serviceCidr": "", "cgroupParent": "", "proxy": true}'
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "agent.json").write_text(note.replace("%s", str(tmp_path / "own.sock")))
    found = invoke("--data-dir", str(tmp_path), "image", "list")
    assert found.exit_code == 1
    assert str(tmp_path / "own.sock") in found.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("join", "--api-port", "7443", "x.json"), "--api-port is for masters"),
        (("join", "--no-agent", "x.json"), "--agent is for masters"),
        (("token", "create", "--control-plane"), "wants --join-file"),
        (("up", "--store", "consul"), "'sqlite', 'etcd'"),
    ],
)
def test_options_of_masters(arguments: tuple[str, ...], says: str) -> None:
    found = invoke(*arguments)
    assert found.exit_code == 2, found.output
    assert says in found.output
