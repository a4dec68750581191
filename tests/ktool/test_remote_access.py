"""`--via`, `--lab` and `ktool tunnel`: the real command line, a real sshd, a real master."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ktool.cli import ON_THIS_MACHINE, cli
from tests.control import master_process
from tests.control.master_process import MasterProcess
from tests.ports import free_port
from tests.sshd import Server, User, missing, public_folder, sshd

needs_sshd = pytest.mark.skipif(bool(missing(users=True)), reason=missing(users=True) or "-")
SECONDS = 60


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MasterProcess]:
    started = master_process.start(tmp_path_factory.mktemp("master") / "data")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    users = {
        "admin": User(sudo="ALL=(ALL) NOPASSWD: ALL"),
        "plain": User(),
        "typist": User("right word", sudo="ALL=(ALL) ALL"),
    }
    config = ["PasswordAuthentication yes"]
    with public_folder() as folder, sshd(folder, users=users, config=config) as started:
        yield started


class Ktool:
    """The command line of a user whose SSH configuration knows the host `master`."""

    def __init__(self, home: Path, server: Server) -> None:
        self.home = home
        (home / ".ssh").mkdir(parents=True)
        (home / ".ssh" / "config").write_text(
            f"Host master\n  HostName 127.0.0.1\n  Port {server.port}\n  User root\n"
            f"Host *\n  IdentityFile {server.identity}\n"
        )
        self.known_hosts = home / ".ssh" / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{server.port} {server.host_key}\n")
        run = home / "run"
        run.mkdir()
        keep = {name: value for name, value in os.environ.items() if name not in ("SSH_AUTH_SOCK", "KUBECONFIG")}
        self.environment = keep | {"HOME": str(home), "XDG_RUNTIME_DIR": str(run), "KTOOL_LABS": str(home / "labs")}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "ktool", *arguments]

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            start_new_session=True,  # no terminal, so nothing is asked
        )

    def left(self) -> list[Path]:
        """What is left of tunnels."""
        return list((self.home / "run").iterdir())


@pytest.fixture
def ktool(tmp_path: Path, server: Server) -> Ktool:
    return Ktool(tmp_path / "home", server)


@needs_sshd
def test_everything_goes_through(ktool: Ktool, master: MasterProcess) -> None:
    via = ["--via", "ssh://master", "--data-dir", str(master.data_dir)]
    direct = ktool("--kubeconfig", str(master.kubeconfig), "get", "namespaces", "-o", "name")
    through = ktool(*via, "get", "namespaces", "-o", "name")
    assert (through.returncode, through.stdout, through.stderr) == (0, direct.stdout, "")
    assert "namespace/kube-system" in through.stdout
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: far}\ndata: {big: " + "x" * 200_000 + "}\n"
    assert "configmap/far created" in ktool(*via, "apply", "-f", "-", stdin=manifest).stdout
    shown = ktool(*via, "get", "configmap", "far", "-o", "yaml")
    assert len(yaml.safe_load(shown.stdout)["data"]["big"]) == 200_000
    assert ktool(*via, "delete", "configmap", "far").returncode == 0
    assert ktool.left() == []


@needs_sshd
def test_a_user_who_reads_it_by_sudo_or_not_at_all(ktool: Ktool, server: Server, master: MasterProcess) -> None:
    data = ["--data-dir", str(master.data_dir)]
    found = ktool("--via", f"ssh://admin@127.0.0.1:{server.port}", *data, "get", "namespaces")
    assert (found.returncode, found.stderr) == (0, "")
    refused = ktool("--via", f"ssh://plain@127.0.0.1:{server.port}", *data, "get", "namespaces")
    assert refused.returncode == 1
    assert "the kubeconfig on the other machine cannot be read" in refused.stderr
    assert "a password is required" in refused.stderr
    assert ktool.left() == []


@needs_sshd
def test_passwords_are_asked_for_on_the_terminal(ktool: Ktool, server: Server, master: MasterProcess) -> None:
    (ktool.home / ".ssh" / "config").write_text("")
    via = ["--via", f"ssh://typist@127.0.0.1:{server.port}", "--data-dir", str(master.data_dir)]
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *ktool.command(*via, "get", "namespaces", "-o", "name")],
        env=ktool.environment,
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(end)
    try:
        shown = ""
        for question, answer in (("Password for typist@", "right word"), ("sudo password for typist@", "right word")):
            while question not in shown:
                shown += os.read(terminal, 1000).decode()
            shown = ""
            os.write(terminal, answer.encode() + b"\n")
        output, said = process.communicate(timeout=SECONDS)
    finally:
        os.close(terminal)
        process.kill()
        process.wait()
    assert (process.returncode, said) == (0, "")
    assert "namespace/default" in output


@needs_sshd
def test_the_servers_name_is_the_remote_kubeconfigs(ktool: Ktool, master: MasterProcess, tmp_path: Path) -> None:
    """The tunnel ends at 127.0.0.1, the certificate is checked for what stands in the kubeconfig there."""
    config = yaml.safe_load(master.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    cluster["server"] = f"https://localhost:{master.port}"
    # files of the other machine, by relative paths
    (tmp_path / "ca.crt").write_bytes((master.data_dir / "pki" / "ca.crt").read_bytes())
    del cluster["certificate-authority-data"]
    cluster["certificate-authority"] = "ca.crt"
    (tmp_path / "named").write_text(yaml.safe_dump(config))
    found = ktool("--via", "ssh://master", "--kubeconfig", str(tmp_path / "named"), "get", "namespaces")
    assert (found.returncode, found.stderr) == (0, "")
    cluster["tls-server-name"] = "somebody.else"
    (tmp_path / "named").write_text(yaml.safe_dump(config))
    wrong = ktool("--via", "ssh://master", "--kubeconfig", str(tmp_path / "named"), "get", "namespaces")
    assert wrong.returncode == 1
    assert "somebody.else" in wrong.stderr


@needs_sshd
def test_a_host_key_that_is_not_known(ktool: Ktool, server: Server, master: MasterProcess) -> None:
    ktool.known_hosts.write_text("")
    found = ktool("--via", "ssh://master", "--data-dir", str(master.data_dir), "get", "namespaces")
    assert found.returncode == 1
    assert "error: master: its host key is not known" in found.stderr
    assert server.host_key in found.stderr
    assert ktool.known_hosts.read_text() == ""
    assert "Traceback" not in found.stderr


@needs_sshd
def test_no_master_there(ktool: Ktool, tmp_path: Path, master: MasterProcess) -> None:
    found = ktool("--via", "ssh://master", "--data-dir", str(tmp_path), "get", "namespaces")
    assert found.returncode == 1
    assert "No such file" in found.stderr
    assert "see that the machine is a master" in found.stderr
    config = yaml.safe_load(master.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
    (tmp_path / "dead").write_text(yaml.safe_dump(config))
    dead = ktool("--via", "ssh://master", "--kubeconfig", str(tmp_path / "dead"), "get", "namespaces")
    assert dead.returncode == 1
    assert "the API server cannot be reached" in dead.stderr
    assert "through root@master" in dead.stderr


@needs_sshd
@pytest.mark.parametrize("end", ["terminate", "lost"])
def test_a_tunnel_for_others(ktool: Ktool, tmp_path: Path, master: MasterProcess, end: str) -> None:
    with sshd(tmp_path / "own") as own:
        (ktool.home / ".ssh" / "config").write_text(f"Host own\n  HostName 127.0.0.1\n  Port {own.port}\n  User root\n")
        with (ktool.home / ".ssh" / "config").open("a") as config:
            config.write(f"  IdentityFile {own.identity}\n")
        ktool.known_hosts.write_text(f"[127.0.0.1]:{own.port} {own.host_key}\n")
        arguments = ["--via", "own", "--data-dir", str(master.data_dir), "tunnel"]
        process = subprocess.Popen(
            ktool.command(*arguments), env=ktool.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            path = Path(process.stdout.readline().strip().removeprefix("export KUBECONFIG="))
            assert path.stat().st_mode & 0o777 == 0o600
            found = ktool("--kubeconfig", str(path), "get", "namespaces", "-o", "name")
            assert "namespace/default" in found.stdout
            if end == "terminate":
                process.send_signal(signal.SIGTERM)
            else:
                own.kill_sessions()
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == (0 if end == "terminate" else 1)
    assert ("the SSH connection was lost" in said) is (end == "lost")
    assert "Traceback" not in said
    assert not path.parent.exists()


@needs_sshd
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_kubectl_through_a_tunnel(ktool: Ktool, master: MasterProcess) -> None:
    tunnel = ["--via", "ssh://master", "--data-dir", str(master.data_dir), "tunnel", "--"]
    found = ktool(*tunnel, "kubectl", "get", "namespaces", "-o", "name")
    assert (found.returncode, "namespace/default" in found.stdout) == (0, True)
    assert ktool(*tunnel, "sh", "-c", "exit 7").returncode == 7
    absent = ktool(*tunnel, "no-such-command")
    assert (absent.returncode, "there is no command 'no-such-command'" in absent.stderr) == (1, True)
    assert ktool.left() == []


INVENTORY = """
all:
  vars:
    ktool_lab: far
    ktool_provider: ssh
  children:
    masters:
      hosts:
        one:
          ansible_host: 127.0.0.1
          ansible_port: {port}
          ansible_user: root
          ansible_ssh_private_key_file: {identity}
          ktool_ssh_host_key: {key}
          ktool_jump: {jump}
"""


@needs_sshd
def test_a_labs_cluster(ktool: Ktool, server: Server, master: MasterProcess, tmp_path: Path) -> None:
    inventory = tmp_path / "lab.yml"
    facts = {"port": server.port, "identity": server.identity, "key": server.host_key}
    inventory.write_text(INVENTORY.format(**facts, jump=[]))
    early = ktool("--lab", str(inventory), "get", "namespaces")
    assert early.returncode == 1, early.stderr
    assert "has no cluster yet" in early.stderr
    assert f"ktool lab create -i {inventory}" in early.stderr
    from provision.inventory.read import read

    folder = ktool.home / "labs" / read(inventory).name
    folder.mkdir(parents=True)
    (folder / "kubeconfig").write_text(master.kubeconfig.read_text())
    for named in (str(inventory), folder.name):
        found = ktool("--lab", named, "get", "namespaces", "-o", "name")
        assert (found.returncode, found.stderr) == (0, "")
        assert "namespace/default" in found.stdout
    # behind a jump host there is no other way than SSH: also for a kubeconfig whose address leads nowhere
    jump = f"root@127.0.0.1:{server.port}"
    inventory.write_text(INVENTORY.format(**facts, jump=[jump]))
    (folder / "kubeconfig").write_text("nothing that could be used")
    found = ktool("--lab", str(inventory), "--data-dir", str(master.data_dir), "get", "namespaces", "-o", "name")
    assert (found.returncode, found.stderr) == (0, "")
    assert "namespace/default" in found.stdout


def test_what_does_not_go_together() -> None:
    def said(*arguments: str) -> str:
        found = CliRunner().invoke(cli, [*arguments], prog_name="ktool")
        assert found.exit_code == 2
        return found.output

    for command in ON_THIS_MACHINE:
        assert f"`ktool {command}` does not work through --via" in said("--via", "ssh://host", command)
    assert "not both" in said("--via", "ssh://host", "--lab", "lab", "get", "pods")
    assert "not both" in said("--kubeconfig", "x", "--lab", "lab", "get", "pods")
    assert "say where to" in said("tunnel")
    found = CliRunner().invoke(cli, ["--via", "ssh://host/path", "get", "pods"], prog_name="ktool")
    assert (found.exit_code, "this is no SSH address" in found.output) == (1, True)
