from __future__ import annotations

import socket

import pytest

from provision.ssh.forward import _pump


class Channel:
    """The far end, over a connection that is gone when the end is to be passed on."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.got = b""
        self.hung_up = 0

    def sendall(self, data: bytes) -> None:
        self.got += data

    def shutdown(self, how: int) -> None:
        self.hung_up += how == socket.SHUT_RDWR
        raise self._error


@pytest.mark.parametrize("error", [EOFError(), OSError("Socket is closed")])
def test_a_connection_that_is_gone_ends_both_ways(error: Exception) -> None:
    near, peer = socket.socketpair()
    with near, peer:
        peer.sendall(b"last words")
        peer.shutdown(socket.SHUT_WR)
        far = Channel(error)
        _pump(near, far)  # type: ignore[arg-type] # as much of a channel as is needed
        assert far.got == b"last words"
        assert far.hung_up == 1
        peer.settimeout(5)
        assert peer.recv(1) == b""
