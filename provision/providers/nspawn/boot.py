"""Start one machine: `python -m provision.providers.nspawn.boot FOLDER`, which is the machine's service.

It runs in a mount namespace of its own (unshare(1)), prepares what a start needs and becomes systemd-nspawn. Mounts and
the machine's network namespace are seen in here only, so however the machine ends, killed or powered off, they end with
it. systemd-nspawn ends with status 133 where the machine rebooted: the service is started again, with everything
fresh, as after a real reboot; with 0 where it was powered off, and then it stays down.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kube.errors import KtoolError
from provision.command import Runner, run
from provision.machine import cgroup_version, find_command
from provision.providers.nspawn import cgroups, network
from provision.providers.nspawn.config import MachineConfig, NetworkConfig
from provision.providers.nspawn.folder import MachineFolder

# Docker's needs beyond what systemd-nspawn allows by itself: keys of containers' sessions, device rules as programs.
SYSTEM_CALLS = "add_key keyctl request_key bpf"
# Made here, once: threads must not be the first, side by side, that make msgspec learn a type.
_NETWORK = msgspec.json.Decoder(NetworkConfig)


def main(arguments: Sequence[str]) -> None:
    """Become the machine whose folder is named; ends with a message on standard error (the console) if it cannot."""
    folder = MachineFolder(Path(arguments[0]))
    config = folder.config()
    if config is None or not config.made or folder.unfinished_restore:
        raise KtoolError(
            "the machine is not complete", found=str(folder.path), wanted="one that was made", mend="ktool lab create"
        )
    argv = prepare(folder, config, load_network(folder.path.parent.parent))
    os.execvpe(argv[0], argv, environment(os.environ.get("PATH", os.defpath)))  # noqa: S606


def service_command(folder: Path) -> tuple[str, ...]:
    """What the machine's service runs: this module, in a mount namespace of its own.

    Mounts made on the host later are still seen and let go (`slave`): a disk that is unmounted there is not kept busy.
    """
    isolated = (find_command("unshare"), "--mount", "--propagation", "slave", "--")
    return (*isolated, sys.executable, "-m", "provision.providers.nspawn.boot", str(folder))


def load_network(provider: Path) -> NetworkConfig:
    """The network's notes in the provider's folder; FileNotFoundError if there are none."""
    return _NETWORK.decode((provider / "network.json").read_bytes())


def prepare(folder: MachineFolder, config: MachineConfig, net: NetworkConfig, *, runner: Runner = run) -> list[str]:
    """Network, mounts and control groups of a start; the command that is the machine."""
    # First of all, while /run still tells whether systemd keeps groups of its own here.
    for problem in cgroups.enter(config.identity, memory_bytes=config.memory_bytes, cpus=config.cpus):
        print(f"ktool: limits: {problem}", flush=True)
    network.ensure(net, folder.path.parent.parent, runner=runner)
    # In this mount namespace only: whatever systemd-nspawn and ip note below /run belongs to this start.
    runner(["mount", "-t", "tmpfs", "-o", "mode=755", "ktool-run", "/run"])
    for path in ("/run/netns", "/run/systemd/nspawn", "/run/lock"):
        Path(path).mkdir(parents=True)
    namespace = cgroups.name(config.identity)
    runner(["ip", "netns", "add", namespace])
    network.connect(config, net, namespace, runner=runner)
    runner(["mount", "-t", "overlay", "overlay", "-o", overlay_options(folder, config), str(folder.root)])
    return command(folder, config, namespace)


def overlay_options(folder: MachineFolder, config: MachineConfig) -> str:
    """How the machine's root is put together (mount(8): overlay): the uppermost folder first."""
    lower = ":".join([str(folder.seed), *config.layers])
    return f"lowerdir={lower},upperdir={folder.path / 'upper'},workdir={folder.path / 'work'}"


def command(folder: MachineFolder, config: MachineConfig, namespace: str) -> list[str]:
    """systemd-nspawn's command line."""
    modules = Path("/lib/modules", os.uname().release)
    return [
        *("systemd-nspawn", "--quiet", "--boot", f"--directory={folder.root}"),
        *(f"--machine={namespace}", f"--hostname={config.name}", "--register=no", "--keep-unit"),
        f"--network-namespace-path=/run/netns/{namespace}",
        *("--capability=all", f"--system-call-filter={SYSTEM_CALLS}"),
        f"--bind={folder.var_lib}:/var/lib",
        *([f"--bind-ro={modules}"] if modules.is_dir() else []),
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only"),
        "--kill-signal=SIGRTMIN+3",
    ]


def environment(path: str) -> dict[str, str]:
    """systemd-nspawn's environment: with the mark by which the service's process is known (provision.services)."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("KTOOL_SERVICE")}
    version = cgroup_version()
    return kept | {
        "PATH": path,
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1" if version == 2 else "0",
        "SYSTEMD_LOG_COLOR": "0",
    }


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (KtoolError, OSError) as error:
        print(f"ktool: the machine cannot start: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
