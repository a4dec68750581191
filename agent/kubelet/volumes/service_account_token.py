"""Tokens of service accounts for pods: asked for, kept, renewed in time (Kubernetes: TokenRequest).

A token is bound to its pod and dies with it. It is renewed when four fifths of its life (or a day) are over, so that a
program that reads the file again now and then never holds one that has expired, even if the master is away for a
while.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field

import orjson

from agent.kubelet.volumes.payload import TokenKey
from kube import objects, times
from kube.client import Client
from kube.clock import Clock
from kube.models import core_v1
from kube.status import ApiError

RENEW_FRACTION = 0.8
MAX_AGE_SECONDS = 24 * 3600.0
# Pods that started together do not all renew in the same second.
JITTER_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    renew_at: float
    expires_at: float


class ServiceAccountTokens:
    """Tokens by pod and purpose, in memory only."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._tokens: dict[tuple[str, TokenKey], _Token] = {}

    async def token(self, pod: core_v1.Pod, key: TokenKey) -> str:
        """A token that is valid for a while yet.

        Raises ApiError, ConnectionError, TimeoutError when there is none and none can be had.
        """
        known = self._tokens.get((objects.uid(pod), key))
        now = self._clock.time()
        if known is not None and now < known.renew_at:
            return known.text
        try:
            fresh = await self._request(pod, key)
        except (ApiError, ConnectionError, TimeoutError) as error:
            if known is None or now >= known.expires_at:
                raise
            log.warning("the token of pod %s cannot be renewed yet: %s", objects.key(pod), error)
            return known.text
        self._tokens[objects.uid(pod), key] = fresh
        return fresh.text

    def forget(self, pod_uid: str) -> None:
        """The pod is gone, and its tokens with it."""
        for found in [found for found in self._tokens if found[0] == pod_uid]:
            del self._tokens[found]

    async def _request(self, pod: core_v1.Pod, key: TokenKey) -> _Token:
        assert pod.spec is not None
        asked = self._clock.time()
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [key.audience] if key.audience else [],
                "expirationSeconds": key.seconds,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": objects.name(pod),
                    "uid": objects.uid(pod),
                },
            },
        }
        account = pod.spec.serviceAccountName or "default"
        answer = await self._client.create_subresource(
            core_v1.ServiceAccount, account, "token", body, namespace=objects.namespace(pod)
        )
        status = orjson.loads(answer)["status"]
        expires = times.parse(status["expirationTimestamp"])
        # By the answer's end, not by what was asked for: the server may give less.
        age = min(RENEW_FRACTION * (expires - asked), MAX_AGE_SECONDS)
        renew = asked + max(0.0, age - random.uniform(0, min(JITTER_SECONDS, age / 10)))  # noqa: S311
        return _Token(status["token"], renew, expires)
