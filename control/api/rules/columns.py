"""Columns that tables of many kinds share (`kubectl get`)."""

from __future__ import annotations

from typing import Any

from control.api.resource import Column, Object
from kube import times


def age(obj: Object, now: float) -> str:
    """How long ago the object was created, as kubectl writes durations (`5d3h`)."""
    return since((obj.get("metadata") or {}).get("creationTimestamp"), now)


def since(timestamp: Any, now: float) -> str:
    """How long ago a time was, or `<unknown>`."""
    return times.human_duration(max(now - times.parse(timestamp), 0.0)) if timestamp else "<unknown>"


def metadata_cell(obj: Object, field: str) -> str:
    value: str = (obj.get("metadata") or {}).get(field, "")
    return value


def pairs(labels: Any) -> str:
    """`a=b,c=d`, or `<none>`."""
    return ",".join(f"{k}={v}" for k, v in sorted((labels or {}).items())) or "<none>"


def selector_text(selector: Any) -> str:
    """A LabelSelector as kubectl writes it."""
    parts = [f"{k}={v}" for k, v in sorted(((selector or {}).get("matchLabels") or {}).items())]
    for requirement in (selector or {}).get("matchExpressions") or ():
        key, operator = requirement.get("key"), requirement.get("operator")
        values = ",".join(sorted(requirement.get("values") or ()))
        forms = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }
        parts.append(forms.get(operator, key))
    return ",".join(parts) or "<none>"


def container_columns(priority: int = 1) -> tuple[Column, ...]:
    """Names and images of a workload's containers."""

    def containers(obj: Object) -> list[Object]:
        found: list[Object] = (((obj.get("spec") or {}).get("template") or {}).get("spec") or {}).get(
            "containers"
        ) or []
        return found

    return (
        Column("Containers", lambda o, _: ",".join(c.get("name", "") for c in containers(o)), priority=priority),
        Column("Images", lambda o, _: ",".join(c.get("image", "") for c in containers(o)), priority=priority),
    )


NAME = Column("Name", lambda o, _: metadata_cell(o, "name"), format="name")
AGE = Column("Age", age)
