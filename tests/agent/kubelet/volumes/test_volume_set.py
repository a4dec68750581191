"""Volumes on a real disk: made, refreshed, mounted, given back, also after a crash."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.kubelet.references import References
from agent.kubelet.start_error import ConfigError
from agent.kubelet.volumes import VolumeSet, mount_table
from agent.kubelet.volumes.errors import VolumeError
from agent.kubelet.volumes.volume_set import remove_all
from agent.runtime.runtime import Mount, MountPropagation
from kube import objects, status, times
from kube.client import Client
from kube.clock import VirtualClock
from kube.models import core_v1
from kube.transport import Request, Response

needs_mounts = pytest.mark.skipif(not mount_table.may_mount(), reason="needs CAP_SYS_ADMIN")


class Api:
    """A Transport that answers for a few ConfigMaps, Secrets and the token subresource."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.objects: dict[str, dict[str, Any]] = {}
        self.tokens: list[dict[str, Any]] = []
        self.away = False

    def put(self, plural: str, name: str, **fields: Any) -> None:
        self.objects[f"/api/v1/namespaces/shop/{plural}/{name}"] = {"metadata": {"name": name}, **fields}

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        if self.away:
            raise ConnectionError("the master is away")
        if request.path.endswith("/token"):
            body = orjson.loads(request.body)
            self.tokens.append({"path": request.path, **body["spec"]})
            expires = times.rfc3339(self.clock.time() + body["spec"]["expirationSeconds"])
            answer = {"status": {"token": f"token-{len(self.tokens)}", "expirationTimestamp": expires}}
            return Response(201, {}, orjson.dumps(answer))
        found = self.objects.get(request.path)
        if found is None:
            error = status.not_found("things", request.path)
            return Response(404, {}, orjson.dumps(error.to_status()))
        return Response(200, {}, orjson.dumps(found))

    async def close(self) -> None:
        """Nothing is open."""


class Bench:
    def __init__(self, folder: Path, *, in_memory: bool = False) -> None:
        self.clock = VirtualClock()
        self.api = Api(self.clock)
        self.pods = folder / "pods"
        self.client = Client(self.api)
        self.references = References(self.client, clock=self.clock)
        self.volumes = self.again(in_memory=in_memory)

    def again(self, *, in_memory: bool = False) -> VolumeSet:
        """A VolumeSet as a restarted agent has it."""
        return VolumeSet(
            self.pods,
            client=self.client,
            references=self.references,
            node=lambda: None,
            clock=self.clock,
            in_memory=in_memory,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield Bench(tmp_path)
    mount_table.remove_tree(tmp_path / "pods")


def pod(*volumes: dict[str, Any], mounts: list[dict[str, Any]] | None = None, **spec: Any) -> core_v1.Pod:
    wanted = [{"name": v["name"], "mountPath": f"/{v['name']}"} for v in volumes] if mounts is None else mounts
    data = {
        "metadata": {"name": "p", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}},
        "spec": {
            "containers": [{"name": "main", "volumeMounts": wanted}],
            "volumes": list(volumes),
            "serviceAccountName": "robot",
            **spec,
        },
    }
    return objects.from_dict(data, core_v1.Pod)


def main(of: core_v1.Pod) -> core_v1.Container:
    assert of.spec is not None
    return of.spec.containers[0]


async def test_content_appears_and_changes(bench: Bench) -> None:
    bench.api.put("configmaps", "web", data={"index.html": "one"})
    it = pod({"name": "site", "configMap": {"name": "web"}})
    paths = await bench.volumes.mount(it)
    assert paths == {"site": str(bench.pods / "u-1/volumes/kubernetes.io~configmap/site")}
    page = Path(paths["site"]) / "index.html"
    assert page.read_text() == "one"
    assert bench.volumes.mounts(it, main(it)) == [Mount(paths["site"], "/site", read_only=True)]

    bench.api.put("configmaps", "web", data={"index.html": "two", "more": "3"})
    await bench.volumes.refresh(it)
    assert page.read_text() == "one", "what was read is good for a while"
    await bench.clock.advance(31)
    await bench.volumes.refresh(it)
    assert page.read_text() == "two"
    assert (page.parent / "more").read_text() == "3"

    bench.api.away = True
    await bench.clock.advance(31)
    await bench.volumes.refresh(it)
    assert page.read_text() == "two", "without the master it stays as it is"


async def test_what_is_missing_fails_and_only_if_used(bench: Bench) -> None:
    missing = {"name": "site", "configMap": {"name": "none"}}
    with pytest.raises(VolumeError, match=r'MountVolume\.SetUp failed for volume "site" : configmap "none" not found'):
        await bench.volumes.mount(pod(missing))
    assert await bench.volumes.mount(pod(missing, mounts=[])) == {}
    optional = {"name": "site", "configMap": {"name": "none", "optional": True}}
    paths = await bench.volumes.mount(pod(optional))
    assert [p for p in Path(paths["site"]).iterdir() if not p.name.startswith("..")] == []
    with pytest.raises(VolumeError, match="nfs is not supported by this node's agent"):
        await bench.volumes.mount(pod({"name": "far", "nfs": {"server": "x", "path": "/"}}))


async def test_token_is_bound_and_renewed_in_time(bench: Bench) -> None:
    source = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
    it = pod({"name": "access", "projected": {"sources": [source]}})
    token = Path((await bench.volumes.mount(it))["access"]) / "token"
    assert token.read_text() == "token-1"
    assert bench.api.tokens[0] == {
        "path": "/api/v1/namespaces/shop/serviceaccounts/robot/token",
        "audiences": [],
        "expirationSeconds": 3600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u-1"},
    }
    await bench.clock.advance(0.8 * 3600 - 20)
    await bench.volumes.refresh(it)
    assert token.read_text() == "token-1"
    await bench.clock.advance(21)
    bench.api.away = True
    await bench.volumes.refresh(it)
    assert token.read_text() == "token-1", "the old one is still good"
    bench.api.away = False
    await bench.volumes.refresh(it)
    assert token.read_text() == "token-2"
    bench.api.away = True
    await bench.clock.advance(3600)
    with pytest.raises(ConnectionError):
        await bench.volumes.refresh(it)
    await bench.volumes.unmount("u-1")
    bench.api.away = False
    await bench.volumes.mount(it)
    assert len(bench.api.tokens) == 3


async def test_empty_dir(bench: Bench) -> None:
    it = pod({"name": "work", "emptyDir": {"sizeLimit": "16Ki"}}, {"name": "bare"})
    paths = await bench.volumes.mount(it)
    work = Path(paths["work"])
    assert stat.S_IMODE(work.stat().st_mode) == 0o777
    assert Path(paths["bare"]).is_dir()
    (work / "kept").write_bytes(b"x" * 100)
    await bench.again().mount(it)
    assert (work / "kept").exists(), "a restarted agent finds the data of running pods"
    assert await bench.volumes.over_limit(it) == ""
    (work / "kept").write_bytes(b"x" * 100_000)
    assert "exceeds the limit" in await bench.volumes.over_limit(it)
    await bench.volumes.unmount("u-1")
    await bench.volumes.unmount("u-1")
    assert not (bench.pods / "u-1").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_fs_group(bench: Bench) -> None:
    it = pod({"name": "work", "emptyDir": {}}, securityContext={"fsGroup": 2345})
    found = Path((await bench.volumes.mount(it))["work"]).stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (2345, 0o2777)


@pytest.mark.parametrize(
    ("type_", "before", "after"),
    [
        ("", None, "folder"),
        ("Directory", "folder", "folder"),
        ("DirectoryOrCreate", None, "folder"),
        ("File", "file", "file"),
        ("FileOrCreate", None, "file"),
        ("Directory", None, "is not a directory"),
        ("Directory", "file", "is not a directory"),
        ("DirectoryOrCreate", "file", "is not a directory"),
        ("File", None, "is not a file"),
        ("File", "folder", "is not a file"),
        ("Socket", "file", "is not a socket file"),
        ("CharDevice", None, "is not a character device"),
        ("BlockDevice", "file", "is not a block device"),
        ("Nonsense", "file", "is unknown"),
    ],
)
async def test_host_path(bench: Bench, tmp_path: Path, type_: str, before: str | None, after: str) -> None:
    path = tmp_path / "on-host"
    if before == "folder":
        path.mkdir()
    elif before == "file":
        path.write_text("mine")
    it = pod({"name": "host", "hostPath": {"path": str(path), "type": type_}})
    if after in ("folder", "file"):
        assert await bench.volumes.mount(it) == {"host": str(path)}
        assert path.is_dir() == (after == "folder")
        await bench.volumes.unmount("u-1")
        assert path.exists(), "what is the host's is not removed"
    else:
        with pytest.raises(VolumeError, match=after):
            await bench.volumes.mount(it)


async def test_host_path_device(bench: Bench) -> None:
    it = pod({"name": "null", "hostPath": {"path": "/dev/null", "type": "CharDevice"}})
    assert await bench.volumes.mount(it) == {"null": "/dev/null"}


async def test_mounts_of_a_container(bench: Bench) -> None:
    mounts: list[dict[str, Any]] = [
        {"name": "work", "mountPath": "/a", "subPath": "x/y"},
        {"name": "work", "mountPath": "/b", "subPathExpr": "$(NAME)", "readOnly": True},
        {"name": "work", "mountPath": "/c", "mountPropagation": "HostToContainer"},
    ]
    it = pod({"name": "work", "emptyDir": {}}, mounts=mounts)
    work = (await bench.volumes.mount(it))["work"]
    assert bench.volumes.mounts(it, main(it), [("NAME", "main")]) == [
        Mount(f"{work}/x/y", "/a"),
        Mount(f"{work}/main", "/b", read_only=True),
        Mount(work, "/c", propagation=MountPropagation.HOST_TO_CONTAINER),
    ]
    assert Path(f"{work}/x/y").is_dir()
    # whoever the container runs as, it can write there as in the volume itself
    assert [stat.S_IMODE(Path(work, part).stat().st_mode) for part in ("x", "x/y", "main")] == [0o777] * 3
    with pytest.raises(ConfigError, match="missing value for 'NAME'"):
        bench.volumes.mounts(it, main(it))
    unknown = pod(mounts=[{"name": "none", "mountPath": "/x"}])
    with pytest.raises(ConfigError, match='mounts volume "none"'):
        bench.volumes.mounts(unknown, main(unknown))


@pytest.mark.parametrize("in_memory", [False, pytest.param(True, marks=needs_mounts)])
async def test_sub_path_stays_inside(bench: Bench, tmp_path: Path, in_memory: bool) -> None:
    volumes = bench.again(in_memory=in_memory)
    it = pod({"name": "work", "emptyDir": {}}, mounts=[{"name": "work", "mountPath": "/a", "subPath": "link/x"}])
    work = Path((await volumes.mount(it))["work"])
    (tmp_path / "outside").mkdir()
    (work / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match="leads outside"):
        volumes.mounts(it, main(it))
    assert not (tmp_path / "outside" / "x").exists()
    (work / "link").unlink()
    (work / "inside").mkdir()
    (work / "link").symlink_to("inside")
    volumes.mounts(it, main(it))
    assert (work / "inside" / "x").is_dir()
    dots = pod({"name": "work", "emptyDir": {}}, mounts=[{"name": "work", "mountPath": "/a", "subPath": "../x"}])
    with pytest.raises(ConfigError, match="must not contain"):
        volumes.mounts(dots, main(dots))


@needs_mounts
async def test_in_memory_and_given_back_after_a_crash(bench: Bench, tmp_path: Path) -> None:
    bench.api.put("secrets", "key", data={"k": base64.b64encode(b"hush").decode()})
    it = pod(
        {"name": "key", "secret": {"secretName": "key", "defaultMode": 0o400}},
        {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "host", "hostPath": {"path": str(tmp_path / "precious")}},
        mounts=[
            {"name": "key", "mountPath": "/key"},
            {"name": "key", "mountPath": "/k", "subPath": "k"},
            {"name": "fast", "mountPath": "/fast"},
            {"name": "host", "mountPath": "/host", "subPath": "data"},
        ],
    )
    (tmp_path / "precious" / "data").mkdir(parents=True)
    (tmp_path / "precious" / "data" / "file").write_text("keep me")
    volumes = bench.again(in_memory=True)
    paths = await volumes.mount(it)
    assert mount_table.is_mounted(Path(paths["key"]))
    assert stat.S_IMODE((Path(paths["key"]) / "k").stat().st_mode) == 0o400
    with pytest.raises(OSError, match="No space left"):
        (Path(paths["fast"]) / "big").write_bytes(b"x" * (2 << 20))
    (Path(paths["fast"]) / "big").unlink()
    (Path(paths["fast"]) / "small").write_bytes(b"x")
    mounts = {mount.container_path: mount for mount in volumes.mounts(it, main(it))}
    assert Path(mounts["/k"].host_path).read_bytes() == b"hush"
    assert "volume-subpaths" in mounts["/k"].host_path
    assert (Path(mounts["/host"].host_path) / "file").read_text() == "keep me"

    again = bench.again(in_memory=True)  # the agent was killed; it adopts what it finds
    await again.mount(it)
    assert (Path(paths["fast"]) / "small").exists()
    mounted = mount_table.mounted_below(bench.pods)
    again.mounts(it, main(it))
    assert sorted(mount_table.mounted_below(bench.pods)) == sorted(mounted), "not one mount on top of another"

    assert await again.remove_orphans({"u-1"}) == []
    assert await again.remove_orphans(set()) == ["u-1"]
    assert mount_table.mounted_below(bench.pods) == []
    assert (tmp_path / "precious" / "data" / "file").read_text() == "keep me"

    await again.mount(it)
    again.mounts(it, main(it))
    remove_all(bench.pods)
    assert not bench.pods.exists()
    assert mount_table.mounted_below(bench.pods) == []
    assert (tmp_path / "precious" / "data" / "file").read_text() == "keep me"


async def test_a_cancelled_mount_leaves_nothing_behind(bench: Bench) -> None:
    it = pod({"name": "work", "emptyDir": {}})
    for _ in range(20):
        task = asyncio.ensure_future(bench.volumes.mount(it))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bench.volumes.unmount("u-1")
        assert not (bench.pods / "u-1").exists()


async def test_a_tight_umask_keeps_nobody_out(bench: Bench, tmp_path: Path) -> None:
    bench.api.put("configmaps", "web", data={"a": "1"})
    before = os.umask(0o077)
    try:
        paths = await bench.volumes.mount(
            pod(
                {"name": "site", "configMap": {"name": "web"}},
                {"name": "work", "emptyDir": {}},
                {"name": "host", "hostPath": {"path": str(tmp_path / "new"), "type": "DirectoryOrCreate"}},
            )
        )
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE(Path(path).stat().st_mode) for name, path in paths.items()}
    assert modes == {"site": 0o755, "work": 0o777, "host": 0o755}
    assert stat.S_IMODE((Path(paths["site"]) / "a").stat().st_mode) == 0o644
