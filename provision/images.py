"""Images for an engine that reaches no registry: loading archives, and the example application's image."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kube import image_archive
from kube.errors import KtoolError
from kube.image_archive import ImageSource
from provision import docker_engine
from provision.journal import ChangeKind, Journal

logger = logging.getLogger(__name__)

EXAMPLE_REFERENCE = "ktool.local/web:1"
LOAD_SECONDS = 600
# The commands that the example's scripts use; a small image shows what it needs.
_EXAMPLE_APPLETS = (
    *("cat", "date", "echo", "env", "grep", "hostname", "httpd", "ip", "ls", "nslookup", "ps", "sed", "sh", "sleep"),
    *("test", "top", "uptime", "wget"),
)


def load_image(archive: Path, *, socket: Path) -> list[str]:
    """Load a docker-archive (`docker save`, `skopeo copy docker-archive:`) or an OCI archive that the engine takes.

    Gives the references of what was loaded (an ID where an image has none). KtoolError if the file is missing or is
    no image, or no engine answers.
    """
    try:
        with archive.open("rb") as file:
            return _load(file, what=str(archive), socket=socket)
    except OSError as error:
        raise KtoolError(
            f"cannot read {archive}", found=error.strerror or str(error), wanted="an image archive"
        ) from error


def ensure_image(source: ImageSource, *, socket: Path, journal: Journal | None = None) -> bool:
    """Have this very image in the engine under its references; True if it had to be loaded.

    With a `journal`, `remove_loaded` takes it away again.
    """
    wanted = image_archive.image_id(source)
    found = {reference: _image_id(reference, socket=socket) for reference in source.references}
    if all(one == wanted for one in found.values()):
        return False
    for reference, one in found.items():
        if journal is not None:
            journal.record(ChangeKind.IMAGE, reference, before=one or None)
    _load(image_archive.archive(source), what=", ".join(source.references), socket=socket)
    return True


def remove_loaded(journal: Journal, *, socket: Path) -> list[str]:
    """Remove the images that were loaded with this journal; gives what was done, in words.

    An image that containers use stays, and so does one whose reference had stood for another image before.
    """
    import docker.errors

    changes = [change for change in journal.open_changes() if change.kind is ChangeKind.IMAGE]
    done = []
    client = docker_engine.connect(socket)
    try:
        api: Any = client.api  # its types are incomplete
        for change in changes:
            try:
                if change.before is None:
                    api.remove_image(change.target)
                    done.append(f"image {change.target} removed")
            except docker.errors.ImageNotFound:
                logger.debug("image %s has been removed already", change.target)
            except docker.errors.APIError as error:
                if error.status_code != 409:
                    raise
                done.append(f"image {change.target} left alone: {error.explanation}")
            journal.close(change)
    finally:
        client.close()
    return done


def example_image() -> ImageSource:
    """The image of examples/web.yaml: Debian's static busybox and nothing else; its pages come from a ConfigMap.

    KtoolError if busybox-static is not installed.
    """
    return ImageSource(
        references=(EXAMPLE_REFERENCE,),
        entries=image_archive.busybox_root(applets=_EXAMPLE_APPLETS),
        entrypoint=("/bin/busybox",),
        command=("httpd", "-f", "-v", "-p", "8080", "-h", "/www"),
        env=(("PATH", "/bin"),),
        exposed_ports=("8080/tcp",),
        labels={"org.opencontainers.image.title": "ktool's example application"},
    )


def _image_id(reference: str, *, socket: Path) -> str:
    import docker.errors

    client = docker_engine.connect(socket)
    try:
        api: Any = client.api  # its types are incomplete
        return str(api.inspect_image(reference)["Id"])
    except docker.errors.ImageNotFound:
        return ""
    finally:
        client.close()


def _load(data: object, *, what: str, socket: Path) -> list[str]:
    import docker.errors

    docker_engine.version(socket)
    client = docker_engine.connect(socket, timeout=LOAD_SECONDS)
    try:
        api: Any = client.api  # its types are incomplete
        return list(_loaded(api.load_image(data, quiet=True), what=what))
    except docker.errors.APIError as error:
        raise _not_an_image(what, str(error.explanation)) from error
    finally:
        client.close()


def _loaded(answers: Iterable[object], *, what: str) -> Iterable[str]:
    """References in the engine's answers; each is a line of JSON such as {"stream": "Loaded image: a:1\\n"}."""
    for answer in answers:
        if not isinstance(answer, dict):
            continue
        if "error" in answer:
            raise _not_an_image(what, str(answer["error"]))
        text = str(answer.get("stream", "")).strip()
        for introduction in ("Loaded image ID: ", "Loaded image: "):
            if text.startswith(introduction):
                yield text.removeprefix(introduction)


def _not_an_image(what: str, found: str) -> KtoolError:
    return KtoolError(
        f"{what} cannot be loaded as an image",
        found=found,
        wanted="an archive as `docker save` writes it",
        mend="docker save -o image.tar NAME:TAG on a machine that has the image",
    )


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the engine under one of its references; `size` in bytes."""

    reference: str
    id: str
    size: int


def images(*, socket: Path) -> list[Image]:
    """All images of the engine that have a name, one row a reference. KtoolError if no engine answers."""
    docker_engine.version(socket)
    client = docker_engine.connect(socket)
    try:
        api: Any = client.api  # its types are incomplete
        found = api.images()
    finally:
        client.close()
    return [Image(tag, i["Id"], i["Size"]) for i in found for tag in i.get("RepoTags") or () if tag != "<none>:<none>"]
