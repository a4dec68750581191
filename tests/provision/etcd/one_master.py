"""A machine's etcd, run by a test in a network namespace of its own: `... ACTION DATA_DIR ADDRESS ENDPOINT`.

The actions are what `ktool up`, `ktool join --control-plane` and `ktool down` do with etcd; without Docker, master and
agent. KTOOL_TEST_KILL=WORD: dies when its progress says that word.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from kube.errors import KtoolError
from provision import data_dir
from provision.journal import Journal
from provision.local_cluster import etcd
from provision.local_cluster.config import ETCD, LocalClusterConfig
from provision.progress import StepEvent
from provision.services.supervisord import SupervisordServices

KILL = os.environ.get("KTOOL_TEST_KILL", "")


def tell(event: StepEvent) -> None:
    print(event.phase, event.detail, file=sys.stderr, flush=True)
    if KILL and event.detail.startswith(KILL):
        os.kill(os.getpid(), signal.SIGKILL)


async def main(action: str, folder: Path, address: str, endpoints: list[str]) -> None:
    config = LocalClusterConfig(
        data_dir=folder, node_name=folder.name, store=ETCD, supervisor="supervisord", ready_timeout=40
    )
    supervisor = SupervisordServices(folder)
    data_dir.create(folder, ktool_version="test")
    journal = Journal(config.journal_file)
    if action == "begin":
        await etcd.begin(config, supervisor, journal, address, tell)
    elif action == "join":
        config.joining_file.touch()
        await etcd.join(config, supervisor, journal, address, endpoints, tell)
        config.joining_file.unlink()
    elif action == "leave":
        await etcd.require_leave(config, supervisor)
        await etcd.leave(config, supervisor)
    elif action == "stop":
        supervisor.stop(ETCD)
    elif action == "start":
        supervisor.start(ETCD)
    elif action == "down":
        supervisor.shutdown()
    found, healthy = ([], set()) if action in ("down", "stop", "start", "leave") else await etcd.members(config)
    print(
        " ".join(
            f"{one.name or '?'}{'~' if one.learner else ''}{'' if one.id in healthy or one.learner else '!'}"
            for one in found
        )
    )


try:
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
except KtoolError as error:
    sys.exit(str(error))
