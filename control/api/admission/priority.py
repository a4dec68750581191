"""Priority: a pod's priority class becomes a number (Kubernetes concept: Pod Priority and Preemption)."""

from __future__ import annotations

from control.api.attributes import Attributes, Object, ObjectReader, Operation
from control.api.resources.priority_class import KIND, SYSTEM
from kube import status


class Priority:
    """Resolves `priorityClassName`, or takes the class that is the default of all."""

    name = "Priority"

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader

    async def admit(self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes) -> None:
        is_pod = attributes.group == "" and attributes.resource == "pods" and not attributes.subresource
        if obj is None or operation is not Operation.CREATE or not is_pod:
            return
        spec = obj.setdefault("spec", {})
        name = spec.get("priorityClassName", "")
        if not name:
            default = next((c for c in self._reader.list(KIND) if c.get("globalDefault")), None)
            if default is not None:
                name = spec["priorityClassName"] = default["metadata"]["name"]
        chosen = self._reader.get(KIND, "", name) if name else None
        if name and chosen is None and name not in SYSTEM:
            raise status.forbidden(
                "pods",
                attributes.name,
                f"no PriorityClass with name {name} was found: create it, or mend spec.priorityClassName",
            )
        value = chosen.get("value", 0) if chosen else SYSTEM.get(name, 0)
        if spec.get("priority") not in (None, value):
            message = (
                f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; it is {value}"
            )
            raise status.forbidden("pods", attributes.name, message)
        spec["priority"] = value
        spec.setdefault("preemptionPolicy", (chosen or {}).get("preemptionPolicy", "PreemptLowerPriority"))
