"""The on-disk buffer of one producer: frozen batches that could not be delivered.

A file ``<producer>.spool`` in the user's spool directory, written by the one
thread that also owns the socket. Whoever holds the file's lock owns it; a spool
whose lock is free has lost its owner and may be delivered by anybody of the same
user. It is a header of 4096 bytes (spool_header.py), then records (record.py).

A record is a batch (its payload is the frame as it is sent), a skip (likewise), or
a mark (its payload is the ``server_id`` to which the spool is bound from there on), or
a stop, whose seq is that of the last batch: its owner ended in good order.
``lsn`` and ``seq`` of a batch are both its seq.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tallymark.errors import DamagedError, StorageError
from tallymark.fs import FileSystem
from tallymark.protocol import messages
from tallymark.protocol.framing import frame
from tallymark.protocol.messages import Skip
from tallymark.protocol.outbox import FrozenBatch
from tallymark.record import (
    ALIGNMENT_BYTES,
    HEADER_BYTES,
    Kind,
    Record,
    append_record,
    read_header,
    read_record,
    record_bytes,
)
from tallymark.spool_header import (
    RECORDS_OFFSET,
    SpoolHeader,
    decode_header,
    decode_text,
    encode_header,
    encode_text,
)

SUFFIX = ".spool"
TEMPORARY_SUFFIX = ".tmp"

SPOOL_DAMAGED = "spool_damaged"
"""The reason of a Skip for what cannot be read any more."""

SEARCH_BYTES = 1024 * 1024
"""How much is read at once where the next whole record is looked for."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class SpoolFull(StorageError):
    """No room for what was to be spooled; the spool is as it was."""


class Spool:
    """One spool, whose lock this object holds until ``close`` or ``remove``.

    Not thread-safe. Reading goes through the file once, from its beginning:
    ``next_batch`` gives what was not read yet, and ``append`` may come in between.
    """

    def __init__(self, fs: FileSystem, path: Path, fd: int, header: SpoolHeader, end: int) -> None:
        self._fs = fs
        self.path = path
        self._fd = fd
        self.header = header
        self._end = end
        """Everything before is durable."""
        self._read_at = RECORDS_OFFSET
        self._next_seq = header.first_seq
        """The seq that the next record read must have."""
        self._last_seq = header.first_seq - 1

    @classmethod
    def create(
        cls,
        fs: FileSystem,
        directory: Path,
        header: SpoolHeader,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> Spool:
        """A new spool, locked, whose name and header are durable.

        Raises ``SpoolFull`` when there is no room, ``StorageError`` for a header that
        no reader would take, and ``OSError``.
        """
        header = replace(header, salt=random_bytes(8), created_ns=clock_ns())
        head = encode_header(header)
        path = directory / f"{header.producer}{SUFFIX}"
        temporary = path.with_suffix(TEMPORARY_SUFFIX)
        try:
            fs.mkdir(directory)
            remove_unfinished(fs, directory)
            fd = fs.lock(temporary)
            try:
                fs.write(fd, head, 0)
                fs.sync(fd)
                fs.replace(temporary, path)
                fs.sync_dir(directory)
            except OSError:
                # Nobody may find it, empty, and retire a producer that lives.
                fs.unlink(temporary)
                fs.unlink(path)
                fs.close(fd)
                raise
        except OSError as error:
            if error.errno in _FULL:
                raise SpoolFull(f"cannot begin a spool in {directory}: {error}") from error
            raise
        return cls(fs, path, fd, header, RECORDS_OFFSET)

    @classmethod
    def adopt(cls, fs: FileSystem, path: Path) -> Spool | None:
        """Take over a spool whose owner is gone; None when the owner lives.

        Raises ``DamagedError``, ``NewerFormatError``, and ``OSError``.
        """
        try:
            fd = fs.lock_existing(path)
        except (BlockingIOError, FileNotFoundError):
            return None
        try:
            header = decode_header(fs.read(fd, RECORDS_OFFSET, 0))
            spool = cls(fs, path, fd, header, fs.size(fd))
            spool._cut_torn_end()
            return spool
        except BaseException:
            fs.close(fd)
            raise

    # Writing.

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes."""
        return self._end

    def room_for(self, batches: Iterable[FrozenBatch], bytes_max: int) -> int:
        """How many of the batches, in order, can be appended."""
        end, count = self._end, 0
        for batch in batches:
            end += record_bytes(len(batch.frame))
            if end > bytes_max:
                break
            count += 1
        return count

    def append(self, batches: Sequence[FrozenBatch], bytes_max: int) -> None:
        """Make batches durable at its end; all of them, or none.

        Raises ``SpoolFull`` with the spool as it was; ``OSError`` after which it
        must not be appended to any more.
        """
        # Looked at first: to encode them costs much, and they may be tried again and again.
        if self.room_for(batches, bytes_max) < len(batches):
            raise SpoolFull(f"cannot spool more in {self.path} than {bytes_max} bytes")
        data = bytearray()
        last = self._last_seq
        for batch in batches:
            kind = Kind.SKIP if batch.lost else Kind.BATCH
            self._encode(data, kind, batch.frame, batch.seq, max(1, batch.events or batch.lost))
            last = batch.seq
        self._write(data)
        self._last_seq = last

    def bind(self, server_id: str) -> None:
        """From now on it may be delivered to this daemon only. Raises ``OSError``."""
        if self.header.server_id == server_id:
            return
        data = bytearray()
        self._encode(data, Kind.MARK, encode_text(server_id))
        self._write(data)
        self.header = replace(self.header, server_id=server_id)

    def _encode(
        self, data: bytearray, kind: Kind, payload: bytes, seq: int = 0, count: int = 1
    ) -> None:
        """Add a record that will stand behind ``data`` at the end of the file."""
        append_record(
            data.extend,
            salt=self.header.salt,
            offset=self._end + len(data),
            kind=kind,
            lsn=seq,
            count=count,
            durable_lsn=0,
            prev_crc=0,
            payload=payload,
            seq=seq,
        )

    def _write(self, data: bytearray) -> None:
        try:
            self._fs.write(self._fd, data, self._end)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._fs.truncate(self._fd, self._end)
            raise SpoolFull(f"cannot spool in {self.path}: {error}") from error
        self._fs.sync_data(self._fd)
        self._end += len(data)

    # Reading.

    @property
    def unread(self) -> bool:
        """Whether ``next_batch`` may have more to give."""
        return self._read_at < self._end

    def next_batch(self) -> FrozenBatch | None:
        """The next batch in order; None when all were read. Raises ``OSError``.

        Where a record is damaged, a Skip stands in place of what it held. A torn
        end is left out: it was never said to be spooled.
        """
        while self.unread:
            record = self._record_at(self._read_at)
            if record is None:
                lost = self._step_over_damage()
                if lost is not None:
                    return lost
                continue
            before = _seq_before(record)
            if self._next_seq <= before:
                return self._missing(self._next_seq, before, 0)
            self._read_at = record.end
            batch = self._batch_of(record)
            if batch is not None:
                self._next_seq = batch.seq + 1
                return batch
        return None

    def _batch_of(self, record: Record) -> FrozenBatch | None:
        if record.kind == Kind.BATCH:
            return FrozenBatch(record.seq, record.count, 0, record.payload)
        if record.kind == Kind.SKIP:
            return FrozenBatch(record.seq, 0, record.count, record.payload)
        return None

    def _missing(self, from_seq: int, through_seq: int, events: int) -> FrozenBatch:
        """A Skip for batches that are damaged."""
        skip = Skip(from_seq=from_seq, through_seq=through_seq, events=events, reason=SPOOL_DAMAGED)
        self._next_seq = through_seq + 1
        return FrozenBatch(through_seq, 0, events, frame(messages.encode(skip)))

    def _record_at(self, offset: int) -> Record | None:
        """The record there; None when it does not verify."""
        salt = self.header.salt
        head = self._fs.read(self._fd, HEADER_BYTES, offset)
        found = read_header(head, 0, salt=salt, offset=offset)
        if found is None or offset + found[1] > self._end:
            return None
        data = self._fs.read(self._fd, found[1], offset)
        try:
            return read_record(data, 0, salt=salt, offset=offset)
        except DamagedError:
            return None

    def _step_over_damage(self) -> FrozenBatch | None:
        """Go to the next whole record, or the end; a Skip when it is known what is lost."""
        head = self._fs.read(self._fd, HEADER_BYTES, self._read_at)
        found = read_header(head, 0, salt=self.header.salt, offset=self._read_at)
        if found is not None and self._read_at + found[1] <= self._end:
            lost, size = found
            self._read_at += size
            if lost.kind in (Kind.BATCH, Kind.SKIP) and lost.seq >= self._next_seq:
                return self._missing(self._next_seq, lost.seq, lost.count)
            return None
        self._read_at = self._next_header(self._read_at)
        return None

    def _next_header(self, after: int) -> int:
        """Where the next header stands that verifies; the end when there is none."""
        salt, at = self.header.salt, after + ALIGNMENT_BYTES
        while at < self._end:
            data = self._fs.read(self._fd, min(SEARCH_BYTES + HEADER_BYTES, self._end - at), at)
            found = data.find(salt)
            while found >= 0:
                offset = at + found
                aligned = offset % ALIGNMENT_BYTES == 0
                if aligned and read_header(data, found, salt=salt, offset=offset) is not None:
                    return offset
                found = data.find(salt, found + 1)
            at += SEARCH_BYTES
        return self._end

    def _cut_torn_end(self) -> None:
        """What its owner was writing when it died was never said to be spooled."""
        at = whole = RECORDS_OFFSET
        while at < self._end:
            head = self._fs.read(self._fd, HEADER_BYTES, at)
            found = read_header(head, 0, salt=self.header.salt, offset=at)
            if found is not None and at + found[1] <= self._end:
                self._learn_binding(found[0], at)
                at = whole = at + found[1]
            else:
                at = self._next_header(at)
        if whole < self._end:
            self._fs.truncate(self._fd, whole)
            self._fs.sync_data(self._fd)
            self._end = whole

    def _learn_binding(self, head: Record, offset: int) -> None:
        if head.kind == Kind.MARK and (record := self._record_at(offset)) is not None:
            self.header = replace(self.header, server_id=decode_text(record.payload))

    # The end.

    def seal(self) -> None:
        """Its owner ends in good order: note which batch is the last, so that it is missed
        should it go bad. Nothing depends on this being durable."""
        data = bytearray()
        self._encode(data, Kind.STOP, b"", self._last_seq)
        with contextlib.suppress(OSError):  # as said: it only adds
            self._fs.write(self._fd, data, self._end)

    def remove(self) -> None:
        """Everything in it is delivered: unlink it, and sync the directory. Raises ``OSError``."""
        self._fs.unlink(self.path)
        self._fs.sync_dir(self.path.parent)
        self.close()

    def forget(self) -> None:
        """In a forked child: the descriptor and the lock are the parent's."""
        self._fd = -1

    def close(self) -> None:
        """Let go of it; whoever comes next may deliver it. Closing again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._fs.close(fd)


def _seq_before(record: Record) -> int:
    """The seq through which batches stand before this record; 0 where it does not tell."""
    if record.kind in (Kind.BATCH, Kind.SKIP):
        return record.seq - 1
    return record.seq if record.kind == Kind.STOP else 0


def spool_paths(fs: FileSystem, directory: Path) -> list[Path]:
    """Every spool in a directory, whether or not its owner lives."""
    return [directory / name for name in fs.names(directory) if name.endswith(SUFFIX)]


def remove_unfinished(fs: FileSystem, directory: Path) -> None:
    """Remove what those left who died while they began a spool: nothing was in it.

    One that is being begun just now is locked; should it be taken away before it is,
    its owner tries again. Raises nothing: it only tidies up.
    """
    with contextlib.suppress(OSError):
        for name in fs.names(directory):
            if name.endswith(TEMPORARY_SUFFIX) and _is_producer(
                name.removesuffix(TEMPORARY_SUFFIX)
            ):
                _remove_unowned(fs, directory / name)


def _remove_unowned(fs: FileSystem, path: Path) -> None:
    with contextlib.suppress(OSError):
        fd = fs.lock_existing(path)
        try:
            fs.unlink(path)
        finally:
            fs.close(fd)


def _is_producer(name: str) -> bool:
    """Whether only a spool can be named so, in a directory that may hold other things."""
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
