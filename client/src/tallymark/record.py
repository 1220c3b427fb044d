"""The on-disk record, shared by the daemon's journal and the client's spool.

Pure bytes: no file is touched here. Integers are little-endian. A record
begins at a multiple of 8 in its file::

    offset size field
         0    8 magic         of this file: its salt
         8    4 header_crc    CRC-32 of salt, the record's file offset, and bytes 12..79
        12    4 payload_crc   CRC-32 of the payload
        16    4 length        bytes of payload
        20    4 prev_crc      header_crc of the record before (0 for a file's first)
        24    8 lsn           number of its first event
        32    8 durable_lsn   highest number known to be durable when this was written
        40    4 count         numbers this record takes, at least 1
        44    1 kind
        45    3 zero
        48   16 producer      UUID, zero where there is none
        64    8 seq           of the producer's batch (the last one, for a skip)
        72    8 from_seq      first seq, for a skip; else equal to seq
        80      payload, then zeros to a multiple of 8

A header is only valid at the offset and in the file it was written for, so
bytes left over from another file, or copied, never pass for a record.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tallymark.errors import DamagedError

HEADER_BYTES = 80
ALIGNMENT_BYTES = 8

PAYLOAD_BYTES_MAX = 4 * 1024 * 1024
"""No record is larger; a length above it is damage."""

LOCKED_BYTES = 5 * 1024
"""For more than these ``zlib.crc32`` lets go of the interpreter's lock."""

NO_PRODUCER = bytes(16)

_header = struct.Struct("<8sIIIIQQIB3x16sQQ")
_fields = struct.Struct("<IIIQQIB3x16sQQ")
_place = struct.Struct("<8sQ")
assert _header.size == HEADER_BYTES
assert _fields.size == HEADER_BYTES - 12


class Kind(enum.IntEnum):
    """What a record says. Numbers are part of the format."""

    BATCH = 1  # events with their verdicts
    TOMBSTONE = 2  # a batch that could not be split; every event of it is rejected
    SKIP = 3  # a producer's batches that can never come
    MARK = 4  # everything before is durable
    STOP = 5  # the daemon stopped in good order
    FORGET = 6  # a producer said goodbye
    LOSS = 7  # recovery stepped over numbers that may have been acknowledged


@dataclass(slots=True)
class Record:
    """One record. ``crc`` is its header's CRC, which the next record repeats."""

    kind: int
    lsn: int
    count: int
    durable_lsn: int
    producer: bytes
    seq: int
    from_seq: int
    prev_crc: int
    payload: bytes
    crc: int
    offset: int

    @property
    def last_lsn(self) -> int:
        """The highest number it takes."""
        return self.lsn + self.count - 1

    @property
    def size(self) -> int:
        """Bytes it takes in the file."""
        return record_bytes(len(self.payload))

    @property
    def end(self) -> int:
        """Where the next record begins in the file."""
        return self.offset + self.size


def record_bytes(payload_bytes: int) -> int:
    """Bytes a record with such a payload takes in the file."""
    return -(-(HEADER_BYTES + payload_bytes) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def append_record(
    add: Callable[[bytes], object],
    *,
    salt: bytes,
    offset: int,
    kind: int,
    lsn: int,
    count: int,
    durable_lsn: int,
    prev_crc: int,
    payload: bytes,
    producer: bytes = NO_PRODUCER,
    seq: int = 0,
    from_seq: int | None = None,
) -> int:
    """Add a record that will stand at ``offset`` of its file, piece by piece; gives its CRC.

    Raises ``ValueError`` for a payload that no reader would take back, or a
    record that takes no number.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError(
            f"cannot write a record of {len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} are read"
        )
    if count < 1:
        raise ValueError("cannot write a record that takes no number")
    fields = _fields.pack(
        _crc32(payload),
        len(payload),
        prev_crc,
        lsn,
        durable_lsn,
        count,
        kind,
        producer,
        seq,
        seq if from_seq is None else from_seq,
    )
    crc = zlib.crc32(fields, zlib.crc32(_place.pack(salt, offset)))
    add(salt + crc.to_bytes(4, "little") + fields)
    add(payload)
    add(bytes(-(HEADER_BYTES + len(payload)) % ALIGNMENT_BYTES))
    return crc


def _crc32(data: bytes) -> int:
    """CRC-32, in pieces for which zlib keeps the interpreter's lock: for a busy thread to
    get it back takes longer than the sum."""
    view = memoryview(data)
    crc = 0
    for at in range(0, len(view), LOCKED_BYTES):
        crc = zlib.crc32(view[at : at + LOCKED_BYTES], crc)
    return crc


def read_header(
    data: bytes | bytearray | memoryview, at: int, *, salt: bytes, offset: int
) -> tuple[Record, int] | None:
    """The record whose header stands at ``data[at:]`` and verifies, without its
    payload, and the bytes that it takes in the file; None when there is none.

    For damage: the header alone still tells whose record it was, and where the
    next one begins. Those bytes may be more than are left.
    """
    try:
        record, length, _ = _read_header(data, at, salt, offset)
    except DamagedError:
        return None
    return record, record_bytes(length)


def read_record(
    data: bytes | bytearray | memoryview, at: int, *, salt: bytes, offset: int
) -> Record:
    """The record at ``data[at:]``, which stands at ``offset`` of its file.

    Raises ``DamagedError`` if there is none, or if it does not verify. The
    length is held against the limit and what is left before it is believed.
    """
    record, length, payload_crc = _read_header(data, at, salt, offset)
    start = at + HEADER_BYTES
    if length > len(data) - start:
        raise DamagedError(f"the record at offset {offset} is cut short")
    payload = bytes(data[start : start + length])
    if zlib.crc32(payload) != payload_crc:
        raise DamagedError(f"the payload of the record at offset {offset} does not verify")
    record.payload = payload
    return record


def _read_header(
    data: bytes | bytearray | memoryview, at: int, salt: bytes, offset: int
) -> tuple[Record, int, int]:
    if len(data) - at < HEADER_BYTES:
        raise DamagedError(f"there is no room for a record header at offset {offset}")
    (magic, crc, payload_crc, length, prev_crc, lsn, durable_lsn, count, kind, producer, seq,
     from_seq) = _header.unpack_from(data, at)  # fmt: skip
    if magic != salt:
        raise DamagedError(f"there is no record at offset {offset}")
    fields = bytes(data[at + 12 : at + HEADER_BYTES])
    if zlib.crc32(fields, zlib.crc32(_place.pack(salt, offset))) != crc:
        raise DamagedError(f"the record header at offset {offset} does not verify")
    if length > PAYLOAD_BYTES_MAX or count < 1:
        raise DamagedError(f"the record header at offset {offset} says what none can say")
    record = Record(
        kind, lsn, count, durable_lsn, producer, seq, from_seq, prev_crc, b"", crc, offset
    )
    return record, length, payload_crc


def find_header(data: bytes, at: int, *, salt: bytes) -> Record | None:
    """The next record header of a file that verifies, at or after ``at``, without
    its payload; ``data`` is the whole file.

    For what follows damage: the magic is searched, and tried at every aligned place.
    """
    at = data.find(salt, at)
    while at >= 0:
        if at % ALIGNMENT_BYTES == 0:
            found = read_header(data, at, salt=salt, offset=at)
            if found is not None:
                return found[0]
        at = data.find(salt, at + 1)
    return None
