"""Frames of SPDY/3.1 (draft 3.1 of the SPDY protocol), without any I/O: bytes in, frames out, and the other way round.

`kubectl port-forward` opens several streams over one WebSocket by it. Headers are compressed over the whole
connection with a dictionary that the protocol fixes, so frames must be encoded in the order in which they are sent, and
decoded in the order of arrival.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from enum import IntEnum

from msgspec import Struct, field

VERSION = 3
FLAG_FIN = 0x01
FLAG_UNIDIRECTIONAL = 0x02


class FrameType(IntEnum):
    """Types of control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


# Status codes of RST_STREAM.
PROTOCOL_ERROR, REFUSED_STREAM, CANCEL = 1, 3, 5

MAX_FRAME_BYTES = 4 << 20
MAX_HEADER_BYTES = 64 << 10
_STREAM_ID = 0x7FFFFFFF

HeaderMap = Mapping[str, str]


class SpdyError(Exception):
    """What came is not SPDY/3.1; the connection cannot go on."""


class SynStream(Struct, frozen=True):
    """The peer opens a stream."""

    stream_id: int
    headers: HeaderMap
    fin: bool = False
    unidirectional: bool = False


class SynReply(Struct, frozen=True):
    """The peer accepts a stream."""

    stream_id: int
    headers: HeaderMap = field(default_factory=dict)
    fin: bool = False


class RstStream(Struct, frozen=True):
    """A stream ends at once, in both directions."""

    stream_id: int
    status: int


class Settings(Struct, frozen=True):
    """How the peer would like the connection to be: identifier → value."""

    values: Mapping[int, int] = field(default_factory=dict)


class Ping(Struct, frozen=True):
    """To be sent back as it came, by whoever did not begin it."""

    ping_id: int


class GoAway(Struct, frozen=True):
    """The peer opens and accepts no more streams."""

    last_stream_id: int
    status: int = 0


class Headers(Struct, frozen=True):
    """More headers of an open stream."""

    stream_id: int
    headers: HeaderMap
    fin: bool = False


class WindowUpdate(Struct, frozen=True):
    """The peer can take so many more bytes on a stream (0: on the connection)."""

    stream_id: int
    delta: int


class Data(Struct, frozen=True):
    """Bytes of a stream; with `fin` the last ones in this direction."""

    stream_id: int
    data: bytes
    fin: bool = False


Frame = SynStream | SynReply | RstStream | Settings | Ping | GoAway | Headers | WindowUpdate | Data


# Names and values that headers usually have, as the protocol's dictionary lists them (SPDY/3, section 2.6.10.1): first
# words with their length before each, then plain text. `_` stands for a blank within a word.
_WORDS = """
    options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
    authorization cache-control connection content-base content-encoding content-language content-length
    content-location content-md5 content-range content-type date etag expect expires from host if-match
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie
    keep-alive origin
"""
_CODES = """
    100 101 201 202 205 206 300 302 303 304 305 306 307 402 405 406 407 408 409 410 411 412 413 414 415 416 417 502
    504 505 203_Non-Authoritative_Information 204_No_Content 301_Moved_Permanently 400_Bad_Request 401_Unauthorized
    403_Forbidden 404_Not_Found 500_Internal_Server_Error 501_Not_Implemented 503_Service_Unavailable
"""
_TEXT = (
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    words = (word.replace("_", " ").encode() for word in _WORDS.split())
    codes = "".join(_CODES.split()).replace("_", " ")
    return b"".join(struct.pack(">I", len(word)) + word for word in words) + (codes + _TEXT).encode()


DICTIONARY = _dictionary()


class Encoder:
    """Frames to bytes, for one connection."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(zdict=DICTIONARY)

    def encode(self, frame: Frame) -> bytes:
        """The bytes of a frame; to be sent in the order of encoding."""
        match frame:
            case Data():
                flags = FLAG_FIN if frame.fin else 0
                return struct.pack(">II", frame.stream_id & _STREAM_ID, flags << 24 | len(frame.data)) + frame.data
            case SynStream():
                flags = (FLAG_FIN if frame.fin else 0) | (FLAG_UNIDIRECTIONAL if frame.unidirectional else 0)
                body = struct.pack(">IIH", frame.stream_id, 0, 0) + self._headers(frame.headers)
                return _control(FrameType.SYN_STREAM, flags, body)
            case SynReply() | Headers():
                kind = FrameType.SYN_REPLY if isinstance(frame, SynReply) else FrameType.HEADERS
                body = struct.pack(">I", frame.stream_id) + self._headers(frame.headers)
                return _control(kind, FLAG_FIN if frame.fin else 0, body)
            case RstStream():
                return _control(FrameType.RST_STREAM, 0, struct.pack(">II", frame.stream_id, frame.status))
            case Settings():
                entries = b"".join(struct.pack(">II", key & 0xFFFFFF, value) for key, value in frame.values.items())
                return _control(FrameType.SETTINGS, 0, struct.pack(">I", len(frame.values)) + entries)
            case Ping():
                return _control(FrameType.PING, 0, struct.pack(">I", frame.ping_id))
            case GoAway():
                return _control(FrameType.GOAWAY, 0, struct.pack(">II", frame.last_stream_id, frame.status))
            case WindowUpdate():
                return _control(FrameType.WINDOW_UPDATE, 0, struct.pack(">II", frame.stream_id, frame.delta))

    def _headers(self, headers: HeaderMap) -> bytes:
        parts = [struct.pack(">I", len(headers))]
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                parts.append(struct.pack(">I", len(text)) + text)
        return self._compressor.compress(b"".join(parts)) + self._compressor.flush(zlib.Z_SYNC_FLUSH)


class Decoder:
    """Bytes to frames, for one connection; the bytes may come in pieces of any size."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._decompressor = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with this piece. Raises SpdyError. Exhaust it before the next call."""
        self._pending += data
        while len(self._pending) >= 8:
            first, second = struct.unpack_from(">II", self._pending)
            length = second & 0xFFFFFF
            if length > MAX_FRAME_BYTES:
                raise SpdyError(f"a frame of {length} bytes: at most {MAX_FRAME_BYTES} are taken")
            if len(self._pending) < 8 + length:
                return
            body = bytes(self._pending[8 : 8 + length])
            del self._pending[: 8 + length]
            flags = second >> 24
            if first >> 31 == 0:
                yield Data(first, body, bool(flags & FLAG_FIN))
                continue
            version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
            if version != VERSION:
                raise SpdyError(f"version {version} of SPDY, wanted {VERSION}")
            frame = self._control(kind, flags, body)
            if frame is not None:
                yield frame

    def _control(self, kind: int, flags: int, body: bytes) -> Frame | None:
        fin = bool(flags & FLAG_FIN)
        try:
            match kind:
                case FrameType.SYN_STREAM:
                    (stream_id,) = struct.unpack_from(">I", body)
                    return SynStream(
                        stream_id & _STREAM_ID, self._headers(body[10:]), fin, bool(flags & FLAG_UNIDIRECTIONAL)
                    )
                case FrameType.SYN_REPLY:
                    (stream_id,) = struct.unpack_from(">I", body)
                    return SynReply(stream_id & _STREAM_ID, self._headers(body[4:]), fin)
                case FrameType.RST_STREAM:
                    return RstStream(*struct.unpack(">II", body))
                case FrameType.SETTINGS:
                    (count,) = struct.unpack_from(">I", body)
                    entries = struct.iter_unpack(">II", body[4 : 4 + 8 * count])
                    return Settings({key & 0xFFFFFF: value for key, value in entries})
                case FrameType.PING:
                    return Ping(*struct.unpack(">I", body))
                case FrameType.GOAWAY:
                    return GoAway(*struct.unpack(">II", body))
                case FrameType.HEADERS:
                    (stream_id,) = struct.unpack_from(">I", body)
                    return Headers(stream_id & _STREAM_ID, self._headers(body[4:]), fin)
                case FrameType.WINDOW_UPDATE:
                    return WindowUpdate(*struct.unpack(">II", body))
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise SpdyError(f"a broken frame of type {kind}: {error}") from error
        return None  # types that nobody knows are to be ignored

    def _headers(self, compressed: bytes) -> dict[str, str]:
        block = self._decompressor.decompress(compressed, MAX_HEADER_BYTES)
        if self._decompressor.unconsumed_tail:
            raise SpdyError(f"headers of more than {MAX_HEADER_BYTES} bytes")
        (count,) = struct.unpack_from(">I", block)
        found, at = {}, 4
        for _ in range(count):
            texts = []
            for _ in range(2):
                (length,) = struct.unpack_from(">I", block, at)
                text = block[at + 4 : at + 4 + length]
                if len(text) != length:
                    raise SpdyError("headers end too early")
                texts.append(text.decode())
                at += 4 + length
            found[texts[0]] = texts[1]
        return found


def _control(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, flags << 24 | len(body)) + body
