"""Authorizers one after another: the first that allows decides; otherwise the last reason counts."""

from __future__ import annotations

from collections.abc import Sequence

from control.api.attributes import Attributes, Authorizer, Decision

MASTERS = "system:masters"


class AuthorizerChain:
    """Asks each authorizer in turn (Kubernetes: the union of authorizers).

    Members of `system:masters` may do everything: that group cannot be locked out by a mistake in RBAC objects.
    """

    def __init__(self, authorizers: Sequence[Authorizer]) -> None:
        self._authorizers = tuple(authorizers)

    async def authorize(self, attributes: Attributes) -> Decision:
        if MASTERS in attributes.user.groups:
            return Decision(True)
        reason = ""
        for authorizer in self._authorizers:
            decision = await authorizer.authorize(attributes)
            if decision.allowed:
                return decision
            reason = decision.reason or reason
        return Decision(False, reason)
