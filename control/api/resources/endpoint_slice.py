"""EndpointSlice (Kubernetes concept: EndpointSlices)."""

from __future__ import annotations

from control.api.resource import Column, Object, Resource
from control.api.rules import columns, fields
from kube import kinds, schema
from kube.errors import FieldError

KIND = kinds.known("discovery.k8s.io", "v1", "endpointslices")
ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")
SHOWN = 3


def default(obj: Object) -> None:
    for port in obj.get("ports") or ():
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def validate(obj: Object) -> list[FieldError]:
    errors = fields.required(obj, "", "addressType") + fields.one_of(obj, "", "addressType", ADDRESS_TYPES)
    if len(obj.get("endpoints") or ()) > 1000:
        errors.append(FieldError.too_many("endpoints", len(obj["endpoints"]), 1000))
    for endpoint, at in fields.each(obj.get("endpoints"), "endpoints"):
        errors += fields.required(endpoint, at, "addresses")
    errors += fields.unique(obj.get("ports") or (), "ports", "name")
    for port, at in fields.each(obj.get("ports"), "ports"):
        if port.get("port") is not None:
            errors += fields.port(port["port"], f"{at}.port")
    return errors


def shortened(items: list[str]) -> str:
    """The first three and how many more."""
    if not items:
        return "<unset>"
    more = f" + {len(items) - SHOWN} more..." if len(items) > SHOWN else ""
    return ",".join(items[:SHOWN]) + more


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind(KIND.group, KIND.version, KIND.kind),
        columns=(
            columns.NAME,
            Column("AddressType", lambda o, _: o.get("addressType") or ""),
            Column("Ports", lambda o, _: shortened([str(p.get("port", "*")) for p in o.get("ports") or ()])),
            Column(
                "Endpoints",
                lambda o, _: shortened([a for e in o.get("endpoints") or () for a in e.get("addresses") or ()]),
            ),
            columns.AGE,
        ),
        default=default,
        validate=validate,
        validate_update=lambda new, old: fields.immutable(new, old, "", "addressType"),
    ),
)
