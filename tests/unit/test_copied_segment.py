from __future__ import annotations

import pytest

from tallymark.errors import NewerFormatError
from tallymark.record import Kind, append_record
from tallymarkd.storage.copied_segment import worth_copying
from tallymarkd.storage.segment import RECORDS_OFFSET, SegmentHeader, encode_header

SALT = bytes(range(8))
ZEROS = bytes(64 * 1024)


def header(**fields: int) -> bytes:
    return encode_header(
        SegmentHeader(
            salt=SALT, server_id=bytes(16), number=3, first_lsn=11, prev_last_lsn=10, next_lsn=11,
            created_ns=1, **fields,
        )
    )  # fmt: skip


class Segment:
    """Bytes of a segment whose records have one number each, from 11 on."""

    def __init__(self, count: int) -> None:
        data, crc = bytearray(header()), 0
        self.ends = [RECORDS_OFFSET]
        for lsn in range(11, 11 + count):
            crc = append_record(
                data.extend, salt=SALT, offset=len(data), kind=Kind.BATCH, lsn=lsn, count=1,
                durable_lsn=lsn - 1, prev_crc=crc, payload=b"payload %d" % lsn * 20,
            )  # fmt: skip
            self.ends.append(len(data))
        self.data = bytes(data)

    def without(self, number: int) -> bytes:
        """One of its records is zeros, as where a reader came before the writer."""
        start, end = self.ends[number - 11], self.ends[number - 10]
        return self.data[:start] + bytes(end - start) + self.data[end:]


@pytest.mark.parametrize("needed_lsn", [None, 10, 15])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_blocks_allocated_ahead_are_left_out(count: int, needed_lsn: int | None) -> None:
    segment = Segment(count)

    assert worth_copying(segment.data + ZEROS, needed_lsn=needed_lsn) == segment.data


def test_beyond_what_is_needed_it_is_cut_where_it_does_not_verify() -> None:
    """A later record that was seen would prove that the one before had been durable."""
    segment = Segment(5)
    data = segment.without(13) + ZEROS

    assert worth_copying(data, needed_lsn=12) == segment.data[: segment.ends[2]]
    assert worth_copying(data, needed_lsn=0) == segment.data[: segment.ends[2]]


def test_what_is_needed_and_does_not_verify_stays_to_be_found() -> None:
    segment = Segment(5)
    data = segment.without(13)

    assert worth_copying(data + ZEROS, needed_lsn=13) == data


def test_of_a_stopped_daemon_torn_bytes_stay() -> None:
    segment = Segment(3)
    torn = segment.data[:-20]

    # Its header verifies, and tells how far the record goes.
    assert worth_copying(torn + ZEROS, needed_lsn=None) == torn + bytes(20)
    assert worth_copying(segment.without(12), needed_lsn=None) == segment.without(12)


def test_without_a_header_all_of_it_stays() -> None:
    data = bytes(RECORDS_OFFSET) + Segment(2).data[RECORDS_OFFSET:]

    assert worth_copying(data, needed_lsn=10) == data
    assert worth_copying(b"", needed_lsn=10) == b""


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(NewerFormatError):
        worth_copying(header(format=9, oldest_reader=9), needed_lsn=None)
