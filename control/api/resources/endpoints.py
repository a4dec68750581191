"""Endpoints: the older, single list of a Service's addresses."""

from __future__ import annotations

from control.api.resource import Column, Object, Resource
from control.api.resources.endpoint_slice import SHOWN
from control.api.rules import columns
from kube import kinds, schema

KIND = kinds.known("", "v1", "endpoints")


def default(obj: Object) -> None:
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or ():
            port.setdefault("protocol", "TCP")


def _addresses(obj: Object) -> str:
    found = [
        f"{address.get('ip', '')}:{port.get('port', '')}"
        for subset in obj.get("subsets") or ()
        for port in subset.get("ports") or ()
        for address in subset.get("addresses") or ()
    ]
    more = f" + {len(found) - SHOWN} more..." if len(found) > SHOWN else ""
    return ",".join(found[:SHOWN]) + more if found else "<none>"


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind("", "v1", "Endpoints"),
        columns=(columns.NAME, Column("Endpoints", lambda o, _: _addresses(o)), columns.AGE),
        default=default,
    ),
)
