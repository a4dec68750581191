"""The least that a server of JSON over TLS can do with aiohttp: the yardstick for the API server's costs.

It takes 1.2 KB of JSON apart, puts it together again and answers; there is no store, no authorization, no validation.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

import orjson
import uvloop
from aiohttp import web

from bench.master import config_map

PORT = 16444


async def wait(*, timeout: float = 10.0) -> None:
    """Wait until it listens."""
    async with asyncio.timeout(timeout):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", PORT)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


def serve(certificate: str, key: str) -> None:
    """Serve until SIGTERM."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    answer = config_map("bench")

    async def get(_: web.Request) -> web.Response:
        return web.Response(body=answer, content_type="application/json")

    async def post(request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(orjson.loads(await request.read())), content_type="application/json")

    async def main() -> None:
        application = web.Application()
        application.add_routes([web.get("/", get), web.post("/", post)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", PORT, ssl_context=tls).start()
        await asyncio.Event().wait()

    uvloop.run(main())


if __name__ == "__main__":
    serve(*sys.argv[1:])
