"""The members of the etcd cluster: a channel to each, and which one is used now.

One member serves every call until it fails; then the next one does (clientv3's balancer does the same). Each has a
channel of its own, because a certificate is checked against the name of the very member that shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from control.store.errors import StoreUnavailableError
from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd.config import Endpoint, EtcdConfig

# etcd refuses pings more often than every 5 s; a dead connection is noticed within the sum of these
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 10_000, 5_000
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # a range or a batch of events may be larger than gRPC's 4 MiB
    ("grpc.max_send_message_length", -1),  # etcd has its own limit (--max-request-bytes), and says so
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # in truth how long one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # two stores in one process share no connection
    ("grpc.enable_http_proxy", 0),
)

log = logging.getLogger(__name__)


class Member:
    """The calls of one member (services etcdserverpb.KV, Watch and Lease)."""

    def __init__(self, endpoint: Endpoint, credentials: grpc.ChannelCredentials | None) -> None:
        self.target = endpoint.target
        if endpoint.tls:
            assert credentials is not None
            self.channel = grpc.aio.secure_channel(endpoint.target, credentials, options=_OPTIONS)
        else:
            self.channel = grpc.aio.insecure_channel(endpoint.target, options=_OPTIONS)
        self.range = self._unary("KV/Range", rpc.RangeRequest, rpc.RangeResponse)
        self.put = self._unary("KV/Put", rpc.PutRequest, rpc.PutResponse)
        self.delete_range = self._unary("KV/DeleteRange", rpc.DeleteRangeRequest, rpc.DeleteRangeResponse)
        self.txn = self._unary("KV/Txn", rpc.TxnRequest, rpc.TxnResponse)
        self.compact = self._unary("KV/Compact", rpc.CompactionRequest, rpc.CompactionResponse)
        self.lease_grant = self._unary("Lease/LeaseGrant", rpc.LeaseGrantRequest, rpc.LeaseGrantResponse)
        self.lease_revoke = self._unary("Lease/LeaseRevoke", rpc.LeaseRevokeRequest, rpc.LeaseRevokeResponse)
        self.lease_keep_alive = self._stream(
            "Lease/LeaseKeepAlive", rpc.LeaseKeepAliveRequest, rpc.LeaseKeepAliveResponse
        )
        self.watch = self._stream("Watch/Watch", rpc.WatchRequest, rpc.WatchResponse)

    async def keep_alive_once(
        self, request: rpc.LeaseKeepAliveRequest, *, timeout: float, metadata: tuple[tuple[str, str], ...]
    ) -> rpc.LeaseKeepAliveResponse:
        """One renewal: etcd has a stream for it, which is as good for one."""
        stream = self.lease_keep_alive(timeout=timeout, metadata=metadata)
        try:
            await stream.write(request)
            response = await stream.read()
        finally:
            stream.cancel()
        if isinstance(response, rpc.LeaseKeepAliveResponse):
            return response
        none = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, "the stream ended early")

    def _unary(self, name: str, request: Any, response: Any) -> Callable[..., Any]:
        found: Callable[..., Any] = self.channel.unary_unary(
            f"/etcdserverpb.{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return found

    def _stream(self, name: str, request: Any, response: Any) -> Callable[..., Any]:
        found: Callable[..., Any] = self.channel.stream_stream(
            f"/etcdserverpb.{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return found


class Members:
    """All members; `current` is the one in use. Reads the certificates: StoreUnavailableError if it cannot."""

    def __init__(self, config: EtcdConfig) -> None:
        credentials = _credentials(config) if any(endpoint.tls for endpoint in config.endpoints) else None
        self._members = [Member(endpoint, credentials) for endpoint in config.endpoints]
        self._at = 0

    def __len__(self) -> int:
        return len(self._members)

    @property
    def current(self) -> Member:
        return self._members[self._at]

    def failed(self, member: Member) -> None:
        """A call to `member` has failed: use the next one, unless somebody has moved on already."""
        if member is self.current and len(self._members) > 1:
            self._at = (self._at + 1) % len(self._members)
            log.info("etcd member %s fails, going on with %s", member.target, self.current.target)

    async def close(self) -> None:
        """Close all channels; what is under way on them is cancelled."""
        for member in self._members:
            await member.channel.close()


def _credentials(config: EtcdConfig) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=config.ca.read_bytes() if config.ca else None,
            private_key=config.key.read_bytes() if config.key else None,
            certificate_chain=config.cert.read_bytes() if config.cert else None,
        )
    except OSError as error:
        raise StoreUnavailableError(
            f"{error.filename}: {error.strerror}", mend="Check --etcd-ca, --etcd-cert and --etcd-key"
        ) from error
