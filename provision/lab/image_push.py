"""Container images to the machines of a lab, over SSH: no registry is needed, and none can be reached in many labs.

An image that a machine has already, by its ID, does not travel again.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine
from provision.lab.open_lab import NO_PASSWORDS, OpenLab, Passwords, opened
from provision.lab_state import LabState
from provision.ssh.shell import Shell

PUT_SECONDS = 1800.0


@dataclass(slots=True)
class Pushed:
    """How it went, by machine: what was done in words, and why not."""

    did: dict[str, str] = field(default_factory=dict)
    errors: dict[str, KtoolError] = field(default_factory=dict)


async def push(
    lab: Lab,
    state: LabState,
    archive: Path,
    wanted: dict[str, str],
    only: Collection[str] = (),
    report: Callable[[str], None] = lambda line: None,
    passwords: Passwords = NO_PASSWORDS,
) -> Pushed:
    """Load an image archive into the engine of every machine that runs an agent, side by side.

    `wanted` maps references to image IDs ("sha256:..."): a machine that has them all is left alone; empty: always load.
    """
    result = Pushed()
    async with opened(lab, state, passwords=passwords) as open_lab:
        machines = [m for m in lab.machines if m.runs_agent and (not only or m.name in only)]
        await open_lab.look_at_all(await open_lab.find())
        await asyncio.gather(*(_one(open_lab, machine, archive, wanted, result, report) for machine in machines))
    return result


async def _one(
    open_lab: OpenLab,
    machine: Machine,
    archive: Path,
    wanted: dict[str, str],
    result: Pushed,
    report: Callable[[str], None],
) -> None:
    connection = open_lab.connections.get(machine.name)
    if connection is None:
        problem = open_lab.problems.get(machine.name)
        result.errors[machine.name] = problem or KtoolError("does not run", wanted="a machine that is up")
        return
    try:
        result.did[machine.name] = await asyncio.to_thread(_load, connection, archive, wanted, report)
    except KtoolError as error:
        result.errors[machine.name] = error


def _load(connection: Shell, archive: Path, wanted: dict[str, str], report: Callable[[str], None]) -> str:
    if wanted and wanted.items() <= _images(connection).items():
        return "has it already"
    report(f"{connection.name}: {archive.stat().st_size / 1e6:.1f} MB on the way")
    remote = f"/var/tmp/ktool-image-{uuid.uuid4().hex}.tar"  # noqa: S108 (on the machine; the name is not to be guessed)
    try:
        connection.put(archive, remote, mode=0o600, timeout=PUT_SECONDS)
        said = connection.run(["ktool", "image", "load", remote], timeout=PUT_SECONDS)
    finally:
        connection.run(["rm", "-f", remote], check=False)
    return said.stdout.strip()


def _images(connection: Shell) -> dict[str, str]:
    """References and IDs that the machine's engine has; empty if it does not tell."""
    said = connection.run(["docker", "image", "ls", "--no-trunc", "--format", "json"], check=False)
    found = {}
    for line in said.stdout.splitlines() if said.status == 0 else ():
        try:
            image = json.loads(line)
            found[f"{image['Repository']}:{image['Tag']}"] = image["ID"]
        except (ValueError, KeyError, TypeError):
            continue
    return found


def ids_of(archive: Path) -> dict[str, str]:
    """References and image IDs of a docker-archive; empty if it does not tell, and it is to be loaded anyhow."""
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile("manifest.json")
            images = json.load(member) if member else []
        return {
            tag: "sha256:" + Path(image["Config"]).name.removesuffix(".json")
            for image in images
            for tag in image.get("RepoTags") or ()
        }
    except (tarfile.TarError, OSError, KeyError, ValueError, TypeError, AttributeError):
        return {}


def saved(reference: str, *, socket: Path) -> tuple[Path, dict[str, str]]:
    """An archive of an image of this machine's engine, in a new file for the caller to remove, and its ID by reference.

    KtoolError if the engine does not answer or does not have it.
    """
    import docker
    import docker.errors

    try:
        client = docker.DockerClient(base_url=f"unix://{socket}", version="auto")
        try:
            image = client.images.get(reference)
            handle, name = tempfile.mkstemp(prefix="ktool-image-", suffix=".tar")
            with open(handle, "wb") as file:
                for chunk in image.save(named=reference):
                    file.write(chunk)
        finally:
            client.close()
    except docker.errors.ImageNotFound as error:
        raise KtoolError(
            "this machine's engine does not have the image",
            found=f"no {reference}",
            wanted=f"an image of the engine on {socket}",
            mend="docker images shows what there is; a file is given as it is: ktool image push app.tar",
        ) from error
    except docker.errors.DockerException as error:
        raise KtoolError(f"Docker Engine does not answer on {socket}", found=str(error)) from error
    full = reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
    return Path(name), {full: image.id or ""}
