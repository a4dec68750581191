"""The API server without a socket, for the scheduler and the controllers that run in the same process."""

from __future__ import annotations

import asyncio

from control.api.attributes import AUTHENTICATED_GROUP, UserInfo
from control.api.pipeline import Api
from kube.transport import Request, Response


class LocalTransport:
    """A `kube.transport.Transport` that hands requests straight to the pipeline, in the name of one user.

    They are authorized, admitted and validated as if they had come over the network.
    """

    def __init__(self, api: Api, user: UserInfo) -> None:
        self._api = api
        if AUTHENTICATED_GROUP not in user.groups:
            user = UserInfo(user.name, user.uid, (*user.groups, AUTHENTICATED_GROUP), user.extra)
        self._user = user
        self._closed = False

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        """Transport.send."""
        if self._closed:
            raise ConnectionError("the transport is closed")
        async with asyncio.timeout(timeout):
            response = await self._api.handle(request, user=self._user)
        if response.stream is not None and not stream:
            try:
                response.body = b"".join([chunk async for chunk in response.stream])
            finally:
                await response.close()
            response.stream = None
        return response

    async def close(self) -> None:
        """Transport.close. Watches that are open are their readers' to close."""
        self._closed = True
