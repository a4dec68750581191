"""etcd's members, asked and changed through the JSON gateway on each member's client port (etcd: "gRPC gateway").

Membership is changed a few times in a cluster's life, so what counts here is that nothing else has to be installed for
it: HTTP, JSON and a client certificate. The API server talks gRPC.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from kube.errors import KtoolError
from kube.etcd_certificates import EtcdCertificates
from provision.etcd.membership import Member

REQUEST_SECONDS = 7.0


class EtcdError(KtoolError):
    """etcd refused a request; `found` is what it said."""


class NoEtcd(KtoolError):
    """No member could be asked."""


class NotAMaster(NoEtcd):
    """This machine has nothing to show to etcd: no certificate, or none that the caller may read."""

    def __init__(self, found: str) -> None:
        super().__init__(
            "etcd cannot be asked from here",
            found=found,
            wanted="a master whose store is etcd, and the right to read its certificates",
            mend="run it as root on such a master",
        )


class EtcdClient:
    """Asks the first of several members that answers; an asynchronous context manager.

    A refusal (EtcdError) is the cluster's answer and counts; a member that cannot be reached, or has no leader, is
    passed over. NoEtcd if that is so for all. NotAMaster, when it is made, if there are no certificates.
    """

    def __init__(self, endpoints: Sequence[str], certificates: EtcdCertificates) -> None:
        self.endpoints = tuple(dict.fromkeys(endpoints))
        path = certificates.ca_cert
        try:
            context = ssl.create_default_context(cafile=str(path))
            path = certificates.client_cert
            context.load_cert_chain(path, certificates.client_key)
        except OSError as error:  # ssl.SSLError is one, too
            raise NotAMaster(f"{path}: {error.strerror or error}") from error
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=REQUEST_SECONDS / 2)
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def members(self) -> list[Member]:
        """All members, in the order of their names."""
        answer = await self._ask("/v3/cluster/member/list", {})
        return sorted(map(member, answer.get("members", ())), key=lambda one: (one.name, one.id))

    async def add_learner(self, peer_url: str) -> None:
        """Have a member added that has no vote yet."""
        await self._ask("/v3/cluster/member/add", {"peerURLs": [peer_url], "isLearner": True})

    async def promote(self, member_id: str) -> None:
        """Give a learner its vote; EtcdError while it has not caught up."""
        await self._ask("/v3/cluster/member/promote", {"ID": member_id})

    async def remove(self, member_id: str) -> None:
        """Take a member out."""
        await self._ask("/v3/cluster/member/remove", {"ID": member_id})

    async def is_healthy(self, endpoint: str) -> bool:
        """Whether the member at that client URL serves, with a leader."""
        try:
            async with self._http.get(f"{endpoint}/health") as response:
                found = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
            return False
        return response.status == 200 and isinstance(found, dict) and found.get("health") == "true"

    async def healthy(self, members: Sequence[Member]) -> set[str]:
        """The ids of the members that are."""
        well = await asyncio.gather(*(self.is_healthy(one.client_url) for one in members))
        return {one.id for one, is_well in zip(members, well, strict=True) if is_well}

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        said = "no endpoints"
        for endpoint in self.endpoints:
            try:
                async with self._http.post(endpoint + path, json=body) as response:
                    found = await response.json(content_type=None)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                said = f"{endpoint}: {error or type(error).__name__}"
                continue
            if response.status == 200 and isinstance(found, dict):
                return found
            text = str(found.get("message") or found.get("error") or found) if isinstance(found, dict) else str(found)
            if passing(text):
                said = f"{endpoint}: {text}"
                continue
            raise EtcdError("etcd refuses", found=text.removeprefix("etcdserver: "))
        raise NoEtcd(
            "no member of etcd answers",
            found=said,
            wanted=f"an answer from one of {', '.join(self.endpoints)}",
            mend="see the etcd log on the masters (/var/lib/ktool/log/etcd.log)",
        )


def passing(text: str) -> bool:
    """Whether another member may know better than the one that said this."""
    signs = ("no leader", "request timed out", "not supported for learner", "leader changed", "server stopped")
    return any(sign in text for sign in signs)


def member(found: dict[str, Any]) -> Member:
    """A member from its JSON, in which what is zero or empty is left out."""
    return Member(
        id=str(found.get("ID", "0")),
        name=found.get("name", ""),
        peer_urls=tuple(found.get("peerURLs", ())),
        client_urls=tuple(found.get("clientURLs", ())),
        learner=bool(found.get("isLearner", False)),
    )
