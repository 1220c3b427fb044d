"""The journal: records appended to segments, made durable, read back, retired.

Writing belongs to one thread: ``append`` buffers, ``sync`` makes everything
appended durable. A failed sync must not be tried again (the kernel may have
dropped the pages and report success next time): whoever calls it ends the
process, and the journal refuses. Only ``JournalFull`` leaves it as it was.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tallymark.errors import StorageError
from tallymark.fs import FileSystem
from tallymark.record import NO_PRODUCER, Kind, append_record, record_bytes
from tallymarkd.storage.segment import (
    RECORDS_OFFSET,
    SegmentHeader,
    encode_header,
    segment_name,
)

SPARE_NAME = "spare"
"""Blocks held back, so that recovery can copy a segment on a full disk."""

TEMPORARY_SUFFIX = ".tmp"

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors that say that there is no room."""


class JournalFull(StorageError):
    """No room for what was appended since the last sync. It is gone from the
    journal, its numbers are not used again; try later."""


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """Sizes, and what makes a journal repeatable in tests."""

    segment_bytes_max: int
    segment_chunk_bytes: int
    random_bytes: Callable[[int], bytes]
    clock_ns: Callable[[], int]


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A segment that is written no more."""

    number: int
    first_lsn: int
    last_lsn: int
    size_bytes: int
    created_ns: int


@dataclass(slots=True)
class ActiveSegment:
    """The segment being written. ``end`` is where the next record goes."""

    header: SegmentHeader
    fd: int
    end: int
    allocated: int
    prev_crc: int
    last_lsn: int


class Journal:
    """A directory of segments, open for appending.

    Made by recovery, which hands over the active segment and where the
    numbers continue.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        settings: JournalSettings,
        *,
        active: ActiveSegment,
        sealed: list[SealedSegment],
        next_lsn: int,
    ) -> None:
        self._fs = fs
        self.directory = directory
        self._settings = settings
        self._active = active
        self._sealed = sealed
        self._lock = threading.Lock()
        self._buffer: list[bytes] = []
        self.buffered_bytes = 0
        """Bytes appended since the last sync."""
        self._buffer_crc = active.prev_crc
        self._buffered_lsn = active.last_lsn
        self._cut = False
        """Whether bytes were cut off that a crash could bring back."""
        self._failure: OSError | None = None
        self.next_lsn = next_lsn
        self.durable_lsn = active.last_lsn

    @property
    def active_number(self) -> int:
        """Number of the segment being written."""
        return self._active.header.number

    @property
    def active_created_ns(self) -> int:
        """When the segment being written was begun."""
        return self._active.header.created_ns

    def sealed(self) -> list[SealedSegment]:
        """Segments that are written no more, oldest first. Any thread."""
        with self._lock:
            return list(self._sealed)

    def size_bytes(self) -> int:
        """Bytes of all segments. Any thread."""
        return sum(segment.size_bytes for segment in self.sealed()) + self._active.end

    def append(
        self,
        kind: Kind,
        payload: bytes,
        *,
        count: int = 1,
        producer: bytes = NO_PRODUCER,
        seq: int = 0,
        from_seq: int | None = None,
    ) -> int:
        """Buffer one record; gives its LSN. Nothing is durable before ``sync``.

        Raises ``JournalFull``, after which nothing is kept that is not durable
        (a segment may have been rolled since the last ``sync``, which is one),
        and ``OSError`` as ``sync`` does. ``ValueError`` for a payload that is too
        large or a ``count`` below 1.
        """
        end = self._active.end + self.buffered_bytes
        size = record_bytes(len(payload))
        fits = end + size <= self._settings.segment_bytes_max
        if not fits and end > RECORDS_OFFSET:
            self._roll(size)
            end = RECORDS_OFFSET
        lsn = self.next_lsn
        self._buffer_crc = append_record(
            self._buffer.append,
            salt=self._active.header.salt,
            offset=end,
            kind=kind,
            lsn=lsn,
            count=count,
            durable_lsn=self.durable_lsn,
            prev_crc=self._buffer_crc,
            payload=payload,
            producer=producer,
            seq=seq,
            from_seq=from_seq,
        )
        self.buffered_bytes += size
        self.next_lsn = lsn + count
        self._buffered_lsn = self.next_lsn - 1
        return lsn

    def sync(self) -> int:
        """Make everything appended durable; gives the highest durable LSN.

        Raises ``JournalFull``, or ``OSError`` after which the journal must not
        be used again.
        """
        if self._failure is not None:
            raise OSError(
                errno.EIO, f"cannot go on with the journal, which failed: {self._failure}"
            )
        try:
            self._write()
            if self._cut or self.durable_lsn < self._buffered_lsn:
                self._fs.sync_data(self._active.fd)
        except OSError as error:
            self._failure = error
            raise
        self._cut = False
        self.durable_lsn = self._buffered_lsn
        return self.durable_lsn

    def _write(self) -> None:
        """Hand the buffer to the operating system."""
        active = self._active
        if not self._buffer:
            return
        kept = active.allocated
        try:
            self._allocate(active.end + self.buffered_bytes)
            kept = active.end
            self._fs.write(active.fd, b"".join(self._buffer), active.end)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self._give_up(kept, error)
        active.end += self.buffered_bytes
        active.prev_crc = self._buffer_crc
        active.last_lsn = self._buffered_lsn
        self._empty_buffer()

    def _empty_buffer(self) -> None:
        self._buffer.clear()
        self.buffered_bytes = 0

    def _allocate(self, end: int) -> None:
        """Reserve blocks a chunk at a time, so that most commits change no metadata."""
        active = self._active
        if end <= active.allocated:
            return
        chunk = self._settings.segment_chunk_bytes
        target = max(end, min(active.allocated + chunk, self._settings.segment_bytes_max))
        try:
            self._fs.allocate(active.fd, active.allocated, target - active.allocated)
        except OSError as error:
            if error.errno not in DISK_FULL or target == end:
                raise
            target = end
            self._fs.allocate(active.fd, active.allocated, target - active.allocated)
        active.allocated = target

    def _give_up(self, kept: int, error: OSError) -> None:
        """Forget the buffer, and cut off what may have been written of it.

        Blocks that were reserved before stay: smaller commits still find room there.
        """
        active = self._active
        self._empty_buffer()
        self._buffer_crc = active.prev_crc
        self._buffered_lsn = active.last_lsn
        self._cut = True
        self._fs.truncate(active.fd, kept)
        active.allocated = kept
        raise JournalFull(f"cannot write to the journal in {self.directory}: {error}") from error

    def _roll(self, needed_bytes: int) -> None:
        """Seal the active segment and begin the next; the old one is durable first."""
        self.sync()
        old = self._active
        header = SegmentHeader(
            salt=self._settings.random_bytes(8),
            server_id=old.header.server_id,
            number=old.header.number + 1,
            first_lsn=self.next_lsn,
            prev_last_lsn=old.last_lsn,
            next_lsn=self.next_lsn,
            created_ns=self._settings.clock_ns(),
            prev_crc=old.prev_crc,
        )
        try:
            fresh = create_segment(
                self._fs, self.directory, header, self._settings, needed_bytes=needed_bytes
            )
        except OSError as error:
            if error.errno not in DISK_FULL:
                self._failure = error
                raise
            raise JournalFull(f"cannot begin a segment in {self.directory}: {error}") from error
        self._seal(old)
        self._active = fresh
        self._buffer_crc = 0
        self._buffered_lsn = old.last_lsn

    def _seal(self, old: ActiveSegment) -> None:
        """Give back the blocks allocated ahead. What fails here costs only space."""
        with contextlib.suppress(OSError):
            self._fs.truncate(old.fd, old.end)
        self._fs.close(old.fd)
        with self._lock:
            self._sealed.append(
                SealedSegment(
                    old.header.number,
                    old.header.first_lsn,
                    old.last_lsn,
                    old.end,
                    old.header.created_ns,
                )
            )

    def retire(self, number: int) -> None:
        """Unlink the oldest sealed segment, which must be this one.

        The directory is synced before the next may go, so that no hole can
        appear between segments. Raises ``OSError``; then it is still listed.
        """
        with self._lock:
            if not self._sealed or self._sealed[0].number != number:
                raise StorageError(f"cannot retire segment {number}: it is not the oldest")
        self._fs.unlink(self.directory / segment_name(number))
        self._fs.sync_dir(self.directory)
        with self._lock:
            self._sealed.pop(0)

    def close(self) -> None:
        """Close the active segment, without a sync."""
        self._fs.close(self._active.fd)


def create_segment(
    fs: FileSystem,
    directory: Path,
    header: SegmentHeader,
    settings: JournalSettings,
    *,
    needed_bytes: int = 0,
) -> ActiveSegment:
    """Create a segment whose name and headers are durable. Raises ``OSError``.

    Has room for a chunk of records, and where there is none, for ``needed_bytes``.
    With ``ENOSPC`` or ``EDQUOT`` no trace of it is left. Once the name is there the
    segment before it must not be written any more, so that whatever fails from
    then on is told as ``EIO``.
    """
    path = directory / segment_name(header.number)
    temporary = path.with_suffix(TEMPORARY_SUFFIX)
    fs.unlink(temporary)
    fd = fs.create(temporary)
    try:
        size = _allocate_first(fs, fd, settings, RECORDS_OFFSET + needed_bytes)
        fs.write(fd, encode_header(header), 0)
        fs.sync(fd)
        fs.replace(temporary, path)
        _sync_name(fs, path)
    except OSError:
        fs.close(fd)
        with contextlib.suppress(OSError):  # the first error is the one to tell
            fs.unlink(temporary)
        raise
    return ActiveSegment(header, fd, RECORDS_OFFSET, size, 0, header.prev_last_lsn)


def _allocate_first(fs: FileSystem, fd: int, settings: JournalSettings, least_bytes: int) -> int:
    """Reserve a segment's first blocks; gives how many bytes."""
    size = min(settings.segment_bytes_max, RECORDS_OFFSET + settings.segment_chunk_bytes)
    try:
        fs.allocate(fd, 0, size)
    except OSError as error:
        if error.errno not in DISK_FULL or size <= least_bytes:
            raise
        size = least_bytes
        fs.truncate(fd, 0)  # what was had of the chunk is free again
        fs.allocate(fd, 0, size)
    return size


def _sync_name(fs: FileSystem, path: Path) -> None:
    try:
        fs.sync_dir(path.parent)
    except OSError as error:
        raise OSError(errno.EIO, f"cannot make the name {path} durable: {error}") from error
