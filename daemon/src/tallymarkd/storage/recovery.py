"""Opening the journal for appending, safe to crash in at every step.

The steps of recovery; docs/DURABILITY.md tells them in prose.

0. Take the lock; sync the directories before a name is trusted.   (app.py)
1. Refuse newer formats.                                            (survey.py)
2. Read the segments, find E, classify damage.          (survey.py, damage.py)
3. After an unclean stop, or with damage in the last segment, copy what is
   believed of it to a file with a new salt; torn bytes and the damaged file stay
   in ``quarantine/``. After a clean stop, go on in the file as it is.
4. Continue above every number that may have been given.
5. Per project, take the newest whole generation.                   (core/restore.py)
6. Replay. 7. Report. 8. Serve.                                     (core/restore.py, app.py)
"""

from __future__ import annotations

import contextlib
import logging
import zlib
from pathlib import Path

from tallymark.fs import FileSystem, write_file
from tallymark.record import Record, append_record
from tallymarkd.storage.journal import (
    SPARE_NAME,
    TEMPORARY_SUFFIX,
    ActiveSegment,
    Journal,
    JournalSettings,
    SealedSegment,
    create_segment,
)
from tallymarkd.storage.segment import (
    RECORDS_OFFSET,
    SegmentHeader,
    encode_header,
)
from tallymarkd.storage.segment_files import read_segment
from tallymarkd.storage.survey import LSN_JUMP, Damage, FoundSegment, Survey

log = logging.getLogger("tallymarkd")


def open_journal(
    fs: FileSystem,
    directory: Path,
    found: Survey,
    settings: JournalSettings,
    *,
    server_id: bytes,
    quarantine: Path,
    next_lsn_min: int = 0,
) -> Journal:
    """Steps 3 and 4. Raises ``OSError`` when the directory cannot be written."""
    fs.mkdir(directory)
    fs.sync_dir(directory.parent)
    report = found.report
    jump = 0 if report.clean else LSN_JUMP
    above = max(report.highest_lsn, report.end_lsn) + 1 + jump
    report.next_lsn = max(above, next_lsn_min)
    opener = _Opener(fs, directory, found, settings, server_id, quarantine)
    active = opener.settle()
    opener.remove_leftovers()
    opener.keep_spare()
    sealed = _sealed(found, active.header.number)
    return Journal(fs, directory, settings, active=active, sealed=sealed, next_lsn=report.next_lsn)


class _Opener:
    """The parts of step 3, around one set of arguments."""

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        found: Survey,
        settings: JournalSettings,
        server_id: bytes,
        quarantine: Path,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._found = found
        self._settings = settings
        self._server_id = server_id
        self._quarantine = quarantine

    def settle(self) -> ActiveSegment:
        """The segment to append to."""
        segments, report = self._found.segments, self._found.report
        if not segments:
            return self._begin(1)
        last = segments[-1]
        if report.clean and last.header is not None:
            return self._reopen(last, last.header)
        damage = [d for d in report.damage if d.segment == last.number]
        if any(not d.torn for d in damage):
            self._keep_whole(last)
        for torn in damage:
            if torn.torn:
                self._keep_torn(last, torn)
        return self._copy(last)

    def _begin(self, number: int) -> ActiveSegment:
        report = self._found.report
        header = self._header(number, report.next_lsn, report.end_lsn)
        return create_segment(self._fs, self._directory, header, self._settings)

    def _header(self, number: int, first_lsn: int, prev_last_lsn: int) -> SegmentHeader:
        return SegmentHeader(
            salt=self._settings.random_bytes(8),
            server_id=self._server_id,
            number=number,
            first_lsn=first_lsn,
            prev_last_lsn=prev_last_lsn,
            next_lsn=self._found.report.next_lsn,
            created_ns=self._settings.clock_ns(),
        )

    def _reopen(self, last: FoundSegment, header: SegmentHeader) -> ActiveSegment:
        """After a clean stop everything is on disk, but maybe not the stop itself,
        which was seen in memory: it is written again."""
        tail = (last.records or [])[-1]
        data = bytearray()
        _append(data, tail, header.salt)
        fd = self._fs.open_write(last.path)
        try:
            self._fs.write(fd, data, tail.offset)
            self._fs.sync_data(fd)
            size = self._fs.size(fd)
        except OSError:
            self._fs.close(fd)
            raise
        return _active(header, fd, tail, size)

    def _copy(self, last: FoundSegment) -> ActiveSegment:
        """Write the believed part anew, so that it is on disk and nothing else is.

        After an unclean stop a page may be in memory and not on the disk: what
        this daemon calls a duplicate from now on must be durable.
        """
        header = self._copied_header(last)
        records = last.records or []
        data = _rewrite(header, records)
        temporary = last.path.with_suffix(TEMPORARY_SUFFIX)
        fd = self._blocks(temporary)
        try:
            self._fs.write(fd, data, 0)
            self._fs.truncate(fd, len(data))
            self._fs.sync(fd)
            self._fs.replace(temporary, last.path)
            self._fs.sync_dir(self._directory)
        except OSError:
            self._fs.close(fd)
            raise
        return _active(header, fd, records[-1] if records else None, len(data))

    def _blocks(self, temporary: Path) -> int:
        """A file to copy to. The spare's blocks are there even on a full disk; a
        recovery that was cut short may have left them under the temporary name."""
        spare = self._directory / SPARE_NAME
        if self._fs.exists(spare):
            self._fs.replace(spare, temporary)
        if self._fs.exists(temporary):
            return self._fs.open_write(temporary)
        return self._fs.create(temporary)

    def _copied_header(self, last: FoundSegment) -> SegmentHeader:
        if last.header is not None and not last.guessed:
            salt = self._settings.random_bytes(8)
            return last.header.copied(salt, self._found.report.next_lsn)
        records = last.records or []
        first = records[0].lsn if records else self._found.report.next_lsn
        return self._header(last.number, first, last.after_lsn)

    def _keep_torn(self, last: FoundSegment, torn: Damage) -> None:
        """The bytes that are cut off. They were never acknowledged: a disk that has
        no room for them must not keep the daemon from starting."""
        data = read_segment(self._fs, last.path)[torn.start :].rstrip(b"\0")
        name = f"{last.path.name}.torn-{torn.start}-{zlib.crc32(data):08x}"
        try:
            self._fs.mkdir(self._quarantine)
            write_file(self._fs, self._quarantine / name, data)
            self._kept(name)
        except OSError as error:
            log.warning(
                "cannot keep the %d torn bytes at the end of %s in %s: %s",
                len(data),
                last.path,
                self._quarantine,
                error,
            )

    def _keep_whole(self, last: FoundSegment) -> None:
        """The damaged file: a second name, before the copy takes the first."""
        self._fs.mkdir(self._quarantine)
        crc = zlib.crc32(read_segment(self._fs, last.path))
        name = f"{last.path.name}.corrupt-{crc:08x}"
        if not self._fs.exists(self._quarantine / name):
            self._fs.link(last.path, self._quarantine / name)
        self._kept(name)

    def _kept(self, name: str) -> None:
        self._fs.sync_dir(self._quarantine)
        self._found.report.quarantined.append(name)

    def remove_leftovers(self) -> None:
        """Temporary files of a start that was cut short."""
        for name in self._fs.names(self._directory):
            if name.endswith(TEMPORARY_SUFFIX):
                self._fs.unlink(self._directory / name)

    def keep_spare(self) -> None:
        """Hold blocks for the next recovery; without room it goes without, and says so."""
        path = self._directory / SPARE_NAME
        wanted = self._settings.segment_bytes_max
        try:
            fd = self._fs.open_write(path) if self._fs.exists(path) else self._fs.create(path)
            try:
                size = self._fs.size(fd)
                if size < wanted:
                    self._fs.allocate(fd, size, wanted - size)
            finally:
                self._fs.close(fd)
        except OSError as error:
            log.warning(
                "cannot hold back %d bytes for the next recovery at %s: %s", wanted, path, error
            )
            with contextlib.suppress(OSError):  # told already; half a spare would not do
                self._fs.unlink(path)


def _active(header: SegmentHeader, fd: int, tail: Record | None, allocated: int) -> ActiveSegment:
    if tail is None:
        return ActiveSegment(header, fd, RECORDS_OFFSET, allocated, 0, header.prev_last_lsn)
    return ActiveSegment(header, fd, tail.end, allocated, tail.crc, tail.last_lsn)


def _rewrite(header: SegmentHeader, records: list[Record]) -> bytearray:
    """The file's bytes; the records are told their new places."""
    data = bytearray(encode_header(header))
    crc = 0
    for record in records:
        record.offset, record.prev_crc = len(data), crc
        crc = record.crc = _append(data, record, header.salt)
    return data


def _append(data: bytearray, record: Record, salt: bytes) -> int:
    """Add the record as it stands at its offset; gives its CRC."""
    return append_record(
        data.extend,
        salt=salt,
        offset=record.offset,
        kind=record.kind,
        lsn=record.lsn,
        count=record.count,
        durable_lsn=record.durable_lsn,
        prev_crc=record.prev_crc,
        payload=record.payload,
        producer=record.producer,
        seq=record.seq,
        from_seq=record.from_seq,
    )


def _sealed(found: Survey, active: int) -> list[SealedSegment]:
    """The segments before the active one. One whose header is gone is as old as the
    next that tells, so that it is not taken for older than all."""
    sealed: list[SealedSegment] = []
    created_ns = 0
    for segment in reversed(found.segments):
        header = segment.header
        if header is not None and not segment.guessed:
            created_ns = header.created_ns
        if segment.number < active:
            first_lsn = header.first_lsn if header else segment.after_lsn + 1
            sealed.append(
                SealedSegment(segment.number, first_lsn, segment.last_lsn, segment.size, created_ns)
            )
    return sealed[::-1]
