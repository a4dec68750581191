"""SPDY/3.1 frames: known bytes, and whatever is encoded is decoded again, in pieces of any size."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.kubelet.server import spdy
from agent.kubelet.server.spdy import Data, Decoder, Encoder, Frame, SynStream

NAMES = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=12)
HEADERS = st.dictionaries(NAMES, st.text(max_size=20), max_size=5)
IDS = st.integers(1, 0x7FFFFFFF)
NUMBERS = st.integers(0, 0xFFFFFFFF)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(SynStream, IDS, HEADERS, st.booleans(), st.booleans()),
    st.builds(spdy.SynReply, IDS, HEADERS, st.booleans()),
    st.builds(spdy.Headers, IDS, HEADERS, st.booleans()),
    st.builds(spdy.RstStream, IDS, NUMBERS),
    st.builds(spdy.Settings, st.dictionaries(st.integers(0, 0xFFFFFF), NUMBERS, max_size=3)),
    st.builds(spdy.Ping, NUMBERS),
    st.builds(spdy.GoAway, IDS, NUMBERS),
    st.builds(spdy.WindowUpdate, IDS, NUMBERS),
    st.builds(Data, IDS, st.binary(max_size=100), st.booleans()),
)


def test_the_dictionary_is_the_protocols() -> None:
    # zlib names a dictionary by this checksum in the first bytes of each connection; all implementations agree on it
    assert (len(spdy.DICTIONARY), zlib.adler32(spdy.DICTIONARY)) == (1423, 0xE3C6A7C2)


@given(st.lists(FRAMES, max_size=12), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_round_trip(frames: list[Frame], size: int) -> None:
    encoder, decoder = Encoder(), Decoder()
    data = b"".join(encoder.encode(frame) for frame in frames)
    found: list[Frame] = []
    for start in range(0, len(data), size):
        found += decoder.feed(data[start : start + size])
    assert found == frames


@pytest.mark.parametrize(
    ("frame", "wanted"),
    [
        (spdy.Ping(7), "8003000600000004 00000007"),
        (spdy.RstStream(3, spdy.CANCEL), "8003000300000008 00000003 00000005"),
        (spdy.WindowUpdate(3, 256), "8003000900000008 00000003 00000100"),
        (spdy.GoAway(9, 0), "8003000700000008 00000009 00000000"),
        (Data(5, b"ab", fin=True), "00000005 01000002 6162"),
        (spdy.Settings({4: 100}), "800300040000000c 00000001 00000004 00000064"),
    ],
)
def test_known_bytes(frame: Frame, wanted: str) -> None:
    assert Encoder().encode(frame) == bytes.fromhex(wanted)
    assert list(Decoder().feed(bytes.fromhex(wanted))) == [frame]


def test_header_names_are_lower_case() -> None:
    frame = SynStream(1, {"requestID": "0"})
    assert list(Decoder().feed(Encoder().encode(frame))) == [SynStream(1, {"requestid": "0"})]


def test_unknown_control_frames_are_ignored() -> None:
    unknown = bytes.fromhex("8003 000b 00000002 ffff")
    assert list(Decoder().feed(unknown + Encoder().encode(spdy.Ping(1)))) == [spdy.Ping(1)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("8002000600000004 00000007", "version 2"),
        ("8003000600000002 0000", "broken frame of type 6"),
        ("800300010000000c 00000001 00000000 0000 ffff", "broken frame of type 1"),
        ("00000001 00ffffff", "a frame of 16777215 bytes"),
    ],
)
def test_what_is_not_spdy(data: str, message: str) -> None:
    with pytest.raises(spdy.SpdyError, match=message):
        list(Decoder().feed(bytes.fromhex(data)))


def test_a_small_frame_cannot_become_huge_headers() -> None:
    frame = Encoder().encode(SynStream(1, {"a": "x" * (1 << 20)}))
    assert len(frame) < 10_000
    with pytest.raises(spdy.SpdyError, match="headers of more than"):
        list(Decoder().feed(frame))
