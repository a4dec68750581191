"""What the server counts of itself, in Prometheus' text format, under the names that kube-apiserver uses.

A dozen counters do not need a client library: its import alone would cost more than all that is here.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator

from control.api.watch_cache import WatchCache

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


Samples = list[tuple[dict[str, str], float]]


class RequestCounters:
    """Requests by verb, group, resource and status code, their time, and how many are under way."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, str, int], int] = defaultdict(int)
        self.seconds: dict[tuple[str, str, str], float] = defaultdict(float)
        self.inflight = {"readOnly": 0, "mutating": 0}
        self.refused = 0
        self.started = time.time()

    def count(self, verb: str, group: str, name: str, code: int, seconds: float) -> None:
        """Note an answered request; `seconds` is the time until the answer began."""
        self.requests[verb, group, name, code] += 1
        self.seconds[verb, group, name] += seconds


def text(counters: RequestCounters, cache: WatchCache) -> str:
    """All metrics as text."""
    return "".join(_lines(counters, cache))


def _lines(counters: RequestCounters, cache: WatchCache) -> Iterator[str]:
    requests = [
        ({"verb": verb, "group": group, "resource": name, "code": str(code)}, float(value))
        for (verb, group, name, code), value in counters.requests.items()
    ]
    yield from _metric("apiserver_request_total", "counter", "Answered requests.", requests)
    seconds = [
        ({"verb": verb, "group": group, "resource": name}, value)
        for (verb, group, name), value in counters.seconds.items()
    ]
    yield from _metric(
        "apiserver_request_duration_seconds_sum", "counter", "Time until answers began, in all.", seconds
    )
    inflight = [({"request_kind": kind}, float(value)) for kind, value in counters.inflight.items()]
    yield from _metric("apiserver_current_inflight_requests", "gauge", "Requests under way.", inflight)
    refused: Samples = [({}, float(counters.refused))]
    yield from _metric("apiserver_dropped_requests_total", "counter", "Requests refused as too many.", refused)
    objects = [({"resource": name}, float(count)) for name, count, _ in cache.counts()]
    yield from _metric("apiserver_storage_objects", "gauge", "Stored objects.", objects)
    watches = [({"resource": name}, float(count)) for name, _, count in cache.counts() if count]
    yield from _metric("apiserver_longrunning_requests", "gauge", "Open watches.", watches)
    revision: Samples = [({}, float(cache.revision))]
    yield from _metric("ktool_store_revision", "gauge", "Revision of the store that the cache has seen.", revision)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu: Samples = [({}, usage.ru_utime + usage.ru_stime)]
    yield from _metric("process_cpu_seconds_total", "counter", "CPU time of the process.", cpu)
    memory: Samples = [({}, float(_resident_bytes()))]
    yield from _metric("process_resident_memory_bytes", "gauge", "Resident memory of the process.", memory)
    yield from _metric("process_start_time_seconds", "gauge", "Start of the process.", [({}, counters.started)])


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _metric(name: str, type_: str, help_: str, samples: Iterable[tuple[dict[str, str], float]]) -> Iterator[str]:
    yield f"# HELP {name} {help_}\n# TYPE {name} {type_}\n"
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
        yield f"{name}{{{inside}}} {value:.10g}\n" if inside else f"{name} {value:.10g}\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
