"""Opening the journal for appending, safe to crash in at every step.

The steps of recovery; docs/STORAGE-FORMAT.md tells them in prose.

0. Take the lock; sync the directories before a name is trusted.   (app.py)
1. Refuse newer formats.                                            (survey.py)
2. Read the segments, find E, classify damage.                      (survey.py)
3. After an unclean stop, copy the believed part of the last segment to a file
   with a new salt; keep torn bytes and damaged files in ``quarantine/``.
4. Continue above every number ever seen.
5. Per project, take the newest whole generation.                   (core/restore.py)
6. Replay. 7. Report. 8. Serve.                                     (core/restore.py, app.py)
"""

from __future__ import annotations

import logging
from pathlib import Path

from tallymark.fs import FileSystem, read_file, write_file
from tallymark.record import Kind, Record, append_record
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
    segment_name,
)
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
) -> Journal:
    """Steps 3 and 4. Raises ``OSError`` when the directory cannot be written."""
    fs.mkdir(directory)
    fs.sync_dir(directory.parent)
    report = found.report
    jump = 0 if report.clean else LSN_JUMP
    report.next_lsn = max(report.highest_lsn, report.end_lsn) + 1 + jump
    opener = _Opener(fs, directory, found, settings, server_id, quarantine)
    active = opener.settle()
    opener.remove_leftovers()
    opener.keep_spare()
    sealed = [_sealed(s) for s in found.segments if s.number < active.header.number]
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
        segments = self._found.segments
        if not segments:
            return self._begin(1)
        last = segments[-1]
        if self._found.report.clean and last.header is not None:
            return self._reopen(last, last.header)
        damage = [d for d in self._found.report.damage if d.segment == last.number]
        for torn in (d for d in damage if d.torn):
            self._keep_torn(last, torn)
        if any(not d.torn for d in damage):
            self._keep_whole(last)
        return self._copy(last)

    def _begin(self, number: int) -> ActiveSegment:
        header = self._header(number, self._found.report.next_lsn, self._found.report.end_lsn, 0)
        return create_segment(self._fs, self._directory, header, self._settings)

    def _header(
        self, number: int, first_lsn: int, prev_last_lsn: int, prev_crc: int
    ) -> SegmentHeader:
        return SegmentHeader(
            salt=self._settings.random_bytes(8),
            server_id=self._server_id,
            number=number,
            first_lsn=first_lsn,
            prev_last_lsn=prev_last_lsn,
            prev_crc=prev_crc,
            created_ns=self._settings.clock_ns(),
        )

    def _reopen(self, last: FoundSegment, header: SegmentHeader) -> ActiveSegment:
        """After a clean stop everything is on disk: append to the file as it is."""
        fd = self._fs.open_write(last.path)
        return _active(header, fd, last.records or [], self._fs.size(fd))

    def _copy(self, last: FoundSegment) -> ActiveSegment:
        """Write the believed part anew, so that it is on disk and nothing else is.

        After an unclean stop a page may be in memory and not on the disk: what
        this daemon calls a duplicate from now on must be durable.
        """
        header = self._copied_header(last)
        data, records = _rewrite(header, last.records or [])
        temporary = last.path.with_suffix(TEMPORARY_SUFFIX)
        if self._fs.exists(self._directory / SPARE_NAME):
            self._fs.replace(self._directory / SPARE_NAME, temporary)
        else:
            write_file(self._fs, temporary, b"")
        fd = self._fs.open_write(temporary)
        try:
            self._fs.write(fd, data, 0)
            self._fs.truncate(fd, len(data))
            self._fs.sync(fd)
            self._fs.replace(temporary, last.path)
            self._fs.sync_dir(self._directory)
        except BaseException:
            self._fs.close(fd)
            raise
        last.records = records
        return _active(header, fd, records, len(data))

    def _copied_header(self, last: FoundSegment) -> SegmentHeader:
        if last.header is not None and any(last.header.server_id):
            return last.header.with_salt(self._settings.random_bytes(8))
        records = last.records or []
        first = records[0].lsn if records else self._found.report.next_lsn
        earlier = self._found.segments[:-1]
        return self._header(last.number, first, earlier[-1].last_lsn if earlier else 0, 0)

    def _keep_torn(self, last: FoundSegment, torn: Damage) -> None:
        data = read_file(self._fs, last.path)[torn.start :].rstrip(b"\0")
        path = self._quarantine_path(f"{last.path.name}.torn")
        write_file(self._fs, path, data)
        self._kept(path)

    def _keep_whole(self, last: FoundSegment) -> None:
        path = self._quarantine_path(f"{last.path.name}.corrupt")
        self._fs.link(last.path, path)
        self._kept(path)

    def _quarantine_path(self, stem: str) -> Path:
        self._fs.mkdir(self._quarantine)
        number = 1
        while self._fs.exists(path := self._quarantine / f"{stem}-{number}"):
            number += 1
        return path

    def _kept(self, path: Path) -> None:
        self._fs.sync_dir(self._quarantine)
        self._fs.sync_dir(self._quarantine.parent)
        self._found.report.quarantined.append(path.name)

    def remove_leftovers(self) -> None:
        """Temporary files of a start that was cut short."""
        for name in self._fs.names(self._directory):
            if name.endswith(TEMPORARY_SUFFIX):
                self._fs.unlink(self._directory / name)

    def keep_spare(self) -> None:
        """Hold blocks for the next recovery; without room it goes without, and says so."""
        path = self._directory / SPARE_NAME
        if self._fs.exists(path):
            return
        size = self._settings.segment_bytes_max
        fd = self._fs.create(path)
        try:
            self._fs.allocate(fd, 0, size)
        except OSError as error:
            self._fs.unlink(path)
            log.warning("cannot hold back %d bytes for the next recovery at %s: %s",
                        size, path, error)  # fmt: skip
        finally:
            self._fs.close(fd)


def _active(
    header: SegmentHeader, fd: int, records: list[Record], allocated: int
) -> ActiveSegment:
    if not records:
        return ActiveSegment(header, fd, RECORDS_OFFSET, allocated, 0, header.prev_last_lsn)
    tail = records[-1]
    return ActiveSegment(header, fd, tail.offset + tail.size, allocated, tail.crc, tail.last_lsn)


def _rewrite(header: SegmentHeader, records: list[Record]) -> tuple[bytearray, list[Record]]:
    """The file's bytes, and its records at their new places."""
    data = bytearray(encode_header(header))
    copies: list[Record] = []
    crc = 0
    for old in records:
        offset, prev_crc = len(data), crc
        crc = append_record(
            data,
            salt=header.salt,
            offset=offset,
            kind=Kind(old.kind),
            lsn=old.lsn,
            count=old.count,
            durable_lsn=old.durable_lsn,
            prev_crc=prev_crc,
            payload=old.payload,
            producer=old.producer,
            seq=old.seq,
            from_seq=old.from_seq,
        )
        copies.append(
            Record(
                old.kind, old.lsn, old.count, old.durable_lsn, old.producer, old.seq,
                old.from_seq, prev_crc, old.payload, crc, offset,
            )  # fmt: skip
        )
    return data, copies


def _sealed(segment: FoundSegment) -> SealedSegment:
    header = segment.header
    return SealedSegment(
        number=segment.number,
        first_lsn=header.first_lsn if header else 0,
        last_lsn=segment.last_lsn,
        size_bytes=segment.size,
        created_ns=header.created_ns if header else 0,
    )
