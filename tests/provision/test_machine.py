"""How facts about the machine are read."""

from __future__ import annotations

import json
from collections.abc import Sequence

from provision import machine
from provision.machine import Route


def test_routes_that_lead_somewhere() -> None:
    """An `up` finds the routes that an earlier one's agent has made, and must not take them for somebody else's."""
    table = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "10.96.0.0/16", "dev": "ktool0", "protocol": "107", "scope": "link"},
        {"type": "unreachable", "dst": "10.96.0.0/16", "protocol": "107", "metric": 4096},
        {"dst": "192.0.2.7", "dev": "eth0"},
    ]

    def runner(command: Sequence[str], **_: object) -> str:
        assert command[0] == "ip"
        return json.dumps(table)

    assert [*machine.routes(runner)] == [Route("10.96.0.0/16", "ktool0"), Route("192.0.2.7/32", "eth0")]
