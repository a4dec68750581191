"""Docker Engine's events as the runtime's: one stream that outlives the engine.

The engine forgets: it keeps a few hundred events, and none over its own restart. So a client that was away cannot
know what it missed, and a stream that quietly went on would leave the kubelet believing in containers that are gone.
Each (re)connection therefore begins with RELIST, given only *after* the engine has taken the subscription: who lists
on RELIST sees everything, from the list or from the events after it. Events since the moment before connecting are
asked for as well, which closes the gap between the answer's first byte and the engine's bookkeeping; they may come
twice, and what happened twice in a list is harmless.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from agent.runtime import docker_labels, docker_times
from agent.runtime.docker_engine import DockerEngine
from agent.runtime.docker_stream import json_lines
from agent.runtime.errors import RuntimeUnavailable
from agent.runtime.event import ContainerEvent, EventType

_TYPES = {
    "create": EventType.CREATED,
    "start": EventType.STARTED,
    "die": EventType.STOPPED,
    "destroy": EventType.DELETED,
    "oom": EventType.OOM,
}
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0

_log = logging.getLogger(__name__)


async def watch(engine: DockerEngine, cluster: str) -> AsyncGenerator[ContainerEvent, None]:
    """This cluster's events, without end; a lost engine is asked again after growing pauses (0.1 to 5 s)."""
    pause = FIRST_PAUSE
    while True:
        try:
            async with aclosing(_connection(engine, cluster)) as events:
                async for event in events:
                    pause = FIRST_PAUSE
                    yield event
            _log.info("Docker Engine ended the event stream; connecting again")
        except RuntimeUnavailable as error:
            _log.warning("events of Docker Engine: %s; again in %.1f s", error.found or error.what, pause)
        await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311  # spreads load, guards nothing
        pause = min(pause * 2, LONGEST_PAUSE)


def parse(found: Mapping[str, Any]) -> ContainerEvent | None:
    """One message of the engine; None for an action that is not an event here."""
    kind = _TYPES.get(found.get("Action", ""))
    if kind is None:
        return None
    actor = found.get("Actor") or {}
    attributes: Mapping[str, str] = actor.get("Attributes") or {}
    container_id = actor.get("ID", "")
    code = attributes.get("exitCode", "")
    return ContainerEvent(
        type=kind,
        timestamp=datetime.fromtimestamp(found.get("timeNano", 0) / 1e9, UTC),
        container_id=container_id,
        sandbox_id=attributes.get(docker_labels.SANDBOX_ID, container_id),
        labels=docker_labels.given_labels(attributes),
        exit_code=int(code) if kind is EventType.STOPPED and code else None,
    )


async def _connection(engine: DockerEngine, cluster: str) -> AsyncGenerator[ContainerEvent, None]:
    started = datetime.now(UTC)
    wanted = {**docker_labels.filters(cluster), "type": ["container"], "event": list(_TYPES)}
    params = {"filters": json.dumps(wanted), "since": docker_times.unix(started)}
    async with engine.request("watch events", "GET", "/events", params=params) as response:
        yield ContainerEvent(EventType.RELIST, started)
        async with aclosing(json_lines(response.content)) as messages:
            async for message in messages:
                event = parse(message)
                if event is not None:
                    yield event
