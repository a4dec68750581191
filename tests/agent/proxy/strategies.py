"""Hypothesis: small clusters of Services that share addresses of endpoints, so that changes overlap."""

from __future__ import annotations

from hypothesis import strategies as st

from agent.proxy.service_port import Endpoint, Protocol, ServicePort, TrafficPolicy

_NODES = ["one", "two", ""]


@st.composite
def endpoints(draw: st.DrawFn) -> tuple[Endpoint, ...]:
    numbers = draw(st.lists(st.integers(1, 8), unique=True, max_size=6))
    return tuple(
        Endpoint(
            f"10.244.{1 + number % 2}.{number}",
            8080,
            draw(st.sampled_from(_NODES)),
            ready=draw(st.booleans()),
            serving=draw(st.booleans()),
            terminating=draw(st.booleans()),
        )
        for number in numbers
    )


@st.composite
def service(draw: st.DrawFn, number: int) -> ServicePort:
    return ServicePort(
        "default",
        f"svc-{number}",
        "",
        draw(st.sampled_from(Protocol)),
        80,
        cluster_ips=(f"10.96.0.{number}",),
        node_port=draw(st.sampled_from([0, 30000 + number])),
        external_ips=draw(st.sampled_from([(), (f"203.0.113.{number}",)])),
        affinity_seconds=draw(st.sampled_from([0, 0, 60])),
        internal_policy=draw(st.sampled_from(TrafficPolicy)),
        external_policy=draw(st.sampled_from(TrafficPolicy)),
        prefer_same_node=draw(st.booleans()),
        endpoints=draw(endpoints()),
    )


@st.composite
def clusters(draw: st.DrawFn) -> list[ServicePort]:
    numbers = draw(st.lists(st.integers(1, 5), unique=True, max_size=5))
    return [draw(service(number)) for number in numbers]
