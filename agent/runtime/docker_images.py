"""Images on Docker Engine: list, inspect, pull, load, remove, and the file system they are on.

Pulling and loading answer with a stream of JSON lines under status 200, whatever happens: an error is one of the
lines. So success is "the stream ended and no line said otherwise".
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import docker
import docker.utils

from agent.runtime.docker_engine import DockerEngine
from agent.runtime.docker_stream import json_lines
from agent.runtime.errors import ContainerError, ImageInUse, ImageLoadError, ImageNotFound, ImagePullError
from agent.runtime.image import FilesystemUsage, Image, RegistryAuth

# A pull or a load that takes longer than this is stuck.
TRANSFER_SECONDS = 3600.0
_READ_BYTES = 1 << 20
_NONE = "<none>:<none>"
_LOADED = ("Loaded image: ", "Loaded image ID: ")
# What registries and the engine say when the name is wrong, not the network.
_ABSENT = ("not found", "manifest unknown", "does not exist", "invalid reference format")

_log = logging.getLogger(__name__)


async def list_images(engine: DockerEngine) -> list[Image]:
    """All images that have a reference, a digest or nothing but an ID."""
    found = await engine.call("list images", lambda api: api.images())
    return [
        Image(
            id=entry["Id"],
            references=_references(entry),
            digests=_digests(entry),
            size_bytes=entry.get("Size", 0),
            labels=entry.get("Labels") or {},
        )
        for entry in found
    ]


async def image_status(engine: DockerEngine, reference: str) -> Image | None:
    """One image by reference or ID; None if there is none."""
    try:
        found = await engine.call(f"inspect image {reference}", lambda api: _inspect(api, reference))
    except ImageNotFound:
        return None
    config = found.get("Config") or {}
    return Image(
        id=found["Id"],
        references=_references(found),
        digests=_digests(found),
        size_bytes=found.get("Size", 0),
        user=config.get("User", ""),
        labels=config.get("Labels") or {},
    )


async def pull(engine: DockerEngine, reference: str, auth: RegistryAuth | None) -> str:
    """Pull an image; its ID. Raises ImageNotFound, ImagePullError."""
    what = f"pull image {reference}"
    name, tag = docker.utils.parse_repository_tag(reference)
    params = {"fromImage": name, "tag": tag or "latest"}
    headers = {"X-Registry-Auth": registry_header(auth)} if auth is not None else {}
    try:
        async with engine.request(
            what, "POST", "/images/create", params=params, headers=headers, timeout=TRANSFER_SECONDS
        ) as response:
            _, error = await _outcome(response.content)
    except ContainerError as refused:
        error = refused.found
    if error:
        raise pull_error(reference, error)
    image = await image_status(engine, reference)
    if image is None:
        raise ImagePullError(f"cannot {what}: the engine pulled it and does not have it")
    return image.id


def pull_error(reference: str, message: str) -> ImageNotFound | ImagePullError:
    """The error for what the engine said about a failed pull."""
    if any(words in message.lower() for words in _ABSENT):
        return ImageNotFound(
            f"cannot pull image {reference}: the registry does not have it",
            found=message,
            mend="Check name and tag; a private image needs credentials (imagePullSecrets).",
        )
    return ImagePullError(
        f"cannot pull image {reference}",
        found=message,
        mend="Check the node's way to the registry, or side-load the image: `ktool image load`.",
    )


def registry_header(auth: RegistryAuth) -> str:
    """The credentials as the engine's X-Registry-Auth header wants them."""
    fields = {
        "username": auth.username,
        "password": auth.password,
        "serveraddress": auth.server_address,
        "identitytoken": auth.identity_token,
        "registrytoken": auth.registry_token,
    }
    present = {name: value for name, value in fields.items() if value}
    return base64.urlsafe_b64encode(json.dumps(present).encode()).decode()


async def load(engine: DockerEngine, archive: Path | AsyncIterator[bytes]) -> list[str]:
    """Load a docker-archive; the references (or IDs, where it has none) that it held. Raises ImageLoadError."""
    if not isinstance(archive, Path):
        return await _load(engine, "load an image archive", archive)
    what = f"load image archive {archive}"
    try:
        source = await asyncio.to_thread(archive.open, "rb")
    except OSError as error:
        raise ImageLoadError(f"cannot {what}", found=str(error), wanted="a file that can be read") from error
    with source:
        return await _load(engine, what, _pieces(source))


async def remove(engine: DockerEngine, reference: str) -> None:
    """Remove an image with all its references; nothing happens if there is none. Raises ImageInUse."""
    image = await image_status(engine, reference)
    if image is None:
        return
    # By ID the engine refuses an image that has several names: take the names one by one, the last takes the image.
    for name in image.references or (image.id,):
        await _remove_one(engine, name)


async def usage(engine: DockerEngine) -> FilesystemUsage:
    """The file system of the engine's data directory."""
    root = await engine.call("ask for the data directory", lambda api: str(api.info()["DockerRootDir"]))
    found = await asyncio.to_thread(os.statvfs, root)
    return FilesystemUsage(
        mountpoint=root,
        capacity_bytes=found.f_blocks * found.f_frsize,
        used_bytes=(found.f_blocks - found.f_bfree) * found.f_frsize,
        available_bytes=found.f_bavail * found.f_frsize,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
    )


async def _remove_one(engine: DockerEngine, name: str) -> None:
    try:
        await engine.call(f"remove image {name}", lambda api: api.remove_image(name))
    except ImageNotFound:
        _log.debug("image %s is gone already", name)
    except ContainerError as error:
        raise ImageInUse(
            f"cannot remove image {name}: it is in use", found=error.found, mend="Delete the pods that use it first."
        ) from error


async def _outcome(content: aiohttp.StreamReader) -> tuple[list[str], str]:
    """What the JSON lines said (their `stream` texts), and the error among them or an empty string."""
    said: list[str] = []
    error = ""
    async with aclosing(json_lines(content)) as messages:
        async for message in messages:
            error = error or str(message.get("error", ""))
            said += str(message.get("stream", "")).splitlines()
    return said, error


def _inspect(api: docker.APIClient, reference: str) -> dict[str, Any]:
    return dict(api.inspect_image(reference))  # type: ignore[no-untyped-call]


async def _load(engine: DockerEngine, what: str, data: AsyncIterator[bytes]) -> list[str]:
    headers = {"Content-Type": "application/x-tar"}
    try:
        async with engine.request(
            what, "POST", "/images/load", params={"quiet": "1"}, headers=headers, data=data, timeout=TRANSFER_SECONDS
        ) as response:
            said, error = await _outcome(response.content)
    except ContainerError as refused:
        said, error = [], refused.found
    loaded = [line.removeprefix(prefix) for line in said for prefix in _LOADED if line.startswith(prefix)]
    if error or not loaded:
        raise ImageLoadError(
            f"cannot {what}",
            found=error or "no image in it",
            wanted="a docker-archive, as `docker save` writes it",
        )
    return loaded


async def _pieces(source: BinaryIO) -> AsyncIterator[bytes]:
    while data := await asyncio.to_thread(source.read, _READ_BYTES):
        yield data


def _references(found: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in found.get("RepoTags") or () if name != _NONE)


def _digests(found: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in found.get("RepoDigests") or () if not name.startswith("<none>"))
