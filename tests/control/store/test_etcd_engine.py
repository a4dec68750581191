"""The etcd engine's decisions: where etcd is, what an error means, what is repeated. (Its promises: tests/contract.)"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.__main__ import parse_arguments
from control.store.errors import (
    ConflictError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreUnavailableError,
    ValueTooLargeError,
)
from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd.backend import EtcdStore
from control.store.etcd.calls import CallError, Calls
from control.store.etcd.config import Endpoint, EtcdConfig, parse_endpoints
from control.store.etcd.failure import Meaning, Retry, meaning
from control.store.etcd.messages import Keys, lacks_previous
from kube.clock import SystemClock
from kube.errors import KtoolError
from tests import etcd
from tests.contract.store_engines import take
from tests.ports import free_port

Code = grpc.StatusCode
HERE = Endpoint("127.0.0.1:2379", False)


class TestConfig:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("https://10.0.0.1:2379", [("10.0.0.1:2379", True)]),
            ("https://etcd.example", [("etcd.example:2379", True)]),
            ("https://a:1, https://b:2,https://a:1", [("a:1", True), ("b:2", True)]),
            ("http://[::1]:2379/", [("[::1]:2379", False)]),
            ("", []),
        ],
    )
    def test_endpoints(self, text: str, expected: list[tuple[str, bool]]) -> None:
        assert [(e.target, e.tls) for e in parse_endpoints(text)] == expected

    @pytest.mark.parametrize(
        "text", ["10.0.0.1:2379", "ftp://a", "https://", "https://a:port", "https://a/b", "https://u@a"]
    )
    def test_endpoints_that_make_no_sense(self, text: str) -> None:
        with pytest.raises(KtoolError) as caught:
            parse_endpoints(text)
        assert "https://HOST:2379" in caught.value.wanted

    @pytest.mark.parametrize(
        ("fields", "part"),
        [
            ({"endpoints": ()}, "--etcd-endpoints"),
            ({"cert": Path("c")}, "--etcd-cert alone"),
            ({"key": Path("c")}, "--etcd-key alone"),
            ({"endpoints": (Endpoint("a:1", True),)}, "--etcd-ca"),
            ({"prefix": "ktool"}, "--etcd-prefix"),
            ({"prefix": "/ktool/"}, "--etcd-prefix"),
        ],
    )
    def test_what_does_not_fit_together(self, fields: dict[str, Any], part: str) -> None:
        with pytest.raises(KtoolError) as caught:
            EtcdConfig(**{"endpoints": (HERE,), **fields})
        assert part in str(caught.value)

    async def test_certificates_that_are_not_there(self, tmp_path: Path) -> None:
        config = EtcdConfig(endpoints=(Endpoint("a:1", True),), ca=tmp_path / "none.crt")
        with pytest.raises(StoreUnavailableError, match=r"none\.crt"):
            await EtcdStore.open(config)


class TestArguments:
    def test_of_a_master(self) -> None:
        arguments = ["--store", "etcd", "--etcd-endpoints", "https://a,https://b:1"]
        found = parse_arguments([*arguments, "--etcd-ca", "c", "--etcd-cert", "d", "--etcd-key", "e"]).etcd
        assert [e.target for e in found.endpoints] == ["a:2379", "b:1"]
        assert (found.ca, found.cert, found.key) == tuple(Path(name).absolute() for name in "cde")
        assert parse_arguments([]).etcd is None

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            ("--store etcd", "--etcd-endpoints"),
            ("--etcd-ca x", "--etcd-ca: found --store sqlite, wanted --store etcd"),
            ("--store etcd --etcd-endpoints 10.0.0.1", "found: '10.0.0.1'"),
            ("--store etcd --etcd-endpoints https://a --etcd-ca x --etcd-cert x", "--etcd-cert alone"),
        ],
    )
    def test_that_do_not_fit_together(self, arguments: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parse_arguments(arguments.split())
        assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Meaning.COMPACTED),
        (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", Meaning.FUTURE),
        (Code.NOT_FOUND, "etcdserver: requested lease not found", Meaning.NO_LEASE),
        (Code.INVALID_ARGUMENT, "etcdserver: request is too large", Meaning.TOO_LARGE),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Meaning.FULL),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Meaning.NOT_SENT),
        (Code.UNAVAILABLE, "failed to connect to all addresses; last error: ...", Meaning.NOT_SENT),
        (Code.UNAVAILABLE, "etcdserver: no leader", Meaning.NOT_SENT),
        (Code.UNAVAILABLE, "etcdserver: rpc not supported for learner", Meaning.NOT_SENT),
        (Code.PERMISSION_DENIED, "etcdserver: permission denied", Meaning.DENIED),
        (Code.UNAVAILABLE, "Socket closed", Meaning.UNKNOWN),
        (Code.UNAVAILABLE, "etcdserver: leader changed", Meaning.UNKNOWN),
        (Code.UNAVAILABLE, "etcdserver: request timed out", Meaning.UNKNOWN),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", Meaning.UNKNOWN),
    ],
)
def test_what_an_error_means(code: grpc.StatusCode, details: str, expected: Meaning) -> None:
    assert meaning(code, details) is expected


@pytest.mark.parametrize(
    ("attempt", "members", "elapsed", "expected"),
    [
        (1, 1, 0.0, 0.05),
        (2, 1, 0.0, 0.1),
        (9, 1, 0.0, 1.0),
        (1, 3, 0.0, 0.0),  # the others first
        (2, 3, 0.0, 0.0),
        (3, 3, 0.0, 0.05),
        (4, 3, 0.0, 0.0),
        (6, 3, 0.0, 0.1),
        (9, 1, 4.5, None),
        (1, 3, 5.0, None),
    ],
)
def test_when_to_try_again(attempt: int, members: int, elapsed: float, expected: float | None) -> None:
    assert Retry().pause(attempt, members, elapsed=elapsed) == expected


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.sampled_from(["", "/ktool"]))
def test_the_bounds_of_a_prefix_hold_its_keys_and_no_others(prefix: str, key: str, after: str, root: str) -> None:
    try:
        key.encode(), prefix.encode(), after.encode()
    except UnicodeEncodeError:
        return
    keys = Keys(root)
    low, end = keys.bounds(prefix, after)
    encoded = keys.encode(key)
    inside = low <= encoded and (end == b"\x00" or encoded < end)
    if key:
        assert inside == (key.startswith(prefix) and (not after or key > after))
    assert keys.decode(encoded) == key


def test_an_event_whose_past_is_forgotten_is_told_from_one_that_had_none() -> None:
    new = rpc.KeyValue(key=b"a", create_revision=5, mod_revision=5)
    changed = rpc.KeyValue(key=b"a", create_revision=4, mod_revision=5)
    assert not lacks_previous(rpc.Event(type=rpc.Event.PUT, kv=new))
    assert lacks_previous(rpc.Event(type=rpc.Event.PUT, kv=changed))
    assert not lacks_previous(rpc.Event(type=rpc.Event.PUT, kv=changed, prev_kv=new))
    assert lacks_previous(rpc.Event(type=rpc.Event.DELETE, kv=rpc.KeyValue(key=b"a", mod_revision=5)))


class Script:
    """A member's call that fails as told, then succeeds."""

    def __init__(self, *failures: tuple[grpc.StatusCode, str]) -> None:
        self.failures = [*failures]
        self.targets: list[str] = []

    def __call__(self, member: Any) -> Callable[..., Any]:
        async def call(request: Any, **_: Any) -> Any:
            self.targets.append(member.target)
            if self.failures:
                none = grpc.aio.Metadata()
                code, details = self.failures.pop(0)
                raise grpc.aio.AioRpcError(code, none, none, details)
            return request

        return call


RESET = (Code.UNAVAILABLE, "Socket closed")
REFUSED = (Code.UNAVAILABLE, "failed to connect to all addresses")


class TestCalls:
    def calls(self) -> Calls:
        endpoints = (Endpoint("one:1", False), Endpoint("two:1", False))
        return Calls(EtcdConfig(endpoints=endpoints), SystemClock(), retry=Retry(seconds=0.3, first_pause=0.01))

    async def test_a_read_goes_on_to_the_next_member_and_stays_there(self) -> None:
        calls, script = self.calls(), Script(RESET)
        assert await calls.read(script, "r") == "r"
        assert await calls.read(script, "r") == "r"
        assert script.targets == ["one:1", "two:1", "two:1"]
        await calls.close()

    async def test_a_read_gives_up_at_last(self) -> None:
        calls, script = self.calls(), Script(*[RESET] * 1000)
        with pytest.raises(StoreUnavailableError, match="Socket closed"):
            await calls.read(script, "r")
        assert 4 < len(script.targets) < 100
        await calls.close()

    async def test_a_write_with_unknown_outcome_is_never_repeated(self) -> None:
        calls, script = self.calls(), Script(REFUSED, RESET)
        with pytest.raises(OutcomeUnknownError, match="Socket closed"):
            await calls.write(script, "w")
        assert script.targets == ["one:1", "two:1"]  # the first attempt reached nobody
        assert calls.members.current.target == "one:1"
        await calls.close()

    async def test_a_write_that_reached_nobody_has_not_happened(self) -> None:
        calls = self.calls()
        with pytest.raises(StoreUnavailableError) as caught:
            await calls.write(Script(*[REFUSED] * 1000), "w")
        assert not isinstance(caught.value, OutcomeUnknownError)
        await calls.close()

    async def test_what_etcd_refuses_is_not_tried_elsewhere(self) -> None:
        calls, script = self.calls(), Script((Code.OUT_OF_RANGE, "required revision has been compacted"))
        with pytest.raises(CallError):
            await calls.read(script, "r")
        with pytest.raises(StoreUnavailableError, match="refuses"):
            await calls.read(Script((Code.PERMISSION_DENIED, "permission denied")), "r")
        full = Script((Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"))
        with pytest.raises(StoreUnavailableError, match="alarm disarm"):
            await calls.write(full, "w")
        assert script.targets == full.targets == ["one:1"]
        await calls.close()
        with pytest.raises(StoreClosedError):
            await calls.read(script, "r")


class RefusedWatch:
    """A member that answers the wish for a watch by saying that it makes none, and then no more."""

    target = "one:1"

    def __init__(self, answer: rpc.WatchResponse) -> None:
        self._answers = [answer]

    def watch(self, **_: Any) -> RefusedWatch:
        return self

    async def write(self, request: Any) -> None:
        pass

    async def read(self) -> rpc.WatchResponse:
        if not self._answers:
            await asyncio.sleep(3600)
        return self._answers.pop()

    def cancel(self) -> None:
        pass


async def test_a_watch_that_etcd_does_not_allow_ends_at_once() -> None:
    store = await EtcdStore.open(EtcdConfig(endpoints=(HERE,)))
    refusal = rpc.WatchResponse(created=True, canceled=True, cancel_reason="etcdserver: permission denied")
    store._calls.members._members[0] = RefusedWatch(refusal)  # type: ignore[call-overload]
    async with store.watch("", from_revision=1) as watch:
        with pytest.raises(StoreUnavailableError, match="permission denied"):
            async with asyncio.timeout(5):
                await anext(watch)


class LostAnswer:
    """A member's call whose answer gets lost, once; before that it is carried out, or not."""

    def __init__(self, call: Callable[..., Any], *, carried_out: bool, then: Callable[[], Any] | None = None) -> None:
        self._call = call
        self._carried_out = carried_out
        self._then = then
        self.calls = 0

    async def __call__(self, request: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls > 1:
            return await self._call(request, **options)
        if self._carried_out:
            await self._call(request, **options)
        if self._then is not None:
            await self._then()
        none = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(Code.UNAVAILABLE, none, none, "Socket closed")


@pytest.mark.skipif(etcd.missing() != "", reason=etcd.missing())
class TestRealEtcd:
    @pytest.mark.parametrize("carried_out", [True, False])
    async def test_a_swap_without_an_answer_happens_once(self, tmp_path: Path, *, carried_out: bool) -> None:
        with etcd.etcd(tmp_path) as server:
            store, other = [await EtcdStore.open(server.config()) for _ in range(2)]
            member = store._calls.members.current
            lease = await store.grant_lease(60)
            before = 0
            for value in (b"new", b"changed"):
                member.txn = flaky = LostAnswer(other._calls.members.current.txn, carried_out=carried_out)
                revision = await store.put("/a", value, expected_revision=before, lease=lease)
                assert flaky.calls == 2
                there = await store.get("/a")
                assert there is not None
                assert (there.value, there.mod_revision, there.lease) == (value, revision, lease)
                assert revision > before
                before = revision
            assert there.version == 2
            await store.close()
            await other.close()

    async def test_a_swap_that_others_may_have_written_over_stays_unknown(self, tmp_path: Path) -> None:
        with etcd.etcd(tmp_path) as server:
            store, other = [await EtcdStore.open(server.config()) for _ in range(2)]

            async def write_over() -> None:
                await other.put("/a", b"theirs")

            member = store._calls.members.current
            member.txn = LostAnswer(other._calls.members.current.txn, carried_out=True, then=write_over)
            with pytest.raises(OutcomeUnknownError):
                await store.put("/a", b"ours", expected_revision=0)
            # one that certainly did not happen is a conflict as ever
            with pytest.raises(ConflictError):
                await store.put("/a", b"ours", expected_revision=0)
            await store.close()
            await other.close()

    async def test_failover_strangers_prefixes_and_sizes(self, tmp_path: Path) -> None:
        with etcd.etcd(tmp_path) as server:
            config = server.config()
            dead = parse_endpoints(f"https://127.0.0.1:{free_port()}")
            store = await EtcdStore.open(
                EtcdConfig(endpoints=dead + config.endpoints, ca=config.ca, cert=config.cert, key=config.key)
            )
            other = await EtcdStore.open(server.config(prefix="/other"))
            try:
                revision = await store.put("/a", b"ours", expected_revision=0)
                assert await other.get("/a") is None
                assert await other.put("/a", b"theirs") == revision + 1
                async with store.watch("", from_revision=revision) as watch:
                    await store.put("/a", bytes(5 << 10))
                    assert [event.kv.key for event in await take(watch, 2)] == ["/a", "/a"]
                    assert watch.progress == await store.revision()  # theirs counts, and is not told
                assert [kv.value for kv in (await other.range("")).items] == [b"theirs"]
                with pytest.raises(ValueTooLargeError):
                    await store.put("/big", bytes(2 << 20))
                # an answer beyond gRPC's 4 MiB
                for n in range(6):
                    await store.put(f"/many/{n}", bytes(1 << 20))
                assert sum(len(kv.value) for kv in (await store.range("/many/")).items) == 6 << 20
                with pytest.raises(ConflictError):
                    await store.put("/a", b"", expected_revision=revision)
            finally:
                await store.close()
                await other.close()

    async def test_a_member_dies_while_all_write(self, tmp_path: Path) -> None:
        with etcd.etcd_cluster(tmp_path) as members:
            config = members[0].config()
            urls = ",".join(member.url for member in members)
            stores = [
                await EtcdStore.open(
                    EtcdConfig(endpoints=parse_endpoints(urls), ca=config.ca, cert=config.cert, key=config.key)
                )
                for _ in range(2)
            ]
            acknowledged: dict[str, int] = {}
            failed: list[str] = []

            async def write(writer: int) -> None:
                for n in range(60):
                    key = f"/w/{writer}/{n}"
                    try:
                        acknowledged[key] = await stores[writer % 2].put(key, b"x", expected_revision=0)
                    except StoreUnavailableError:
                        failed.append(key)  # it may be there or not

            try:
                begin = await stores[0].revision()
                async with stores[1].watch("/w/", from_revision=begin + 1) as watch:
                    writing = [asyncio.create_task(write(n)) for n in range(6)]
                    seen = await take(watch, 40, at_least=True)
                    members[0].kill()  # the one that all of them use; perhaps the leader
                    await asyncio.wait(writing)
                    present = {kv.key: kv.mod_revision for kv in (await stores[0].range("/w/")).items}
                    seen += await take(watch, len(present) - len(seen))
                assert acknowledged.items() <= present.items()
                assert present.keys() <= acknowledged.keys() | set(failed)
                assert len(acknowledged) > 100
                assert [(e.kv.key, e.kv.mod_revision) for e in seen] == sorted(present.items(), key=lambda i: i[1])
            finally:
                for store in stores:
                    await store.close()

    async def test_who_shows_no_certificate_is_refused(self, tmp_path: Path) -> None:
        with etcd.etcd(tmp_path) as server:
            config = EtcdConfig(endpoints=server.config().endpoints, ca=server.ca)
            store = await EtcdStore.open(config, retry=Retry(seconds=0.5))
            with pytest.raises(StoreUnavailableError):
                await store.get("/a")
            await store.close()


def test_the_embedded_store_does_not_pay_for_grpc() -> None:
    code = "import sys, control.master; print([m for m in ('grpc', 'google.protobuf') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
