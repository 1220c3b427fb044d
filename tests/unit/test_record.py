from __future__ import annotations

import struct
import zlib

import pytest

from tallymark.errors import DamagedError
from tallymark.record import (
    HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    Kind,
    Record,
    append_record,
    find_header,
    read_header,
    read_record,
    record_bytes,
)

SALT = b"saltsalt"
PRODUCER = bytes(range(16))
OFFSET = 8192


def written(
    payload: bytes = b"payload",
    *,
    out: bytearray | None = None,
    salt: bytes = SALT,
    offset: int = OFFSET,
    lsn: int = 7,
) -> bytearray:
    data = bytearray() if out is None else out
    append_record(
        data.extend,
        salt=salt,
        offset=offset,
        kind=Kind.BATCH,
        lsn=lsn,
        count=3,
        durable_lsn=5,
        prev_crc=0xABCD,
        payload=payload,
        producer=PRODUCER,
        seq=9,
    )
    return data


def test_a_record_comes_back_as_it_was_written() -> None:
    record = read_record(written(), 0, salt=SALT, offset=OFFSET)
    crc = struct.unpack_from("<I", written(), 8)[0]
    assert record == Record(Kind.BATCH, 7, 3, 5, PRODUCER, 9, 9, 0xABCD, b"payload", crc, OFFSET)
    assert (record.last_lsn, record.size, record.end) == (9, 88, OFFSET + 88)


def test_a_skip_has_a_first_and_a_last_seq() -> None:
    data = bytearray()
    append_record(
        data.extend, salt=SALT, offset=0, kind=Kind.SKIP, lsn=1, count=1, durable_lsn=0, prev_crc=0,
        payload=b"", producer=PRODUCER, seq=20, from_seq=11,
    )  # fmt: skip
    record = read_record(data, 0, salt=SALT, offset=0)
    assert (record.from_seq, record.seq) == (11, 20)


def test_every_field_stands_where_the_format_says() -> None:
    data = bytes(written())
    assert data[:8] == SALT
    assert data[12:80] == struct.pack(
        "<IIIQQIB3x16sQQ", zlib.crc32(b"payload"), 7, 0xABCD, 7, 5, 3, 1, PRODUCER, 9, 9
    )
    place = struct.pack("<8sQ", SALT, OFFSET)
    assert data[8:12] == struct.pack("<I", zlib.crc32(place + data[12:80]))
    assert data[80:] == b"payload\0"


@pytest.mark.parametrize("payload_bytes", range(17))
def test_records_are_aligned(payload_bytes: int) -> None:
    data = written(bytes(payload_bytes))
    assert len(data) == record_bytes(payload_bytes)
    assert len(data) % 8 == 0
    assert 0 <= len(data) - HEADER_BYTES - payload_bytes < 8


def test_no_byte_can_change_unseen() -> None:
    whole = bytes(written())
    for at in range(HEADER_BYTES + len(b"payload")):
        for bit in (0x01, 0x80):
            broken = bytearray(whole)
            broken[at] ^= bit
            with pytest.raises(DamagedError):
                read_record(broken, 0, salt=SALT, offset=OFFSET)


def test_a_record_is_valid_only_in_its_place_and_file() -> None:
    data = written()
    with pytest.raises(DamagedError, match="no record at offset"):
        read_record(data, 0, salt=b"another!", offset=OFFSET)
    with pytest.raises(DamagedError, match="header at offset 8200 does not verify"):
        read_record(data, 0, salt=SALT, offset=OFFSET + 8)


@pytest.mark.parametrize("left", range(0, HEADER_BYTES + len(b"payload"), 3))
def test_a_record_cut_short_is_refused(left: int) -> None:
    with pytest.raises(DamagedError):
        read_record(bytes(written()[:left]), 0, salt=SALT, offset=OFFSET)


def forged(**changes: int) -> bytes:
    """A record with impossible numbers, whose checksums hold."""
    numbers = {"length": 7, "count": 3} | changes
    fields = struct.pack(
        "<IIIQQIB3x16sQQ", zlib.crc32(b"payload"), numbers["length"], 0, 7, 5, numbers["count"], 1,
        PRODUCER, 9, 9,
    )  # fmt: skip
    crc = zlib.crc32(struct.pack("<8sQ", SALT, OFFSET) + fields)
    return SALT + struct.pack("<I", crc) + fields + b"payload\0"


def test_a_length_is_not_believed_beyond_the_limit_or_the_file() -> None:
    assert read_record(forged(), 0, salt=SALT, offset=OFFSET).payload == b"payload"
    with pytest.raises(DamagedError, match="none can say"):
        read_record(forged(length=PAYLOAD_BYTES_MAX + 1), 0, salt=SALT, offset=OFFSET)
    with pytest.raises(DamagedError, match="cut short"):
        read_record(forged(length=9), 0, salt=SALT, offset=OFFSET)


def test_a_record_takes_at_least_one_number() -> None:
    with pytest.raises(DamagedError, match="none can say"):
        read_record(forged(count=0), 0, salt=SALT, offset=OFFSET)


@pytest.mark.parametrize(("count", "payload_bytes"), [(0, 1), (1, PAYLOAD_BYTES_MAX + 1)])
def test_what_no_reader_would_take_back_is_not_written(count: int, payload_bytes: int) -> None:
    data = bytearray()
    with pytest.raises(ValueError, match="cannot write a record"):
        append_record(
            data.extend, salt=SALT, offset=0, kind=Kind.BATCH, lsn=1, count=count, durable_lsn=0,
            prev_crc=0, payload=bytes(payload_bytes),
        )  # fmt: skip
    assert not data


def test_the_largest_payload_is_taken_back() -> None:
    data = written(bytes(PAYLOAD_BYTES_MAX))
    assert len(read_record(data, 0, salt=SALT, offset=OFFSET).payload) == PAYLOAD_BYTES_MAX


def test_a_header_tells_whose_a_broken_payload_was() -> None:
    data = written()
    data[HEADER_BYTES] ^= 1
    found = read_header(data, 0, salt=SALT, offset=OFFSET)
    assert found is not None
    record, size = found
    assert (record.producer, record.seq, record.lsn, record.count) == (PRODUCER, 9, 7, 3)
    assert (record.payload, size) == (b"", 88)
    data[20] ^= 1
    assert read_header(data, 0, salt=SALT, offset=OFFSET) is None


def test_a_header_tells_its_size_also_when_the_file_ends_before() -> None:
    found = read_header(bytes(written()[:HEADER_BYTES]), 0, salt=SALT, offset=OFFSET)
    assert found is not None
    assert found[1] == 88


def test_headers_are_found_after_damage() -> None:
    data = bytearray(64)
    data += written(offset=64, lsn=10)
    second = len(data)
    written(out=data, offset=second, lsn=20)
    assert [
        found.lsn if (found := find_header(bytes(data), at, salt=SALT)) else None
        for at in (0, 64, 65, second, second + 1)
    ] == [10, 10, 20, 20, None]


def test_the_magic_alone_is_no_header() -> None:
    data = SALT + bytes(72) + b"x" + SALT + bytes(79)
    data += bytes(-len(data) % 8)
    offset = len(data)
    data += written(offset=offset)
    found = find_header(data, 0, salt=SALT)
    assert found is not None
    assert found.offset == offset


def test_a_whole_record_at_another_offset_is_not_found() -> None:
    assert find_header(bytes(8) + bytes(written(offset=0)), 0, salt=SALT) is None


def test_a_whole_record_that_is_not_aligned_is_not_found() -> None:
    assert find_header(bytes(4) + bytes(written(offset=4)), 0, salt=SALT) is None
