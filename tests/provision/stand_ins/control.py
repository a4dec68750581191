"""What a master does on its way up, as far as provision sees it: a CA, a kubeconfig, /readyz, Secrets and Nodes.

The files `break-master` and `slow-master` in the data directory make it fail; objects are kept in `store.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from aiohttp import web

from kube import kubeconfig, pki
from kube.clock import SystemClock
from kube.files import write_atomic

parser = argparse.ArgumentParser(fromfile_prefix_chars="@")
for flag in ("data-dir", "bind-address", "port", "advertise-address", "pod-cidr", "service-cidr"):
    parser.add_argument(f"--{flag}", required=True)
parser.add_argument("--tls-san", action="append", default=[])
for flag in ("store", "etcd-endpoints", "etcd-ca", "etcd-cert", "etcd-key"):
    parser.add_argument(f"--{flag}", default="")
args = parser.parse_args()
data_dir = Path(args.data_dir)
if (data_dir / "break-master").exists():
    print("the database is damaged", flush=True)
    sys.exit(3)

store = data_dir / "store" / "store.json"
objects: dict[str, dict[str, object]] = json.loads(store.read_text()) if store.exists() else {}


async def readyz(request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def create(request: web.Request) -> web.Response:
    body = await request.json()
    objects[f"{request.path}/{body['metadata']['name']}"] = body
    write_atomic(store, json.dumps(objects).encode())
    return web.json_response(body, status=201)


async def patch(request: web.Request) -> web.Response:
    """A JSON merge patch of labels and annotations."""
    body = await request.json()
    metadata = objects[request.path].setdefault("metadata", {})
    assert isinstance(metadata, dict)
    for field, values in body["metadata"].items():
        kept = {**metadata.get(field, {}), **values}
        metadata[field] = {key: value for key, value in kept.items() if value is not None}
    write_atomic(store, json.dumps(objects).encode())
    return web.json_response(objects[request.path])


async def watch(request: web.Request) -> web.StreamResponse:
    """Each state of the one object that the field selector names."""
    path = f"{request.path}/{request.query['fieldSelector'].removeprefix('metadata.name=')}"
    response = web.StreamResponse()
    await response.prepare(request)
    known: object = None
    for _ in range(20 * int(request.query["timeoutSeconds"])):
        if (found := objects.get(path)) is not None and found != known:
            event = {"type": "ADDED" if known is None else "MODIFIED", "object": found}
            await response.write(json.dumps(event).encode() + b"\n")
            known = json.loads(json.dumps(found))
        await asyncio.sleep(0.05)
    return response


async def get(request: web.Request) -> web.StreamResponse:
    if "watch" in request.query:
        return await watch(request)
    found = objects.get(request.path)
    if found is None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        return web.json_response(status, status=404)
    return web.json_response(found)


if not (data_dir / "pki" / "ca.crt").exists():
    ca = pki.create_ca(clock=SystemClock())
    write_atomic(data_dir / "pki" / "ca.crt", ca.cert_pem)
connection = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
    "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{args.port}"}}],
    "users": [],
}
kubeconfig.save(data_dir / "admin.kubeconfig", connection)
app = web.Application()
app.router.add_get("/readyz", readyz)
app.router.add_post("/{tail:.*}", create)
app.router.add_patch("/{tail:.*}", patch)
app.router.add_get("/{tail:.*}", get)
web.run_app(
    app,
    host="127.0.0.1",
    port=int(args.port),
    print=None,
    loop=asyncio.new_event_loop(),
    handler_cancellation=True,
    shutdown_timeout=0.1,
)
