"""Reading the journal after whatever happened: what is whole, torn, or lost.

Changes nothing. Steps 1 and 2 of recovery (see recovery.py):

1. Refuse newer formats, before anything is believed or changed.
2. Read the segments, find E, classify the damage (damage.py).

E is the highest number proven to have been durable: by a record's header that
verifies, a later segment's header, a state file, or the clean-stop record. Where
the last segment stops verifying at or beyond E, the rest is torn; everywhere
else damage is corrupt. Of a segment that another one follows, it is known from
that one's header where it ended.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tallymark.fs import FileSystem
from tallymark.record import Kind, Record
from tallymarkd.storage.damage import (
    KINDS_WITH_EVENTS,
    LSN_JUMP,
    Damage,
    events_of,
    head_of,
    known_damage,
    loss_record,
    torn_damage,
    unknown_damage,
)
from tallymarkd.storage.segment import RECORDS_OFFSET, Gap
from tallymarkd.storage.segment_files import (
    FoundSegment,
    items_of,
    open_segment,
    refuse_newer,
    segment_paths,
)

__all__ = [
    "KINDS_WITH_EVENTS",
    "LSN_JUMP",
    "Damage",
    "FoundSegment",
    "JournalReport",
    "Survey",
    "refuse_newer",
    "segment_paths",
    "survey",
]


@dataclass(slots=True)
class JournalReport:
    """What recovery found in the journal.

    ``clean`` when the daemon had stopped in good order and the last segment is
    whole. ``proven_lsn`` is E; ``highest_lsn`` the highest number that may ever
    have been given; ``end_lsn`` where the journal ends, losses included.
    """

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
class Survey:
    """Every segment in order, and what is wrong."""

    fs: FileSystem
    segments: list[FoundSegment]
    report: JournalReport

    def records(self, after_lsn: int) -> Iterator[Record]:
        """Records whose numbers go beyond ``after_lsn``, in order.

        Each comes once. Raises ``StorageError`` when a segment cannot be read.
        """
        for segment in self.segments:
            if segment.last_lsn > after_lsn:
                for record in self.records_of(segment):
                    if record.last_lsn > after_lsn:
                        yield record

    def records_of(self, segment: FoundSegment) -> Iterable[Record]:
        """What is believed of one segment, a LOSS in place of whatever was lost."""
        if segment.records is not None:
            return segment.records
        return _with_losses(items_of(self.fs, segment), segment)

    @property
    def begins_after_lsn(self) -> int:
        """The number before the first that the journal can still hold."""
        if not self.segments:
            return self.report.end_lsn
        first = self.segments[0].header
        return first.prev_last_lsn if first else 0

    @property
    def loses_its_end(self) -> bool:
        """Whether the last that had been durable is lost, so that there may have been more."""
        last = self.segments[-1] if self.segments else None
        return bool(last and last.records and last.losses and last.records[-1] is last.losses[-1])

    @property
    def server_id(self) -> bytes:
        """The state directory's id as the newest readable segment has it; else empty."""
        ids = [s.header.server_id for s in self.segments if s.header and not s.guessed]
        return ids[-1] if ids else b""


def _with_losses(items: Iterable[Record | Gap], segment: FoundSegment) -> Iterator[Record]:
    """The records of a segment, a LOSS in place of whatever was lost."""
    losses = iter(segment.losses)
    loss = next(losses, None)
    for item in items:
        while loss is not None and loss.offset < item.end:
            yield loss
            loss = next(losses, None)
        if isinstance(item, Record) and item.lsn > segment.after_lsn:
            yield item
    if loss is not None:
        yield loss
    yield from losses


def survey(
    fs: FileSystem, directory: Path, *, evidence_lsn: int = 0, read_after_lsn: int = 0
) -> Survey:
    """Step 2: read the segments, find E, classify the damage.

    ``evidence_lsn`` is the highest number that a state file proves. A segment
    that ends at or before ``read_after_lsn`` is known by its neighbours' headers
    alone. Raises ``NewerFormatError``, and ``StorageError`` when a segment cannot
    be read for a reason that is no damage.
    """
    segments = [open_segment(fs, number, path) for number, path in segment_paths(fs, directory)]
    report = JournalReport(
        segments=len(segments), proven_lsn=evidence_lsn, highest_lsn=evidence_lsn
    )
    judge = _Judge(fs, report)
    stopped = not segments and not evidence_lsn
    for segment, following in itertools.zip_longest(segments, segments[1:]):
        if following is None:
            stopped = judge.last_segment(segment)
        elif _needless(segment, following, read_after_lsn):
            judge.skip(segment, following)
        else:
            judge.sealed_segment(segment, following)
    if evidence_lsn and not segments:
        reason = "state files tell of a journal, and there is none"
        report.damage.append(unknown_damage(0, 0, 0, evidence_lsn + 1, evidence_lsn, reason))
    report.end_lsn = max(judge.last, report.proven_lsn)
    report.clean = stopped
    return Survey(fs, segments, report)


def _needless(segment: FoundSegment, following: FoundSegment, read_after_lsn: int) -> bool:
    after = following.header
    if segment.header is None or after is None or following.number != segment.number + 1:
        return False  # what is missing between two segments is told, needed or not
    return 0 < after.prev_last_lsn <= read_after_lsn


class _Judge:
    """Goes through the segments in order; ``last`` is where the journal ends so far."""

    def __init__(self, fs: FileSystem, report: JournalReport) -> None:
        self._fs = fs
        self._report = report
        self.last = 0
        self.knows_floor = False
        """Whether ``last`` is where the next segment began, or nothing tells yet."""

    def skip(self, segment: FoundSegment, following: FoundSegment) -> None:
        """A segment that nobody needs: its end stands in the next one's header."""
        assert following.header is not None
        segment.skipped = self.knows_floor = True
        self.last = segment.last_lsn = max(self.last, following.header.prev_last_lsn)

    def sealed_segment(self, segment: FoundSegment, following: FoundSegment) -> None:
        """One that another follows, whose header says where this one ended."""
        self._enter(segment)
        bound = following.header.prev_last_lsn if following.header else self.last
        losing = _Losing(self, segment)
        for item in items_of(self._fs, segment):
            self._note(item)
            losing.take(item)
        losing.finish(bound, _why(segment, following))
        self._leave(segment)

    def last_segment(self, segment: FoundSegment) -> bool:
        """The one that was being written; true when it ends in a clean stop."""
        damaged = len(self._report.damage)
        self._enter(segment)
        items = list(items_of(self._fs, segment))
        for item in items:
            self._note(item)
        segment.records = []
        losing = _Losing(self, segment)
        for index, item in enumerate(items):
            if isinstance(item, Gap) and self.last >= self._report.proven_lsn:
                rest = items[index + 1 :]
                self.report(torn_damage(segment.number, item, rest, self.last))
                break
            losing.take(item)
        losing.finish(self._report.proven_lsn, _why(segment, None))
        self._leave(segment)
        return len(self._report.damage) == damaged and _stopped(segment)

    def report(self, damage: Damage) -> None:
        """Add to the report."""
        self._report.damage.append(damage)

    def lose(self, segment: FoundSegment, damage: Damage) -> None:
        """Report damage; when numbers were lost, put a LOSS where they stood."""
        self.report(damage)
        if damage.through_lsn > self.last:
            loss = loss_record(damage, self.last)
            segment.losses.append(loss)
            self.keep(segment, loss)

    def keep(self, segment: FoundSegment, record: Record) -> None:
        """Believe a record."""
        self.last = record.last_lsn
        if segment.records is not None:
            segment.records.append(record)

    def _enter(self, segment: FoundSegment) -> None:
        header = segment.header
        if header is not None:
            report = self._report
            report.proven_lsn = max(report.proven_lsn, header.prev_last_lsn)
            report.highest_lsn = max(report.highest_lsn, header.next_lsn - 1, header.prev_last_lsn)
            self.last = max(self.last, header.prev_last_lsn)
        self.knows_floor = self.knows_floor or header is not None or segment.number == 1
        segment.after_lsn = self.last
        if header is not None and segment.reason:
            damage = unknown_damage(
                segment.number, 0, RECORDS_OFFSET, self.last + 1, self.last, segment.reason
            )
            self.report(damage)

    def may_have_given(self, lsn: int) -> None:
        """Numbers up to this one may have been given, though nothing shows them."""
        self._report.highest_lsn = max(self._report.highest_lsn, lsn)

    def _leave(self, segment: FoundSegment) -> None:
        self.knows_floor = self.knows_floor or self.last > 0
        segment.last_lsn = self.last

    def _note(self, item: Record | Gap) -> None:
        """What a header that verifies proves, even when its payload does not."""
        head, report = head_of(item), self._report
        if head is not None:
            proven = head.last_lsn if head.kind == Kind.STOP else head.durable_lsn
            report.proven_lsn = max(report.proven_lsn, head.durable_lsn, proven)
            report.highest_lsn = max(report.highest_lsn, head.last_lsn)
        if isinstance(item, Record):
            report.records += 1
            report.events += events_of(item)


class _Losing:
    """Goes through one segment's items, and tells what is lost between them."""

    def __init__(self, judge: _Judge, segment: FoundSegment) -> None:
        self._judge = judge
        self._segment = segment
        self._gap: Gap | None = None
        self._stale: Record | Gap | None = None

    def take(self, item: Record | Gap) -> None:
        """The next item."""
        head = head_of(item)
        if head is None:
            assert isinstance(item, Gap)
            self._gap = item
            return
        if head.lsn <= self._segment.after_lsn:
            self._stale = self._stale or item
            return
        self._close_gap(head.lsn - 1)
        if isinstance(item, Record):
            self._judge.keep(self._segment, item)
        else:
            self._judge.lose(self._segment, known_damage(self._segment.number, item, head))

    def finish(self, bound: int, reason: str) -> None:
        """The segment is at its end; it had held numbers through ``bound``."""
        segment, judge = self._segment, self._judge
        self._close_gap(bound)
        if self._stale is not None:
            self._tell_stale(self._stale)
        if segment.header is None:
            self._lose_all(bound)
        elif bound > judge.last:
            size = segment.size
            judge.lose(
                segment,
                unknown_damage(segment.number, size, size, judge.last + 1, bound, reason),
            )

    def _close_gap(self, through: int) -> None:
        gap, self._gap = self._gap, None
        if gap is not None:
            last = self._judge.last
            damage = unknown_damage(
                self._segment.number, gap.offset, gap.end, last + 1, max(last, through), gap.reason
            )
            self._judge.lose(self._segment, damage)

    def _tell_stale(self, item: Record | Gap) -> None:
        segment, last = self._segment, self._judge.last
        reason = "its numbers had been before: it is an old copy of a segment"
        self._judge.report(
            unknown_damage(segment.number, item.offset, segment.size, last + 1, last, reason)
        )

    def _lose_all(self, bound: int) -> None:
        """Nothing in the file can be believed. It had held something: when nothing
        tells how much, the loss takes one number."""
        segment, last = self._segment, self._judge.last
        through = max(bound, last)
        if segment.records is not None:
            through = max(bound, last + 1)
        told = bound > last and self._judge.knows_floor
        # No number takes less than a byte.
        self._judge.may_have_given(last + segment.size)
        damage = unknown_damage(
            segment.number, 0, segment.size, last + 1, through, segment.reason, counted=told
        )
        self._judge.lose(segment, damage)


def _why(segment: FoundSegment, following: FoundSegment | None) -> str:
    if following is not None and following.number != segment.number + 1:
        first, last = segment.number + 1, following.number - 1
        if first == last:
            return f"segment {first} is missing"
        return f"segments {first} to {last} are missing"
    return "records that had been durable are not there"


def _stopped(segment: FoundSegment) -> bool:
    """Whether the last record is a clean stop, written when all before was durable."""
    records = segment.records
    if not records or records[-1].kind != Kind.STOP:
        return False
    before = records[-2].last_lsn if len(records) > 1 else segment.after_lsn
    return records[-1].durable_lsn >= before
