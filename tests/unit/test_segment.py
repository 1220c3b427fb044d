from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tallymark.errors import DamagedError, NewerFormatError
from tallymark.record import Kind, Record, append_record
from tallymarkd.storage.segment import (
    HEADER_COPY_BYTES,
    RECORDS_OFFSET,
    Gap,
    SegmentHeader,
    decode_header,
    encode_header,
    segment_name,
    segment_number,
    walk,
)
from tests.journals import flipped, zeroed

SALT = b"saltsalt"
HEADER = SegmentHeader(
    salt=SALT,
    server_id=bytes(range(16)),
    number=3,
    first_lsn=100,
    prev_last_lsn=99,
    next_lsn=120,
    created_ns=1_700_000_000_000_000_000,
    prev_crc=0xABCD,
)


def test_names() -> None:
    assert segment_name(12) == "000000000012.seg"
    assert segment_number("000000000012.seg") == 12


@pytest.mark.parametrize(
    "name",
    ["spare", "12.seg", "000000000012.tmp", "000000000012.seg.bak", "00000000001x.seg", "x.seg",
     "٠00000000012.seg", "000000000012"],
)  # fmt: skip
def test_other_names_are_no_segments(name: str) -> None:
    assert segment_number(name) is None


def test_a_header_comes_back_as_it_was_written() -> None:
    assert decode_header(encode_header(HEADER)) == (HEADER, True)


def test_every_field_stands_where_the_format_says() -> None:
    data = encode_header(HEADER)
    version = struct.pack("<8sHH", b"TLYMKSEG", 1, 1)
    fields = struct.pack(
        "<8s16sQQQQQI4x", SALT, bytes(range(16)), 3, 100, 99, 120,
        1_700_000_000_000_000_000, 0xABCD,
    )  # fmt: skip
    body = version + struct.pack("<I", zlib.crc32(version)) + fields
    assert data[:92] == body + struct.pack("<I", zlib.crc32(body))
    assert data[92:HEADER_COPY_BYTES] == bytes(HEADER_COPY_BYTES - 92)
    assert data[HEADER_COPY_BYTES:] == data[:HEADER_COPY_BYTES]
    assert len(data) == RECORDS_OFFSET == 8192


@pytest.mark.parametrize("copy", [0, HEADER_COPY_BYTES])
@pytest.mark.parametrize("at", [0, 8, 10, 12, 16, 40, 84, 88, 91])
def test_one_copy_is_enough(copy: int, at: int) -> None:
    assert decode_header(flipped(encode_header(HEADER), copy + at)) == (HEADER, False)


def test_no_copy_is_too_few() -> None:
    data = flipped(flipped(encode_header(HEADER), 20), HEADER_COPY_BYTES + 20)
    for broken in (data, b"", bytes(RECORDS_OFFSET), encode_header(HEADER)[:91]):
        with pytest.raises(DamagedError, match="neither copy"):
            decode_header(broken)


def newer(rest: bytes) -> bytes:
    """A copy of a format to come: of what follows the version nothing is known."""
    version = struct.pack("<8sHH", b"TLYMKSEG", 9, 8)
    body = version + struct.pack("<I", zlib.crc32(version)) + rest
    return body.ljust(HEADER_COPY_BYTES, b"\0")


@pytest.mark.parametrize("first", [newer(b"whatever"), bytes(HEADER_COPY_BYTES)])
def test_a_newer_format_is_told_from_damage(first: bytes) -> None:
    with pytest.raises(
        NewerFormatError, match=r"format 9 and needs a reader of 8; this .* reads 1"
    ):
        decode_header(first + newer(b"whatever"))


def test_a_version_that_does_not_verify_is_damage_and_not_newer() -> None:
    data = bytearray(encode_header(HEADER))
    data[10] = data[HEADER_COPY_BYTES + 10] = 8
    with pytest.raises(DamagedError):
        decode_header(bytes(data))


def test_a_newer_writer_that_this_version_may_read() -> None:
    header = replace(HEADER, format=2)
    assert decode_header(encode_header(header)) == (header, True)


def file_of(
    payloads: Sequence[bytes], *, lsns: Sequence[int] = (), free: int = 0
) -> tuple[bytes, list[Record]]:
    data = bytearray(encode_header(HEADER))
    crc = 0
    for number, payload in enumerate(payloads):
        crc = append_record(
            data.extend,
            salt=SALT,
            offset=len(data),
            kind=Kind.BATCH,
            lsn=lsns[number] if lsns else 100 + number,
            count=1,
            durable_lsn=99,
            prev_crc=crc,
            payload=payload,
        )
    whole = bytes(data) + bytes(free)
    return whole, [item for item in walk(whole, SALT) if isinstance(item, Record)]


FOUR = [b"a" * 100, b"b" * 700, b"c" * 100, b"d" * 100]


@pytest.mark.parametrize("free", [0, 8, 5000, 3 * 1024 * 1024])
def test_records_in_order_and_free_blocks_are_no_gap(free: int) -> None:
    whole, _ = file_of(FOUR, free=free)
    items = list(walk(whole, SALT))
    assert [item.payload if isinstance(item, Record) else item for item in items] == FOUR


def test_an_empty_segment() -> None:
    assert list(walk(file_of([], free=100)[0], SALT)) == []
    assert list(walk(encode_header(HEADER)[:50], SALT)) == []


def test_a_broken_payload_is_a_gap_of_exactly_its_record() -> None:
    whole, records = file_of(FOUR, free=5000)
    second = records[1]
    items = list(walk(flipped(whole, second.offset + 90), SALT))
    gap = items[1]
    assert isinstance(gap, Gap)
    assert (gap.offset, gap.end) == (second.offset, second.end)
    assert gap.known is not None
    assert (gap.known.lsn, gap.known.crc, gap.known.payload) == (101, second.crc, b"")
    assert "payload" in gap.reason
    assert items[0] == records[0]
    assert items[2:] == records[2:]


def test_two_broken_payloads_in_a_row_are_two_gaps() -> None:
    whole, records = file_of(FOUR)
    broken = flipped(flipped(whole, records[1].offset + 90), records[2].offset + 90)
    items = list(walk(broken, SALT))
    known = [item.known for item in items if isinstance(item, Gap)]
    assert [record.lsn for record in known if record] == [101, 102]
    assert [items[0], items[3]] == [records[0], records[3]]


def test_after_a_broken_header_the_next_is_searched() -> None:
    whole, records = file_of(FOUR)
    items = list(walk(flipped(whole, records[1].offset + 30), SALT))
    assert items[1] == Gap(
        records[1].offset,
        records[2].offset,
        None,
        f"the record header at offset {records[1].offset} does not verify",
    )
    assert [items[0], *items[2:]] == [records[0], *records[2:]]


def test_after_a_broken_header_a_header_with_a_broken_payload_is_still_known() -> None:
    whole, records = file_of(FOUR)
    broken = flipped(flipped(whole, records[1].offset + 30), records[2].offset + 90)
    items = list(walk(broken, SALT))
    gaps = [item for item in items if isinstance(item, Gap)]
    assert [(gap.offset, gap.end, gap.known and gap.known.lsn) for gap in gaps] == [
        (records[1].offset, records[1].end, None),
        (records[2].offset, records[2].end, 102),
    ]
    assert items[-1] == records[3]


def test_a_torn_tail_reaches_to_the_zeros() -> None:
    whole, records = file_of(FOUR, free=2 * 1024 * 1024)
    last = records[-1]
    torn = zeroed(whole, last.offset, 40)
    items = list(walk(torn, SALT))
    assert items[:-1] == records[:-1]
    gap = items[-1]
    assert isinstance(gap, Gap)
    assert (gap.offset, gap.end, gap.known) == (last.offset, last.offset + 180, None)


def test_a_cut_in_the_payload_leaves_the_header() -> None:
    whole, records = file_of(FOUR)
    items = list(walk(whole[: records[3].offset + 120], SALT))
    gap = items[-1]
    assert isinstance(gap, Gap)
    assert gap.known is not None
    assert (gap.known.lsn, gap.end) == (103, records[3].offset + 120)
    assert "cut short" in gap.reason


def test_what_is_left_over_from_a_write_given_up_is_not_believed() -> None:
    """Three records were given up, the place of the first was taken by one whose number is
    higher; the others are still there, whole and in their places."""
    given_up, old = file_of([b"1", b"2" * 10, b"3" * 10, b"4" * 10])
    new, _ = file_of([b"1", b"5" * 10], lsns=[100, 200])
    assert len(new) == old[2].offset
    *whole, gap = walk(new + given_up[len(new) :], SALT)
    assert [item.lsn for item in whole if isinstance(item, Record)] == [100, 200]
    assert isinstance(gap, Gap)
    assert (gap.offset, gap.end, gap.known) == (old[2].offset, old[3].offset + 90, None)
    assert "does not follow" in gap.reason


def test_a_record_follows_the_one_before_and_no_other() -> None:
    one, records = file_of([b"1" * 10, b"2" * 10])
    other, _ = file_of([b"3" * 10, b"4" * 10])
    second = records[1].offset
    first, gap = walk(other[:second] + one[second:], SALT)
    assert isinstance(first, Record)
    assert isinstance(gap, Gap)
    assert (gap.offset, gap.known) == (second, None)
    assert "does not follow" in gap.reason


def test_after_a_gap_only_higher_numbers_are_believed() -> None:
    whole, records = file_of(FOUR, lsns=[100, 150, 149, 160])
    assert [record.lsn for record in records] == [100, 150, 160]
    broken = list(walk(flipped(whole, records[1].offset + 4), SALT))
    assert [item.lsn for item in broken if isinstance(item, Record)] == [100, 149, 160]


def test_another_files_records_are_no_records() -> None:
    whole, _ = file_of(FOUR)
    (gap,) = walk(whole, b"another!")
    assert isinstance(gap, Gap)
    assert (gap.offset, gap.known) == (RECORDS_OFFSET, None)
