"""One journal file: the header twice, then records. Pure bytes.

::

    offset size field (little-endian)
         0    8 magic          "TLYMKSEG"
         8    2 format         version of whoever wrote it
        10    2 oldest_reader  oldest version that may read it
        12    4 zero
        16    8 salt           random; the magic of this file's records
        24   16 server_id      UUID of the state directory
        40    8 number         of this file: 1, 2, 3, …
        48    8 first_lsn      the first number that may stand here
        56    8 prev_last_lsn  where the journal ended before; 0 at its beginning
        64    4 prev_crc       header CRC of the last record before; 0 likewise
        68    4 zero
        72    8 created_ns     nanoseconds since 1970
        80    4 crc            CRC-32 of bytes 0..79
        84      zeros to 4096
      4096      the same 4096 bytes again
      8192      records (tallymark.record), then zeros

A file gets its name only when both headers are durable, and only after the
file before it was synced. So a header that verifies proves that everything
through ``prev_last_lsn`` had been durable.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tallymark.errors import DamagedError, NewerFormatError
from tallymark.record import (
    ALIGNMENT_BYTES,
    HEADER_BYTES,
    Record,
    find_record,
    read_header,
    read_record,
)

MAGIC = b"TLYMKSEG"
FORMAT = 1
OLDEST_READER = 1

HEADER_COPY_BYTES = 4096
"""Each copy in a sector of its own, also on drives with 4 KiB sectors."""

RECORDS_OFFSET = 2 * HEADER_COPY_BYTES

_header = struct.Struct("<8sHH4x8s16sQQQI4xQ")
_crc = struct.Struct("<I")
assert _header.size == 80


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself."""

    salt: bytes
    server_id: bytes
    number: int
    first_lsn: int
    prev_last_lsn: int
    prev_crc: int
    created_ns: int
    format: int = FORMAT
    oldest_reader: int = OLDEST_READER

    def with_salt(self, salt: bytes) -> SegmentHeader:
        """The same segment under another salt."""
        return replace(self, salt=salt)


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes between records that do not verify.

    ``known`` is the record that stood there when its header still verifies,
    with an empty payload; ``to_end`` says that no whole record follows.
    """

    start: int
    end: int
    to_end: bool
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
    fields = _header.pack(
        MAGIC,
        header.format,
        header.oldest_reader,
        header.salt,
        header.server_id,
        header.number,
        header.first_lsn,
        header.prev_last_lsn,
        header.prev_crc,
        header.created_ns,
    )
    copy = (fields + _crc.pack(zlib.crc32(fields))).ljust(HEADER_COPY_BYTES, b"\0")
    return copy + copy


def decode_header(data: bytes) -> tuple[SegmentHeader, bool]:
    """The header, and whether both copies are whole.

    Raises ``DamagedError`` when neither copy verifies and ``NewerFormatError``
    when one that does wants a newer reader.
    """
    copies = [_decode_copy(data, at) for at in (0, HEADER_COPY_BYTES)]
    whole = [copy for copy in copies if copy is not None]
    if not whole:
        raise DamagedError("neither copy of the segment header verifies")
    header = max(whole, key=lambda copy: copy.oldest_reader)
    if header.oldest_reader > FORMAT:
        raise NewerFormatError(
            f"the segment was written in format {header.format} and needs a reader of "
            f"{header.oldest_reader}; this version reads {FORMAT}"
        )
    return header, len(whole) == len(copies)


def _decode_copy(data: bytes, at: int) -> SegmentHeader | None:
    end = at + _header.size
    if len(data) < end + _crc.size or data[at : at + len(MAGIC)] != MAGIC:
        return None
    if zlib.crc32(data[at:end]) != _crc.unpack_from(data, end)[0]:
        return None
    (_, version, oldest, salt, server, number, first, prev_last, prev_crc, created) = (
        _header.unpack_from(data, at)
    )
    return SegmentHeader(
        salt=salt,
        server_id=server,
        number=number,
        first_lsn=first,
        prev_last_lsn=prev_last,
        prev_crc=prev_crc,
        created_ns=created,
        format=version,
        oldest_reader=oldest,
    )


def walk(data: bytes, salt: bytes) -> Iterator[Record | Gap]:
    """Every record of a segment in order, and every gap of bytes that do not verify.

    ``data`` is the whole file. The zeros of blocks allocated ahead are no gap.
    Where verification stops, the rest of the file is searched for the salt.
    """
    at = RECORDS_OFFSET
    prev_crc: int | None = 0
    end = len(data)
    while at < end:
        try:
            record = _linked(read_record(data, at, salt=salt, offset=at), prev_crc)
        except DamagedError as error:
            gap, found = _gap(data, at, salt, str(error))
            if gap is None:
                return
            yield gap
            if found is None:
                return
            record = found
        yield record
        prev_crc = record.crc
        at = record.offset + record.size


def _linked(record: Record, prev_crc: int | None) -> Record:
    if record.prev_crc != prev_crc:
        raise DamagedError(f"the record at offset {record.offset} does not follow the one before")
    return record


def _gap(data: bytes, at: int, salt: bytes, reason: str) -> tuple[Gap | None, Record | None]:
    found = find_record(data, at + ALIGNMENT_BYTES, salt=salt)
    known = read_header(data, at, salt=salt, offset=at)
    if found is not None:
        return Gap(at, found.offset, to_end=False, known=known, reason=reason), found
    stop = len(data) - _trailing_zeros(data, at)
    if stop <= at:
        return None, None
    return Gap(at, stop, to_end=True, known=known, reason=reason), None


def _trailing_zeros(data: bytes, at: int) -> int:
    """How many zero bytes end ``data[at:]``, without copying a 64 MiB tail."""
    step = 1024 * 1024
    zeros = bytes(step)
    end = len(data)
    while end - at >= step and data[end - step : end] == zeros:
        end -= step
    tail = data[max(at, end - step) : end]
    return len(data) - end + len(tail) - len(tail.rstrip(b"\0"))


assert RECORDS_OFFSET % ALIGNMENT_BYTES == 0
assert HEADER_BYTES % ALIGNMENT_BYTES == 0
