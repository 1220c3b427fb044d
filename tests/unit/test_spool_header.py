"""The header of a spool: round trip, damage, and newer versions."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import pytest

from tallymark.errors import DamagedError, NewerFormatError, StorageError
from tallymark.spool_header import (
    FORMAT,
    MAGIC,
    RECORDS_OFFSET,
    SpoolHeader,
    decode_header,
    encode_header,
)
from tests.journals import flipped

PRODUCER = "0194a0b2-0000-7000-8000-000000000001"
HEADER = SpoolHeader(PRODUCER, "spotter", "server", ("/a.sock", "/b.sock"), 3, b"saltsalt", 7)


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        SpoolHeader(PRODUCER, "p", salt=b"x" * 8),
        SpoolHeader(PRODUCER, "ü" * 512, "s" * 36, ("/" + "x" * 106,) * 2, 2**63, b"y" * 8, 2**63),
        SpoolHeader(PRODUCER, "lone \udcff surrogate", salt=b"z" * 8),
    ],
)
def test_it_comes_back_as_it_was(header: SpoolHeader) -> None:
    data = encode_header(header)
    assert len(data) == RECORDS_OFFSET
    assert decode_header(data) == header


def test_a_header_that_no_reader_would_take_is_not_made() -> None:
    room = RECORDS_OFFSET - 68 - 4
    fitting = SpoolHeader(PRODUCER, "p" * (room - 6), "s" * 2, ("/s.x",), salt=b"x" * 8)
    assert decode_header(encode_header(fitting)) == fitting
    with pytest.raises(StorageError, match="cannot begin a spool: .* 1 bytes too long"):
        encode_header(replace(fitting, project="p" * (room - 5)))


def test_any_byte_that_changes_is_found() -> None:
    data = encode_header(HEADER)
    used = len(data.rstrip(b"\0"))
    for at in range(used):
        with pytest.raises(DamagedError):
            decode_header(flipped(data, at))


@pytest.mark.parametrize("data", [b"", bytes(RECORDS_OFFSET), encode_header(HEADER)[:-1]])
def test_what_is_no_spool(data: bytes) -> None:
    with pytest.raises(DamagedError):
        decode_header(data)


def test_a_newer_version_is_told_before_anything_else_is_believed() -> None:
    version = struct.pack("<8sHH", MAGIC, FORMAT + 1, FORMAT + 1)
    newer = version + struct.pack("<I", zlib.crc32(version)) + b"another layout"
    with pytest.raises(NewerFormatError, match=f"a reader of {FORMAT + 1}"):
        decode_header(newer.ljust(RECORDS_OFFSET, b"\0"))


def test_a_newer_writer_whose_files_this_version_reads() -> None:
    data = bytearray(encode_header(HEADER))
    data[:12] = struct.pack("<8sHH", MAGIC, FORMAT + 1, FORMAT)
    data[12:16] = struct.pack("<I", zlib.crc32(data[:12]))
    end = struct.calcsize("<8sHHI8s16sQQIII") + len("spotterserver/a.sock\0/b.sock")
    data[end : end + 4] = struct.pack("<I", zlib.crc32(data[:end]))
    assert decode_header(bytes(data)) == HEADER


def test_text_that_is_none_is_damage_though_the_checksum_holds() -> None:
    """A writer in another language may have written it."""
    whole = encode_header(replace(HEADER, project="p" * 6))
    body = whole.replace(b"p" * 6, b"caf\xff\xff\xff", 1)
    end = len(whole.rstrip(b"\0")) - 4
    data = body[:end] + struct.pack("<I", zlib.crc32(body[:end])) + body[end + 4 :]
    with pytest.raises(DamagedError, match="text that is none"):
        decode_header(data)
