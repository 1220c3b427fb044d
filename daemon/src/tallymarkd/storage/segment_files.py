"""Segments as they lie in the journal's directory, whatever has happened to them.

Reads only. Bytes that the device does not give back are damage like any other.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tallymark.errors import DamagedError, NewerFormatError, StorageError
from tallymark.fs import FileSystem, read_file
from tallymark.record import Record, read_header
from tallymarkd.storage.segment import (
    RECORDS_OFFSET,
    Gap,
    SegmentHeader,
    decode_header,
    segment_number,
    walk,
)

SECTOR_BYTES = 4096
UNREADABLE = b"\xff" * SECTOR_BYTES
"""Stands for a sector that cannot be read. Zeros would pass for unused blocks."""


@dataclass(slots=True)
class FoundSegment:
    """One segment as it was found.

    ``header`` is None when nothing in the file can be believed; ``guessed`` when
    both copies are gone and its first record told what it must have said;
    ``reason`` says what is wrong with it. ``skipped`` when only the header was
    looked at. What follows is filled in by the survey: numbers up to
    ``after_lsn`` are the segments' before, ``last_lsn`` is where it ends;
    ``losses`` are LOSS records, at the offsets of what they stand for.
    ``records`` is what is believed of the last segment; the others are read
    again when they are needed, so that a long history does not have to fit in
    memory.
    """

    number: int
    path: Path
    header: SegmentHeader | None
    size: int
    guessed: bool = False
    reason: str = ""
    skipped: bool = False
    proven_lsn: int = 0
    highest_lsn: int = 0
    after_lsn: int = 0
    last_lsn: int = 0
    losses: list[Record] = field(default_factory=list)
    records: list[Record] | None = None


def segment_paths(fs: FileSystem, directory: Path) -> list[tuple[int, Path]]:
    """Number and path of every segment, oldest first."""
    numbers = ((segment_number(name), name) for name in fs.names(directory))
    return sorted((number, directory / name) for number, name in numbers if number is not None)


def refuse_newer(fs: FileSystem, directory: Path) -> None:
    """Raises ``NewerFormatError`` if a segment needs a newer reader. Other faults wait."""
    for number, path in segment_paths(fs, directory):
        try:
            decode_header(_head(fs, path)[0])
        except NewerFormatError as error:
            raise NewerFormatError(f"cannot open segment {number} ({path}): {error}") from None
        except (DamagedError, OSError):
            continue


def open_segment(fs: FileSystem, number: int, path: Path) -> FoundSegment:
    """Read the header, or guess it.

    Raises ``NewerFormatError``; ``StorageError`` when the file cannot be read
    for a reason that is no damage.
    """
    try:
        head, size = _head(fs, path)
        try:
            header, whole = decode_header(head)
        except NewerFormatError as error:
            raise NewerFormatError(f"cannot open segment {number} ({path}): {error}") from None
        except DamagedError as error:
            return _open_headless(fs, number, path, str(error))
    except OSError as error:
        raise StorageError(f"cannot read segment {path}: {error}") from error
    if header.number != number:
        reason = f"it is segment {header.number} under another's name"
        return FoundSegment(number, path, None, size, reason=reason)
    reason = "" if whole else "one copy of the segment header does not verify"
    return FoundSegment(number, path, header, size, reason=reason)


def items_of(fs: FileSystem, segment: FoundSegment) -> Iterator[Record | Gap]:
    """The segment's records and gaps; nothing without a header. Raises ``StorageError``."""
    if segment.header is None:
        return
    try:
        data = read_segment(fs, segment.path)
    except OSError as error:
        raise StorageError(f"cannot read segment {segment.path}: {error}") from error
    yield from walk(data, segment.header.salt)


def read_segment(fs: FileSystem, path: Path) -> bytes:
    """The whole file. Raises ``OSError``, but not for sectors that have gone bad."""
    try:
        return read_file(fs, path)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    fd = fs.open_read(path)
    try:
        return b"".join(_sectors(fs, fd, fs.size(fd)))
    finally:
        fs.close(fd)


def _sectors(fs: FileSystem, fd: int, size: int) -> Iterator[bytes]:
    for offset in range(0, size, SECTOR_BYTES):
        count = min(SECTOR_BYTES, size - offset)
        try:
            yield fs.read(fd, count, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            yield UNREADABLE[:count]


def _head(fs: FileSystem, path: Path) -> tuple[bytes, int]:
    fd = fs.open_read(path)
    try:
        return b"".join(_sectors(fs, fd, min(RECORDS_OFFSET, size := fs.size(fd)))), size
    finally:
        fs.close(fd)


def _open_headless(fs: FileSystem, number: int, path: Path, reason: str) -> FoundSegment:
    """With both headers gone, the first record still begins with the salt."""
    data = read_segment(fs, path)
    salt = data[RECORDS_OFFSET : RECORDS_OFFSET + 8]
    found = read_header(data, RECORDS_OFFSET, salt=salt, offset=RECORDS_OFFSET)
    if found is None:
        return FoundSegment(number, path, None, len(data), reason=reason)
    first = found[0]
    guess = SegmentHeader(
        salt=salt,
        server_id=bytes(16),
        number=number,
        first_lsn=first.lsn,
        # The segment before was synced when this record was written.
        prev_last_lsn=first.durable_lsn,
        next_lsn=first.lsn,
        created_ns=0,
    )
    return FoundSegment(number, path, guess, len(data), guessed=True, reason=reason)
