"""Connections that stand before Ansible wants them.

Ansible's ssh logs in when the first task comes, and again nothing goes on meanwhile: on an emulated machine for a
second. So ssh logs in while Ansible is still starting, and Ansible's own commands find the socket of that connection
(ssh_config(5): ControlMaster, ControlPath). Where this does not succeed Ansible logs in by itself, and says why not.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from provision.ansible import hosts
from provision.ansible.hosts import Host, SSHFiles
from provision.mounts import remove_tree

END_SECONDS = 5.0


@contextlib.contextmanager
def logged_in(machines: Sequence[Host], *, limit: int) -> Iterator[Path]:
    """Log in on the first `limit` of the machines, as long as the block runs, without waiting for it; gives the folder
    of the sockets, for `SSHFiles.sockets`. It is this user's only, with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="ktool-"))
    files = SSHFiles(folder / "ssh_config", folder / "known_hosts", folder)
    started: list[subprocess.Popen[bytes]] = []
    try:
        files.config.write_text(hosts.ssh_config(machines, files))
        files.known_hosts.write_text(hosts.known_hosts(machines))
        for argv in [argv for host in machines if (argv := login(host, files))][:limit]:
            # Dead with us, however we end: it would wait for ever.
            argv = ["setpriv", "--pdeathsig", "TERM", *argv]
            silent = subprocess.DEVNULL
            with contextlib.suppress(OSError):  # no such program: Ansible logs in by itself, or says what is missing
                started.append(
                    subprocess.Popen(argv, stdin=silent, stdout=silent, stderr=silent, start_new_session=True)
                )
        yield folder
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        end_connections(folder)  # where Ansible was quicker
        remove_tree(folder)


def login(host: Host, files: SSHFiles) -> list[str]:
    """ssh that logs in and shares its connection. Empty where there is nothing to log in to, where a password is wanted
    (Ansible's business), and behind a jump host, which refuses some where many log in at once (sshd: MaxStartups)."""
    endpoint = host.endpoint
    if endpoint is None or endpoint.local or endpoint.password or endpoint.jump is not None:
        return []
    options = {
        "BatchMode": "yes",
        "ControlMaster": "yes",
        "ControlPath": str(hosts.socket_path(host.name, files.sockets or files.config.parent)),
        "User": endpoint.user,
        "Port": str(endpoint.port),
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-N", *words, *hosts.ssh_arguments(host.name, endpoint, files), endpoint.address]


def end_connections(folder: Path) -> None:
    """End the connections that Ansible's ssh keeps open for a while, by their sockets."""
    for socket in folder.glob("*"):
        if socket.is_socket():
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                command = ["ssh", "-F", "none", "-o", f"ControlPath={socket}", "-O", "exit", "ktool"]
                subprocess.run(command, capture_output=True, timeout=END_SECONDS, check=False)
