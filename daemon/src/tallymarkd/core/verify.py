"""``verify``: everything in a state directory, read offline, nothing changed.

1. Nobody may be writing: with a daemon on the directory there is no answer.
2. Read every generation of every state file, and the index.
3. Survey the journal as recovery does, but all of it.
4. Walk over every record once: count events anew, replay each project from its
   oldest generation (or from nothing), look its keys up in the index.
5. Hold what was counted and replayed against what the files say.
6. See that nobody has begun to write meanwhile.

What recovery would put right by itself without losing anything that was
acknowledged, an unclean stop or torn bytes, is told and is no finding. Neither
is what a start has told before, nor history that was retired.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from tallymark.errors import DamagedError, NewerFormatError, PathError, StorageError
from tallymark.fs import FileSystem, is_locked
from tallymark.record import Kind, Record
from tallymarkd.core.entry import Entry
from tallymarkd.core.keys import unpack_keys
from tallymarkd.core.layout import Layout
from tallymarkd.core.ledger import Loss
from tallymarkd.core.loading import missing_part
from tallymarkd.core.recount import Recount
from tallymarkd.core.recovery_report import (
    corrupt,
    damage_text,
    read_history,
    read_report,
)
from tallymarkd.core.refusals import is_state_dir, refuse_running, refuse_unreadable
from tallymarkd.core.replacing import refuse_unfinished
from tallymarkd.core.verify_damage import DamageCheck
from tallymarkd.core.verify_ledger import LedgerCheck
from tallymarkd.core.verify_report import IndexPart, JournalPart, SegmentPart, VerifyReport
from tallymarkd.core.verify_state import Loaded, Losses, Track, load
from tallymarkd.storage.index_reading import IndexReading
from tallymarkd.storage.journal import TEMPORARY_SUFFIX
from tallymarkd.storage.survey import Damage, FoundSegment, Survey, refuse_newer, survey

KEYS_AT_ONCE = 5000

NO_INDEX = "there is no index.sqlite; the next start makes it again"
UNCLEAN = "the daemon did not stop in good order; the next start settles it"


def verify(
    fs: FileSystem, root: Path, *, locked: Callable[[Path], bool] = is_locked
) -> VerifyReport:
    """Look at everything.

    Raises ``PathError`` for what is no state directory; ``StorageError`` when a
    daemon runs on it or a file cannot be read, ``NewerFormatError``, ``OSError``.
    """
    layout = Layout(root)
    refuse_unreadable(fs, root, "verify")
    if not is_state_dir(fs, layout):
        raise PathError(
            f"cannot verify {root}: it is no state directory of tallymarkd, and no backup"
        )
    refuse_running(layout, "verify", locked)
    refuse_unfinished(fs, layout, "verify")
    before = [fs.stamp(path) for path in (layout.lock, layout.recovery_report)]
    try:
        report = _Verify(fs, layout).run()
    except OSError as error:
        if [fs.stamp(path) for path in (layout.lock, layout.recovery_report)] != before:
            refuse_running(layout, "verify", lambda _: True)
        raise StorageError(f"cannot verify {root}: {error}") from error
    after = [fs.stamp(path) for path in (layout.lock, layout.recovery_report)]
    refuse_running(layout, "verify", lambda path: after != before or locked(path))
    return report


class _Verify:
    """The steps, around one report."""

    def __init__(self, fs: FileSystem, layout: Layout) -> None:
        self._fs = fs
        self._layout = layout
        self._report = VerifyReport(state_dir=str(layout.root))
        self._losses = Losses()
        self._history = read_history(fs, layout)
        self._tracks: dict[str, Track] = {}

    def run(self) -> VerifyReport:
        report, layout, fs = self._report, self._layout, self._fs
        refuse_newer(fs, layout.journal)
        loaded = load(fs, layout, report)
        index = self._open_index()
        evidence = max(loaded.files.evidence_lsn, index.through_lsn if index else 0)
        found = survey(fs, layout.journal, evidence_lsn=evidence)
        damage = DamageCheck(report, loaded, self._history, index)
        self._tell_journal(found, loaded, damage)
        recount = Recount(whole=found.begins_after_lsn == 0)
        try:
            self._walk(found, loaded, recount, index, damage)
        finally:
            if index is not None:
                index.close()
        self._tell_producers(recount, loaded)
        self._tell_states(loaded)
        self._tell_ledger_losses(loaded)
        self._tell_rest()
        report.judge()
        return report

    def _open_index(self) -> IndexReading | None:
        report, path = self._report, self._layout.index
        if not self._fs.exists(path):
            report.notes.append(NO_INDEX)
            return None
        try:
            index = IndexReading.open(self._fs, path)
        except NewerFormatError as error:
            raise NewerFormatError(f"cannot verify {path}: {error}") from None
        except DamagedError as error:
            report.index = IndexPart(state="damaged")
            report.find("damaged", f"{path}: {error}; the next start makes it again")
            return None
        report.index = IndexPart(state="whole", keys=index.keys, through_lsn=index.through_lsn)
        return index

    # The journal.

    def _tell_journal(self, found: Survey, loaded: Loaded, damage: DamageCheck) -> None:
        survey_report = found.report
        torn = [each for each in survey_report.damage if each.torn]
        self._report.journal = JournalPart(
            clean=survey_report.clean,
            begins_after_lsn=found.begins_after_lsn,
            end_lsn=survey_report.end_lsn,
            proven_lsn=survey_report.proven_lsn,
            torn_bytes=sum(each.end - each.start for each in torn),
            segments=[_segment_part(each, survey_report.damage) for each in found.segments],
        )
        for each in corrupt(survey_report.damage):
            damage.found(each)
        notes = self._report.notes
        if not survey_report.clean:
            notes.append(UNCLEAN)
        notes += [damage_text(each) for each in torn]
        if missing := missing_part(found, loaded.files):
            first, last, reason = missing
            loss = Loss(reason=reason, from_lsn=first, through_lsn=last)
            self._report.find("lost", loss.text())

    # The walk.

    def _walk(
        self,
        found: Survey,
        loaded: Loaded,
        recount: Recount,
        index: IndexReading | None,
        damage: DamageCheck,
    ) -> None:
        report, begins_after = self._report, found.begins_after_lsn
        ledger = LedgerCheck(loaded.servers, recount)
        self._losses.ranges += _ranges(found.report.damage)
        server = loaded.files.server.newest
        retired = server.retired_lsn if server is not None else 0
        self._tracks = {
            each.project: Track(self._fs, each, self._losses, begins_after, retired)
            for each in loaded.projects
            if each.project
        }
        keys = _KeyCheck(index, found)
        for segment, part in zip(found.segments, report.journal.segments, strict=True):
            for record in found.records_of(segment):
                ledger.before(record.lsn)
                if record.kind == Kind.LOSS:
                    self._take_loss(record, segment, damage)
                part.records += 1
                self._take(record, recount, keys)
        for track in self._tracks.values():
            track.finish()
        report.events, report.producers = recount.total, recount.producers
        report.journal.records = dict(sorted(recount.kinds.items()))
        for text in recount.unreadable:
            report.find("lost", f"{text}; its checksum holds, and it says nothing")
        ledger.finish(report, self._losses, begins_after)
        if index is not None:
            keys.finish(report, self._losses)

    def _take(self, record: Record, recount: Recount, keys: _KeyCheck) -> None:
        entry = recount.take(record)
        if entry is None:
            return
        keys.take(record, entry)
        track = self._tracks.get(entry.project)
        if track is not None:
            track.take(record, entry)

    def _take_loss(self, record: Record, segment: FoundSegment, check: DamageCheck) -> None:
        """A loss that stands in the file: an earlier start had put it there."""
        damage = msgspec.json.decode(record.payload, type=Damage)
        self._losses.ranges.append((damage.from_lsn, damage.through_lsn))
        if record not in segment.losses:
            check.recorded(damage, record.lsn)

    # What the walk has shown.

    def _tell_producers(self, recount: Recount, loaded: Loaded) -> None:
        losses = loaded.servers[0][1].ledger.losses if loaded.servers else []
        told = {(each.producer, each.from_seq, each.through_seq) for each in losses}
        for name, producer in recount.producers.items():
            for first, last in producer.missing:
                text = f"producer {name}: seq {first} to {last} are not in the journal"
                if (name, first, last) in told or self._losses.ranges:
                    self._report.known.append(text)
                else:
                    self._report.find("lost", text)

    def _tell_states(self, loaded: Loaded) -> None:
        report = self._report
        for part in loaded.projects:
            for each in part.generations:
                if each.agrees is False:
                    report.find("disagrees", f"{each.path}: {each.reason}")
        if not report.journal.segments or not loaded.servers:
            return
        behind = report.after_ledger.received
        if behind:
            report.notes.append(
                f"{behind} events stand in the journal and not yet in server.json; "
                "the next start takes them in"
            )

    def _tell_ledger_losses(self, loaded: Loaded) -> None:
        """What the ledger names and the journal does not show any more."""
        losses = loaded.servers[0][1].ledger.losses if loaded.servers else []
        shown = set(self._losses.ranges)
        self._report.known += [
            each.text() for each in losses if (each.from_lsn, each.through_lsn) not in shown
        ]

    def _tell_rest(self) -> None:
        fs, layout, report = self._fs, self._layout, self._report
        report.quarantine = fs.names(layout.quarantine)
        report.last_start = read_report(fs, layout)
        report.notes += [each.restored for each in self._history.reports if each.restored]
        left = [
            str(directory / name)
            for directory in (layout.root, layout.journal)
            for name in fs.names(directory)
            if name.endswith(TEMPORARY_SUFFIX)
        ]
        report.notes += [f"{path} is left over from something that was cut off" for path in left]


class _KeyCheck:
    """Looks the journal's keys up in the index, some thousand at a time."""

    def __init__(self, index: IndexReading | None, found: Survey) -> None:
        self._index = index
        self._pending: dict[int, int] = {}
        self._matched = 0
        self._missing: list[int] = []
        self._begins_after = found.begins_after_lsn

    def take(self, record: Record, entry: Entry) -> None:
        """The keys that a batch has brought."""
        if self._index is None or record.last_lsn > self._index.through_lsn:
            return
        for key in unpack_keys(entry.keys):
            self._pending.setdefault(key, record.lsn)
        if len(self._pending) >= KEYS_AT_ONCE:
            self._look_up(self._index)

    def _look_up(self, index: IndexReading) -> None:
        found = index.lsn_of(list(self._pending))
        for key, lsn in self._pending.items():
            if key not in found or found[key] > lsn:
                self._missing.append(lsn)
            elif found[key] == lsn:
                self._matched += 1
        self._pending = {}

    def finish(self, report: VerifyReport, losses: Losses) -> None:
        """Tell what is missing, and what is too much."""
        assert self._index is not None
        path = Path(report.state_dir) / "index.sqlite"
        try:
            self._look_up(self._index)
            gone = {(0, self._begins_after), *losses.ranges}
            lost = sum(self._index.count_between(*each) for each in gone)
        except DamagedError as error:
            report.index.state = "damaged"
            report.find("damaged", f"{path}: {error}; the next start makes it again")
            return
        missing = self._missing
        more = self._index.keys - self._matched
        report.index.agrees = not missing and more <= lost
        if missing:
            report.find(
                "disagrees",
                f"{path}: {len(missing)} keys of the journal are not in it, the first of "
                f"number {missing[0]}; a repeat of these events would count twice. Remove the "
                "index while the daemon is stopped: the next start makes it again",
            )
        if more > lost:
            report.find(
                "disagrees",
                f"{path}: {more - lost} keys are of no event in the journal; events with these "
                "keys would be taken for duplicates. Remove the index while the daemon is "
                "stopped: the next start makes it again",
            )


def _ranges(damage: list[Damage]) -> list[tuple[int, int]]:
    return [(each.from_lsn, each.through_lsn) for each in corrupt(damage) if each.numbers]


def _segment_part(segment: FoundSegment, damage: list[Damage]) -> SegmentPart:
    header = segment.header
    state = "unreadable" if header is None else "guessed" if segment.guessed else "whole"
    if state == "whole" and segment.reason:
        state = "one copy"
    return SegmentPart(
        number=segment.number,
        path=str(segment.path),
        bytes=segment.size,
        header=state,
        first_lsn=header.first_lsn if header else segment.after_lsn + 1,
        last_lsn=segment.last_lsn,
        damage=[damage_text(each) for each in damage if each.segment == segment.number],
    )
