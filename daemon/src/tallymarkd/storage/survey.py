"""Reading the journal after whatever happened: what is whole, torn, or lost.

Changes nothing. Steps 1 and 2 of recovery (see recovery.py):

1. Refuse newer formats, before anything is believed or changed.
2. Read the segments, find E, classify the damage.

E is the highest number proven to have been durable: by any whole record, a
later segment's header, a state file, or a clean-stop record. Damage that may
reach E or below is *corrupt*: acknowledged events are lost. Damage beyond E is
*torn*: it was never acknowledged.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from tallymark.errors import DamagedError, NewerFormatError, StorageError
from tallymark.fs import FileSystem, read_file
from tallymark.record import NO_PRODUCER, Kind, Record, read_record
from tallymarkd.storage.segment import (
    RECORDS_OFFSET,
    Gap,
    SegmentHeader,
    decode_header,
    segment_number,
    walk,
)

LSN_JUMP = 2**20
"""Numbers left out after an unclean stop: more than one commit can have held."""

KINDS_WITH_EVENTS = (Kind.BATCH, Kind.TOMBSTONE)


class Damage(msgspec.Struct, kw_only=True, frozen=True):
    """Bytes that do not verify, or records that are missing.

    ``from_lsn`` to ``through_lsn`` are the numbers that stood there, as far as
    the neighbours tell; ``events`` is exact when the damaged record's header
    still verifies (then its producer is known too), else the most it can be,
    and 0 when not even that is known.
    """

    segment: int
    start: int
    end: int
    from_lsn: int
    through_lsn: int
    torn: bool
    reason: str
    producer: bytes = b""
    from_seq: int = 0
    through_seq: int = 0
    events: int = 0


@dataclass(slots=True)
class JournalReport:
    """What recovery found in the journal."""

    clean: bool = True
    segments: int = 0
    records: int = 0
    events: int = 0
    proven_lsn: int = 0
    highest_lsn: int = 0
    end_lsn: int = 0
    next_lsn: int = 1
    damage: list[Damage] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)


@dataclass(slots=True)
class FoundSegment:
    """One segment as it was found.

    ``header`` is None when it cannot be read at all. ``skipped`` when only the
    header was looked at. ``losses`` has, by file offset, a LOSS record for every
    hole that may have held acknowledged events. ``records`` is what is believed
    of the last segment; the others are read again when they are needed, so that
    a long history does not have to fit in memory.
    """

    number: int
    path: Path
    header: SegmentHeader | None
    size: int
    reason: str = ""
    skipped: bool = False
    proven_lsn: int = 0
    highest_lsn: int = 0
    last_lsn: int = 0
    losses: dict[int, Record] = field(default_factory=dict)
    records: list[Record] | None = None


@dataclass(slots=True)
class Survey:
    """Every segment in order, and what is wrong."""

    fs: FileSystem
    segments: list[FoundSegment]
    report: JournalReport

    def records(self, after_lsn: int) -> Iterator[Record]:
        """Records whose numbers go beyond ``after_lsn``, in order."""
        for segment in self.segments:
            if segment.last_lsn > after_lsn:
                for record in self._believed(segment):
                    if record.last_lsn > after_lsn:
                        yield record

    def _believed(self, segment: FoundSegment) -> Iterable[Record]:
        if segment.records is not None:
            return segment.records
        items = _walk_file(self.fs, segment) if segment.header else ()
        return _with_losses(items, segment)

    @property
    def begins_after_lsn(self) -> int:
        """The number before the first that the journal can still hold."""
        first = self.segments[0].header if self.segments else None
        return first.prev_last_lsn if first else 0

    @property
    def server_id(self) -> bytes:
        """The state directory's id as the newest readable segment has it; else empty."""
        ids = [s.header.server_id for s in self.segments if s.header and any(s.header.server_id)]
        return ids[-1] if ids else b""


def segment_paths(fs: FileSystem, directory: Path) -> list[tuple[int, Path]]:
    """Number and path of every segment, oldest first."""
    numbers = ((segment_number(name), name) for name in fs.names(directory))
    return sorted((number, directory / name) for number, name in numbers if number is not None)


def refuse_newer(fs: FileSystem, directory: Path) -> None:
    """Step 1: raises ``NewerFormatError`` if a segment needs a newer reader."""
    for number, path in segment_paths(fs, directory):
        try:
            decode_header(_head(fs, path))
        except NewerFormatError as error:
            raise NewerFormatError(f"cannot open segment {number} ({path}): {error}") from None
        except (DamagedError, OSError):
            continue


def survey(
    fs: FileSystem, directory: Path, *, evidence_lsn: int = 0, read_after_lsn: int = 0
) -> Survey:
    """Step 2: read the segments, find E, classify the damage.

    ``evidence_lsn`` is the highest number that a state file proves. A segment
    that ends at or before ``read_after_lsn`` is known by its neighbours' headers
    alone. Raises ``StorageError`` when one cannot be read for a reason that is
    no damage.
    """
    report = JournalReport()
    segments = _look(fs, directory, read_after_lsn, report)
    report.segments = len(segments)
    report.proven_lsn = max([evidence_lsn, *(s.proven_lsn for s in segments)])
    report.highest_lsn = max([evidence_lsn, *(s.highest_lsn for s in segments)])
    last, stopped = 0, False
    for segment, following in _with_next(segments):
        last, stopped = _classify(fs, segment, following, last, report)
    report.end_lsn = max(last, report.proven_lsn)
    report.clean = (stopped or not (segments or evidence_lsn)) and not report.damage
    return Survey(fs, segments, report)


def _look(
    fs: FileSystem, directory: Path, read_after_lsn: int, report: JournalReport
) -> list[FoundSegment]:
    """Headers first; then the records of every segment that has to be read."""
    segments = [_open(fs, number, path) for number, path in segment_paths(fs, directory)]
    for segment, following in _with_next(segments):
        after = following.header if following else None
        if after and segment.header and 0 < after.prev_last_lsn <= read_after_lsn:
            segment.skipped = True
            segment.last_lsn = after.prev_last_lsn
        elif segment.header:
            _scan(fs, segment, report)
    return segments


def _with_next(
    segments: list[FoundSegment],
) -> Iterator[tuple[FoundSegment, FoundSegment | None]]:
    return itertools.zip_longest(segments, segments[1:])


def _open(fs: FileSystem, number: int, path: Path) -> FoundSegment:
    try:
        data = _head(fs, path)
        try:
            header, _ = decode_header(data)
        except DamagedError as error:
            data = read_file(fs, path)
            guess = _guess_header(data, number)
            return FoundSegment(number, path, guess, len(data), str(error))
    except OSError as error:
        raise StorageError(f"cannot read segment {path}: {error}") from error
    return FoundSegment(number, path, header, _size(fs, path))


def _size(fs: FileSystem, path: Path) -> int:
    fd = fs.open_read(path)
    try:
        return fs.size(fd)
    finally:
        fs.close(fd)


def _walk_file(fs: FileSystem, segment: FoundSegment) -> Iterator[Record | Gap]:
    assert segment.header is not None
    try:
        data = read_file(fs, segment.path)
    except OSError as error:
        raise StorageError(f"cannot read segment {segment.path}: {error}") from error
    yield from walk(data, segment.header.salt)


def _scan(fs: FileSystem, segment: FoundSegment, report: JournalReport) -> None:
    """What the segment's records prove."""
    assert segment.header is not None
    proven = highest = segment.header.prev_last_lsn
    for item in _walk_file(fs, segment):
        record = item if isinstance(item, Record) else item.known
        if record is not None:
            highest = max(highest, record.last_lsn)
        if isinstance(item, Record):
            proven = max(proven, item.durable_lsn)
            if item.kind == Kind.STOP:
                proven = max(proven, item.last_lsn)
            report.records += 1
            report.events += item.count if item.kind in KINDS_WITH_EVENTS else 0
    segment.proven_lsn, segment.highest_lsn = proven, highest


def _head(fs: FileSystem, path: Path) -> bytes:
    fd = fs.open_read(path)
    try:
        return fs.read(fd, RECORDS_OFFSET, 0)
    finally:
        fs.close(fd)


def _guess_header(data: bytes, number: int) -> SegmentHeader | None:
    """With both headers gone, the first record still begins with the salt."""
    salt = data[RECORDS_OFFSET : RECORDS_OFFSET + 8]
    try:
        first = read_record(data, RECORDS_OFFSET, salt=salt, offset=RECORDS_OFFSET)
    except DamagedError:
        return None
    return SegmentHeader(salt, bytes(16), number, first.lsn, 0, 0, 0)


def _classify(
    fs: FileSystem,
    segment: FoundSegment,
    following: FoundSegment | None,
    last: int,
    report: JournalReport,
) -> tuple[int, bool]:
    """Add this segment's damage to the report and to ``losses``.

    Gives its last number, and whether it ends with the clean-stop record.
    """
    if segment.skipped:
        return segment.last_lsn, False
    kept: list[Record] = []
    if segment.header is not None:
        last = max(last, segment.header.prev_last_lsn)
        torn = _believe(fs, segment, following is None, last, report, kept)
        last = max(last, segment.last_lsn)
        if torn:
            segment.records = kept
            return last, False
    expected = report.proven_lsn
    if following is not None:
        expected = following.header.prev_last_lsn if following.header else 0
    stopped = bool(kept) and kept[-1].kind == Kind.STOP
    if expected > last:
        missing = _missing(segment, following, last + 1, expected)
        report.damage.append(missing)
        last = _step_over(segment, missing, last, kept)
    segment.last_lsn = last
    if following is None:
        segment.records = kept
    return last, stopped


def _believe(
    fs: FileSystem,
    segment: FoundSegment,
    is_last: bool,
    last: int,
    report: JournalReport,
    kept: list[Record],
) -> bool:
    """Go through the segment's records; true when its tail is torn.

    ``kept`` collects what is believed, in the last segment only.
    """
    items = _walk_file(fs, segment)
    gap: Gap | None = None
    for item in items:
        if isinstance(item, Record):
            if gap is not None:
                last = _hole(segment, gap, last, item.lsn - 1, report, kept)
                gap = None
            last = segment.last_lsn = item.last_lsn
            if is_last:
                kept.append(item)
        elif is_last and last >= report.proven_lsn:
            report.damage.append(_damage(segment, item, last + 1, last, torn=True))
            return True
        else:
            gap = item
    if gap is not None:
        segment.last_lsn = _hole(segment, gap, last, max(last, report.proven_lsn), report, kept)
    return False


def _hole(
    segment: FoundSegment,
    gap: Gap,
    last: int,
    through: int,
    report: JournalReport,
    kept: list[Record],
) -> int:
    damage = _damage(segment, gap, last + 1, through, torn=False)
    report.damage.append(damage)
    return _step_over(segment, damage, last, kept)


def _step_over(segment: FoundSegment, damage: Damage, last: int, kept: list[Record]) -> int:
    """Put a LOSS record where acknowledged events may have stood."""
    first = max(last + 1, damage.from_lsn)
    if damage.through_lsn < first:
        return last
    loss = Record(
        kind=Kind.LOSS,
        lsn=first,
        count=min(damage.through_lsn - first + 1, 2**32 - 1),
        durable_lsn=last,
        producer=damage.producer or NO_PRODUCER,
        seq=damage.through_seq,
        from_seq=damage.from_seq,
        prev_crc=0,
        payload=msgspec.json.encode(damage),
        crc=0,
        offset=damage.start,
    )
    segment.losses[damage.start] = loss
    kept.append(loss)
    return damage.through_lsn


def _with_losses(
    items: Iterable[Record | Gap], segment: FoundSegment
) -> Iterator[Record]:
    """The records of a sealed segment, a LOSS in place of every hole."""
    for item in items:
        if isinstance(item, Record):
            yield item
        elif item.start in segment.losses:
            yield segment.losses[item.start]
    if segment.size in segment.losses:
        yield segment.losses[segment.size]


def _damage(
    segment: FoundSegment, gap: Gap, first: int, through: int, *, torn: bool
) -> Damage:
    known = gap.known
    if known is not None:
        first, through = known.lsn, max(known.last_lsn, through)
    return Damage(
        segment=segment.number,
        start=gap.start,
        end=gap.end,
        from_lsn=first,
        through_lsn=through,
        torn=torn,
        reason=gap.reason,
        producer=known.producer if known else b"",
        from_seq=known.from_seq if known else 0,
        through_seq=known.seq if known else 0,
        events=_events(known, first, through),
    )


def _events(known: Record | None, first: int, through: int) -> int:
    if known is not None and known.last_lsn == through:
        return known.count if known.kind in KINDS_WITH_EVENTS else 0
    numbers = through - first + 1
    return numbers if numbers < LSN_JUMP else 0


def _missing(
    segment: FoundSegment, following: FoundSegment | None, first: int, through: int
) -> Damage:
    reason = "records that had been durable are not there"
    if segment.header is None:
        reason = segment.reason
    elif following is not None and following.number != segment.number + 1:
        reason = f"segments {segment.number + 1} to {following.number - 1} are missing"
    return Damage(
        segment=segment.number,
        start=segment.size,
        end=segment.size,
        from_lsn=first,
        through_lsn=through,
        torn=False,
        reason=reason,
        events=_events(None, first, through),
    )
