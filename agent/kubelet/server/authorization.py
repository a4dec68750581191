"""What a caller of the kubelet may do (Kubernetes: "Kubelet authorization"): asked of the API, then remembered."""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from agent.kubelet.server.authentication import Caller
from kube import status
from kube.client import Client
from kube.clock import Clock
from kube.models import authorization_v1
from kube.status import ApiError

# Kubernetes: authorization.webhook.cacheAuthorizedTTL and cacheUnauthorizedTTL.
ALLOWED_SECONDS = 300.0
REFUSED_SECONDS = 30.0
MAX_DECISIONS = 4096

# The cluster's administrators, and the API server itself: no rule could take their rights away, so none is asked for.
MASTERS = "system:masters"

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCES = {"stats": "stats", "metrics": "metrics", "logs": "log"}
_INTRUSIVE = frozenset({"exec", "attach", "portForward", "run"})


class Attributes(Struct, frozen=True):
    """What is asked, as rules about nodes name it: `get nodes/metrics`, `create nodes/proxy`."""

    verb: str
    subresource: str


def attributes(method: str, path: str) -> Attributes:
    """What a request of the kubelet's API is, to those who write rules."""
    first = path.strip("/").split("/")[0]
    # A WebSocket begins with GET. Whoever may only read a node's state must not run commands by it.
    verb = "create" if first in _INTRUSIVE else _VERBS.get(method, method.lower())
    return Attributes(verb, _SUBRESOURCES.get(first, "proxy"))


class Authorization:
    """Asks whether a caller may do something with this node; answers are kept for a while."""

    def __init__(self, client: Client, clock: Clock, *, node_name: str) -> None:
        self._client = client
        self._clock = clock
        self._node_name = node_name
        self._decisions: OrderedDict[tuple[str, tuple[str, ...], Attributes], tuple[str, bool, float]] = OrderedDict()

    async def authorize(self, caller: Caller, asked: Attributes) -> None:
        """Raises ApiError 403 if the caller may not, 503 if the API does not answer."""
        if MASTERS in caller.groups:
            return
        key = (caller.name, caller.groups, asked)
        now = self._clock.monotonic()
        known = self._decisions.get(key)
        if known is None or now >= known[2]:
            reason, allowed = await self._ask(caller, asked)
            known = (reason, allowed, now + (ALLOWED_SECONDS if allowed else REFUSED_SECONDS))
            self._decisions[key] = known
            self._decisions.move_to_end(key)
            while len(self._decisions) > MAX_DECISIONS:
                self._decisions.popitem(last=False)
        if not known[1]:
            tail = f": {known[0]}" if known[0] else ""
            detail = f'User "{caller.name}" cannot {asked.verb} resource "nodes/{asked.subresource}"{tail}'
            raise status.forbidden("nodes", self._node_name, detail)

    async def _ask(self, caller: Caller, asked: Attributes) -> tuple[str, bool]:
        review = authorization_v1.SubjectAccessReview(
            spec=authorization_v1.SubjectAccessReviewSpec(
                user=caller.name,
                uid=caller.uid or None,
                groups=list(caller.groups),
                extra={key: list(values) for key, values in caller.extra.items()},
                resourceAttributes=authorization_v1.ResourceAttributes(
                    verb=asked.verb,
                    version="v1",
                    resource="nodes",
                    subresource=asked.subresource,
                    name=self._node_name,
                ),
            )
        )
        try:
            answer = (await self._client.create(review)).status
        except (ApiError, ConnectionError, TimeoutError) as error:
            raise status.service_unavailable(f"the request cannot be authorized now: {error}") from error
        return (answer.reason or "", bool(answer.allowed)) if answer is not None else ("", False)
