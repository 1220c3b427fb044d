"""One journal file: the header twice, then records. Pure bytes.

::

    offset size field (little-endian)
         0    8 magic          "TLYMKSEG"
         8    2 format         version of whoever wrote it
        10    2 oldest_reader  oldest version that may read it
        12    4 version_crc    CRC-32 of bytes 0..11
        16    8 salt           random; the magic of this file's records
        24   16 server_id      UUID of the state directory
        40    8 number         of this file: 1, 2, 3, …
        48    8 first_lsn      the first number that may stand here
        56    8 prev_last_lsn  where the journal ended before; 0 at its beginning
        64    8 next_lsn       numbers below may have been given before this was written
        72    8 created_ns     nanoseconds since 1970
        80    4 prev_crc       header CRC of the last record before; 0 where unknown
        84    4 zero
        88    4 crc            CRC-32 of bytes 0..87
        92      zeros to 4096
      4096      the same 4096 bytes again
      8192      records (tallymark.record), then zeros

Bytes 0 to 15 stand there in every version, so that any reader can tell a newer
file from a damaged one.

A file gets its name only when both headers are durable, and only after the
file before it was synced. So a header that verifies proves that everything
through ``prev_last_lsn`` had been durable. ``next_lsn`` is more than that after
an unclean stop: numbers may have been given that left no trace.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tallymark.errors import DamagedError, NewerFormatError
from tallymark.record import (
    ALIGNMENT_BYTES,
    Record,
    find_header,
    read_header,
    read_record,
)

MAGIC = b"TLYMKSEG"
FORMAT = 1
OLDEST_READER = 1

HEADER_COPY_BYTES = 4096
"""Each copy in a sector of its own, also on drives with 4 KiB sectors."""

RECORDS_OFFSET = 2 * HEADER_COPY_BYTES

_version = struct.Struct("<8sHH")
_fields = struct.Struct("<8s16sQQQQQI4x")
_crc = struct.Struct("<I")
_FIELDS_OFFSET = _version.size + _crc.size
_CRC_OFFSET = _FIELDS_OFFSET + _fields.size
assert _CRC_OFFSET == 88
assert RECORDS_OFFSET % ALIGNMENT_BYTES == 0


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself."""

    salt: bytes
    server_id: bytes
    number: int
    first_lsn: int
    prev_last_lsn: int
    next_lsn: int
    created_ns: int
    prev_crc: int = 0
    format: int = FORMAT
    oldest_reader: int = OLDEST_READER

    def copied(self, salt: bytes, next_lsn: int) -> SegmentHeader:
        """The same segment, written anew under another salt."""
        return replace(self, salt=salt, next_lsn=next_lsn)


class FoundHeader(NamedTuple):
    """A header, and whether both of its copies verify."""

    header: SegmentHeader
    whole: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes between records that do not verify.

    ``known`` is the one record that stood there, with an empty payload, when
    its header verifies and only its payload does not; then the gap is exactly
    that record. None when nothing tells what stood there.
    """

    offset: int
    end: int
    known: Record | None
    reason: str


def segment_name(number: int) -> str:
    """File name of a segment."""
    return f"{number:012d}.seg"


def segment_number(name: str) -> int | None:
    """The number in a segment's file name; None for any other name."""
    stem, dot, suffix = name.partition(".")
    if dot and suffix == "seg" and len(stem) == 12 and stem.isascii() and stem.isdigit():
        return int(stem)
    return None


def encode_header(header: SegmentHeader) -> bytes:
    """Both copies: the first ``RECORDS_OFFSET`` bytes of the file."""
    version = _version.pack(MAGIC, header.format, header.oldest_reader)
    fields = _fields.pack(
        header.salt,
        header.server_id,
        header.number,
        header.first_lsn,
        header.prev_last_lsn,
        header.next_lsn,
        header.created_ns,
        header.prev_crc,
    )
    body = version + _crc.pack(zlib.crc32(version)) + fields
    copy = (body + _crc.pack(zlib.crc32(body))).ljust(HEADER_COPY_BYTES, b"\0")
    return copy + copy


def decode_header(data: bytes) -> FoundHeader:
    """The header at the beginning of a segment.

    Raises ``NewerFormatError`` when it wants a newer reader, before anything
    else is believed, and ``DamagedError`` when neither copy verifies.
    """
    for at in (0, HEADER_COPY_BYTES):
        _refuse_newer(data, at)
    copies = [_decode_copy(data, at) for at in (0, HEADER_COPY_BYTES)]
    whole = [copy for copy in copies if copy is not None]
    if not whole:
        raise DamagedError("neither copy of the segment header verifies")
    return FoundHeader(whole[0], len(whole) == len(copies))


def _refuse_newer(data: bytes, at: int) -> None:
    end = at + _version.size
    if len(data) < end + _crc.size or data[at : at + len(MAGIC)] != MAGIC:
        return
    if zlib.crc32(data[at:end]) != _crc.unpack_from(data, end)[0]:
        return
    _, version, oldest = _version.unpack_from(data, at)
    if oldest > FORMAT:
        raise NewerFormatError(
            f"it was written in format {version} and needs a reader of {oldest}; "
            f"this version reads {FORMAT}"
        )


def _decode_copy(data: bytes, at: int) -> SegmentHeader | None:
    end = at + _CRC_OFFSET
    if len(data) < end + _crc.size or data[at : at + len(MAGIC)] != MAGIC:
        return None
    if zlib.crc32(data[at:end]) != _crc.unpack_from(data, end)[0]:
        return None
    _, version, oldest = _version.unpack_from(data, at)
    salt, server_id, number, first_lsn, prev_last_lsn, next_lsn, created_ns, prev_crc = (
        _fields.unpack_from(data, at + _FIELDS_OFFSET)
    )
    return SegmentHeader(
        salt=salt,
        server_id=server_id,
        number=number,
        first_lsn=first_lsn,
        prev_last_lsn=prev_last_lsn,
        next_lsn=next_lsn,
        created_ns=created_ns,
        prev_crc=prev_crc,
        format=version,
        oldest_reader=oldest,
    )


def walk(data: bytes, salt: bytes) -> Iterator[Record | Gap]:
    """Every record of a segment in order, and every gap of bytes that do not verify.

    ``data`` is the whole file. The zeros of blocks allocated ahead are no gap.
    Where verification stops, the rest of the file is searched for the salt.
    Numbers only go up: a whole record with a lower one is left over from a write
    that was given up, and belongs to a gap.
    """
    at = RECORDS_OFFSET
    last = _Last(0, -1)
    while at < len(data):
        try:
            record = read_record(data, at, salt=salt, offset=at)
            last.check(record)
        except DamagedError as error:
            gap = _gap(data, at, salt, last, str(error))
            if gap is None:
                return
            yield gap
            at = gap.end
            last.step_over(gap.known)
        else:
            yield record
            at += record.size
            last.step_over(record)


class _Last:
    """The record before: what the next one has to follow."""

    __slots__ = ("crc", "lsn")

    def __init__(self, crc: int | None, lsn: int) -> None:
        self.crc = crc
        self.lsn = lsn

    def step_over(self, record: Record | None) -> None:
        """After a record, or a gap of which nothing is known."""
        self.crc = None if record is None else record.crc
        if record is not None:
            self.lsn = record.last_lsn

    def check(self, record: Record) -> None:
        linked = self.crc is None or record.prev_crc == self.crc
        if not linked or record.lsn <= self.lsn:
            raise DamagedError(
                f"the record at offset {record.offset} does not follow the one before"
            )


def _gap(data: bytes, at: int, salt: bytes, last: _Last, reason: str) -> Gap | None:
    found = read_header(data, at, salt=salt, offset=at)
    if found is not None:
        known, size = found
        try:
            last.check(known)
        except DamagedError:
            pass
        else:
            return Gap(at, min(at + size, len(data)), known, reason)
    end = _next_header(data, at + ALIGNMENT_BYTES, salt, last)
    return Gap(at, end, None, reason) if end > at else None


def _next_header(data: bytes, at: int, salt: bytes, last: _Last) -> int:
    """Where the next header stands that can be believed, or where zeros begin that
    go to the end of the file."""
    start = at
    while (record := find_header(data, at, salt=salt)) is not None:
        if record.lsn > last.lsn:
            return record.offset
        at = record.offset + ALIGNMENT_BYTES
    return _zeros_begin(data, start - ALIGNMENT_BYTES)


def _zeros_begin(data: bytes, at: int) -> int:
    """Where the zero bytes begin that end ``data[at:]``, without copying a 64 MiB tail."""
    step = 1024 * 1024
    zeros = bytes(step)
    end = len(data)
    while end - at >= step and data[end - step : end] == zeros:
        end -= step
    start = max(at, end - step)
    return start + len(data[start:end].rstrip(b"\0"))
