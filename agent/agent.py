"""The agent's process: one node (or many hollow ones), until it is told to stop. Pods run on without it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator, Sequence

from agent import options as command_line
from agent.options import AgentOptions
from kube import collector, late_arguments
from kube.errors import KtoolError

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the agent's command line; the exit status."""
    collector.put_off()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    late_arguments.wait(arguments, _load)
    status = 0
    try:
        options = command_line.parse(arguments)
        if options.verbose:
            for package in ("agent", "kube"):  # not of every library
                logging.getLogger(package).setLevel(logging.DEBUG)
        import uvloop

        import kube.quick_aiohttp  # noqa: F401 (before others import aiohttp)

        uvloop.run(_main(options))
    except* KtoolError as errors:
        for error in leaves(errors):
            log.error("%s", error)
        status = 1
    return status


def _load() -> None:
    """Import what an agent needs."""
    import uvloop  # noqa: F401

    import kube.quick_aiohttp  # noqa: F401 (before others import aiohttp)
    from agent import node_agent

    node_agent.import_roles(AgentOptions())


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


async def _main(options: AgentOptions) -> None:
    if options.reset:
        from agent.reset import reset

        await reset(options)
        return
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, task, number)
    try:
        await run(options)
    except asyncio.CancelledError:
        log.info("stopped; pods run on")


def _stop(task: asyncio.Task[None], number: int) -> None:
    log.info("stopping: %s", signal.Signals(number).name)
    task.cancel()


async def run(options: AgentOptions) -> None:
    """Run the nodes of one agent until cancelled. KtoolError when one of them cannot join."""
    from agent import node_agent, record

    with record.exclusive(options.data_dir):
        if not options.hollow_nodes:
            await node_agent.run_node(options, node_agent.place_of(options))
            return
        collector.settle()
        async with asyncio.TaskGroup() as group:
            for place in node_agent.hollow_places(options):
                group.create_task(node_agent.run_node(options, place), name=place.name)
