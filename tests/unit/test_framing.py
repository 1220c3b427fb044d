"""Frames: lengths, limits, and bytes that come in pieces."""

from __future__ import annotations

import pytest

from tallymark.errors import ProtocolError
from tallymark.protocol.framing import FRAME_BYTES_MAX, PREFACE, FrameDecoder, frame


def test_the_preface_is_what_it_was_for_ever() -> None:
    assert PREFACE.hex() == "c1544d01"


def test_a_frame_is_a_little_endian_length_and_the_payload() -> None:
    assert frame(b"abc") == b"\x03\x00\x00\x00abc"


@pytest.mark.parametrize("size", [0, FRAME_BYTES_MAX + 1])
def test_payloads_beyond_the_limits_are_not_framed(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"{size} bytes"):
        frame(bytes(size))


def test_the_largest_frame_comes_out_whole() -> None:
    payload = bytes(FRAME_BYTES_MAX)
    assert FrameDecoder().feed(frame(payload)) == [payload]


def test_several_frames_at_once_and_the_rest_of_one() -> None:
    decoder = FrameDecoder()
    stream = frame(b"one") + frame(b"two") + frame(b"three")
    assert decoder.feed(stream[:-2]) == [b"one", b"two"]
    assert decoder.buffered_bytes == 7
    assert decoder.missing_bytes == 2
    assert decoder.feed(stream[-2:]) == [b"three"]
    assert decoder.buffered_bytes == 0


def test_byte_by_byte() -> None:
    decoder = FrameDecoder()
    found = [payload for byte in frame(b"abc") for payload in decoder.feed(bytes([byte]))]
    assert found == [b"abc"]


@pytest.mark.parametrize("length", [0, FRAME_BYTES_MAX + 1, 2**32 - 1])
def test_a_wrong_length_is_refused_before_its_payload_is_kept(length: int) -> None:
    decoder = FrameDecoder()
    with pytest.raises(ProtocolError, match=f"frame of {length} bytes"):
        decoder.feed(length.to_bytes(4, "little"))


def test_payloads_do_not_share_memory_with_what_was_fed() -> None:
    data = bytearray(frame(b"abc"))
    (payload,) = FrameDecoder().feed(data)
    data[4] = 0
    assert payload == b"abc"
