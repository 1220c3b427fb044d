from __future__ import annotations

import random

import msgspec
import pytest

from tallymark.record import Kind
from tallymarkd.storage.segment import RECORDS_OFFSET
from tallymarkd.storage.survey import LSN_JUMP, Damage, survey
from tests.damaged_journals import PRODUCER, Case, facts
from tests.faulty_fs import FaultyFs
from tests.journals import (
    JOURNAL,
    SERVER_ID,
    Machine,
    commit,
    fill,
    segment,
    stop,
    zeroed,
)


@pytest.fixture
def case() -> Case:
    return Case()


def test_an_empty_directory_is_a_clean_beginning() -> None:
    found = Machine().look()
    assert (found.report.clean, found.report.end_lsn, found.segments) == (True, 0, [])
    assert (found.begins_after_lsn, found.server_id) == (0, b"")


def test_a_whole_journal(case: Case) -> None:
    found = case.machine.look()
    report = found.report
    assert (report.segments, report.records, report.damage) == (3, len(case.written), [])
    assert report.events == len(case.written) + 4
    assert case.lost() == []
    assert not report.clean
    assert (found.begins_after_lsn, found.server_id) == (0, SERVER_ID)
    assert [s.last_lsn for s in found.segments] == [*case.ends[1:], case.last[-1][0]]


def test_what_proves_that_numbers_were_durable(case: Case) -> None:
    d, c = case.last[-1][0], case.last[-2][0]
    assert case.machine.look().report.proven_lsn == d - 1 == c + 4
    assert case.machine.look(evidence_lsn=d).report.proven_lsn == d
    case.journal.append(Kind.MARK, b"")
    case.journal.sync()
    assert case.machine.look().report.proven_lsn == d
    stop(case.journal)
    report = case.machine.look().report
    assert (report.proven_lsn, report.end_lsn, report.clean) == (d + 2, d + 2, True)


def test_the_header_of_an_empty_segment_proves_the_one_before(case: Case) -> None:
    case.change(3, lambda data: data[:RECORDS_OFFSET])
    assert case.machine.look().report.proven_lsn == case.ends[2]


def test_a_header_proves_even_when_its_payload_is_gone(case: Case) -> None:
    """The header of the last record proves what came before it."""
    last = case.record(3, -1)
    before = case.record(3, -2)
    case.flip(3, last.offset + 85)
    case.flip(3, before.offset + 85)
    report = case.machine.look().report
    assert report.proven_lsn == before.last_lsn
    assert [facts(each) for each in report.damage] == [
        (3, before.lsn, before.last_lsn, False, 5),
        (3, last.lsn, last.lsn, True, 1),
    ]


def test_only_what_is_asked_for_is_read(case: Case) -> None:
    fs = FaultyFs(case.disk)
    found = survey(fs, JOURNAL, read_after_lsn=case.ends[2])
    assert [s.skipped for s in found.segments] == [True, True, False]
    assert sum(each.length for each in fs.operations if each.kind == "read") < (
        3 * RECORDS_OFFSET + len(case.machine.file(3)) + 1
    )
    assert [r.lsn for r in found.records(case.ends[2])] == [lsn for lsn, _ in case.last]
    assert [s.last_lsn for s in found.segments] == [*case.ends[1:], case.last[-1][0]]


def test_records_after_a_number(case: Case) -> None:
    found = case.machine.look()
    for after in (0, 3, case.ends[1], case.last[2][0]):
        assert [r.lsn for r in found.records(after)] == [
            lsn for lsn, _ in case.written if lsn > after
        ]
    five = case.last[-2][0]
    assert [r.lsn for r in found.records(five + 3)] == [five, five + 5]


# Torn.


def test_a_torn_tail_was_never_acknowledged(case: Case) -> None:
    last = case.record(3, -1)
    case.change(3, lambda data: zeroed(data, last.offset + 40, 200))
    report = case.machine.look().report
    (torn,) = report.damage
    assert facts(torn) == (3, last.lsn, last.lsn - 1, True, 0)
    assert torn.start == last.offset
    assert last.offset + 32 < torn.end <= last.offset + 40
    assert case.lost() == [case.last[-1]]


def test_everything_behind_a_tear_is_torn(case: Case) -> None:
    """Sectors come to the disk in any order: a whole record may follow a torn one."""
    case.journal.append(Kind.BATCH, b"e" * 600)
    case.journal.append(Kind.BATCH, b"f" * 600, count=2, producer=PRODUCER, seq=3)
    case.journal.append(Kind.BATCH, b"g" * 90)
    case.journal.sync()
    e, f, g = (case.record(3, index) for index in (-3, -2, -1))
    case.flip(3, e.offset + 30)
    case.flip(3, f.offset + 85)
    (torn,) = case.machine.look().report.damage
    assert facts(torn) == (3, e.lsn, g.lsn, True, 3)
    assert (torn.start, torn.end, torn.producer) == (e.offset, g.end, b"")
    assert case.machine.look().report.highest_lsn == g.lsn
    assert case.lost() == []


# Corrupt.


def test_rot_in_the_last_commit_is_seen_when_something_proves_it(case: Case) -> None:
    last = case.record(3, -1)
    case.flip(3, last.offset + 85)
    assert [facts(each) for each in case.machine.look().report.damage] == [
        (3, last.lsn, last.lsn, True, 1)
    ]
    assert [facts(each) for each in case.machine.look(evidence_lsn=last.lsn).report.damage] == [
        (3, last.lsn, last.lsn, False, 1)
    ]
    assert case.lost(last.lsn) == [case.last[-1]]


def test_rot_in_the_last_commit_is_seen_when_a_mark_follows(case: Case) -> None:
    last = case.record(3, -1)
    case.journal.append(Kind.MARK, b"")
    case.journal.sync()
    for at in (last.offset + 85, last.offset + 5):
        case.flip(3, at)
        (lost,) = case.machine.look().report.damage
        assert facts(lost) == (3, last.lsn, last.lsn, False, 1)
    found = case.machine.look()
    assert [(r.kind, r.lsn) for r in found.records(last.lsn - 1)] == [
        (Kind.LOSS, last.lsn),
        (Kind.MARK, last.lsn + 1),
    ]


def test_a_lost_record_tells_whose_it_was(case: Case) -> None:
    record = case.record(3, 3)
    case.flip(3, record.offset + 85)
    found = case.machine.look()
    (lost,) = found.report.damage
    assert (lost.producer, lost.from_seq, lost.through_seq, lost.events) == (PRODUCER, 9, 9, 5)
    assert "payload" in lost.reason
    (loss,) = [r for r in found.records(0) if r.kind == Kind.LOSS]
    assert (loss.lsn, loss.count, loss.producer, loss.seq) == (record.last_lsn, 1, PRODUCER, 9)
    assert msgspec.json.decode(loss.payload, type=Damage) == lost


@pytest.mark.parametrize("number", [1, 2])
def test_rot_in_the_middle_of_a_sealed_segment(case: Case, number: int) -> None:
    records = [case.record(number, index) for index in (2, 3)]
    case.flip(number, records[0].offset + 10)
    case.flip(number, records[1].offset + 500)
    found = case.machine.look()
    assert [facts(each) for each in found.report.damage] == [
        (number, records[0].lsn, records[0].lsn, False, 1),
        (number, records[1].lsn, records[1].lsn, False, 1),
    ]
    assert [r.kind for r in found.records(case.ends[number - 1])][:5] == [1, 1, 7, 7, 1]
    assert len(case.lost()) == 2


def test_zeroed_sectors(case: Case) -> None:
    """Four sectors gone take three records with them, the first of them by name."""
    first = case.record(2, 2)
    start = (first.offset // 512 + 1) * 512
    case.change(2, lambda data: zeroed(data, start, 2048))
    damage = case.machine.look().report.damage
    assert sum(each.events for each in damage) == len(case.lost()) == 3
    assert [each.through_lsn - each.from_lsn + 1 for each in damage] == [1, 2]
    assert not any(each.torn for each in damage)


def test_the_end_of_a_sealed_segment_is_known_from_the_next(case: Case) -> None:
    last = case.record(1, -1)
    before = case.record(1, -2)
    case.change(1, lambda data: zeroed(data, before.offset, len(data) - before.offset))
    (missing,) = case.machine.look().report.damage
    assert facts(missing) == (1, before.lsn, last.lsn, False, 2)
    assert missing.reason == "records that had been durable are not there"


def test_garbage_at_the_end_of_a_sealed_segment(case: Case) -> None:
    last = case.record(1, -1)
    garbage = random.Random(1).randbytes(last.size)
    case.change(1, lambda data: data[: last.offset] + garbage)
    (lost,) = case.machine.look().report.damage
    assert facts(lost) == (1, last.lsn, last.lsn, False, 1)
    assert (lost.start, lost.end) == (last.offset, last.end)


def test_garbage_behind_all_records_loses_nothing(case: Case) -> None:
    case.change(1, lambda data: data + b"garbage!")
    (extra,) = case.machine.look().report.damage
    assert facts(extra) == (1, case.ends[1] + 1, case.ends[1], False, 0)
    assert case.lost() == []
    assert not any(r.kind == Kind.LOSS for r in case.machine.look().records(0))


# Segments that are gone, or from elsewhere.


def test_first_segments_that_were_retired_are_no_damage(case: Case) -> None:
    case.remove(1)
    found = case.machine.look()
    assert (found.report.damage, found.begins_after_lsn) == ([], case.ends[1])
    assert next(r.lsn for r in found.records(0)) == case.ends[1] + 1


def test_a_missing_middle_segment(case: Case) -> None:
    case.remove(2)
    (missing,) = case.machine.look().report.damage
    assert facts(missing) == (
        1, case.ends[1] + 1, case.ends[2], False, case.ends[2] - case.ends[1],
    )  # fmt: skip
    assert missing.reason == "segment 2 is missing"
    assert [r.kind for r in case.machine.look().records(case.ends[1])][:2] == [7, 1]


def test_more_missing_segments() -> None:
    machine = Machine()
    fill(machine.start().journal, 4)
    for number in (2, 3, 4):
        machine.fs.unlink(segment(number))
    (missing,) = machine.look().report.damage
    assert missing.reason == "segments 2 to 4 are missing"


def test_a_missing_last_segment_is_seen_by_what_state_files_prove(case: Case) -> None:
    case.remove(3)
    assert case.machine.look().report.damage == []
    (missing,) = case.machine.look(evidence_lsn=case.last[1][0]).report.damage
    assert facts(missing) == (2, case.ends[2] + 1, case.last[1][0], False, 2)


def test_a_missing_journal_is_seen_by_what_state_files_prove() -> None:
    report = Machine().look(evidence_lsn=50).report
    assert (report.clean, report.proven_lsn, report.end_lsn) == (False, 50, 50)
    assert report.damage[0].reason == "state files tell of a journal, and there is none"


def test_an_old_copy_of_the_last_segment_put_back(case: Case) -> None:
    old = case.machine.file(3)
    more = commit(case.journal, b"e", b"f")
    case.disk.overwrite(segment(3), old)
    (missing,) = case.machine.look(evidence_lsn=more[-1][0]).report.damage
    assert facts(missing) == (3, more[0][0], more[-1][0], False, 2)


def test_an_old_copy_of_a_sealed_segment_put_back(case: Case) -> None:
    old = case.machine.file(3)
    more = fill(case.journal, 1)
    case.disk.overwrite(segment(3), old)
    (missing,) = case.machine.look().report.damage
    assert facts(missing) == (3, more[0][0], more[-2][0], False, len(more) - 1)


def test_a_segment_under_anothers_name(case: Case) -> None:
    case.disk.overwrite(segment(2), case.machine.file(1))
    (damage,) = case.machine.look().report.damage
    assert damage.reason == "it is segment 1 under another's name"
    assert (damage.from_lsn, damage.through_lsn) == (case.ends[1] + 1, case.ends[2])
    assert [r.lsn for r in case.machine.look().records(0)] == sorted(
        r.lsn for r in case.machine.look().records(0)
    )


@pytest.mark.parametrize("later", [1, 2])
def test_numbers_that_were_before_are_not_believed_again(case: Case, later: int) -> None:
    """Somebody put back a last segment that the daemon had gone on without."""
    old = case.machine.file(3)
    case.remove(3)
    opened = case.machine.start(evidence_lsn=case.last[-1][0])
    written = fill(opened.journal, later)
    assert opened.journal.active_number == 2 + later
    ends = [sealed.last_lsn for sealed in opened.journal.sealed()]
    case.disk.overwrite(segment(3), old)
    found = case.machine.look()
    lsns = [r.lsn for r in found.records(0)]
    assert lsns == sorted(set(lsns))
    through = ends[2] if later == 2 else written[-1][0]
    overwritten = {pair for pair in written if ends[1] < pair[0] <= through}
    events = {(r.lsn, r.payload) for r in found.records(0) if r.kind == Kind.BATCH}
    assert set(written) - events == overwritten
    stale = found.report.damage[0]
    assert stale.reason == "its numbers had been before: it is an old copy of a segment"
    assert (stale.segment, stale.numbers) == (3, 0)


def test_a_jump_is_not_counted_as_lost_events(case: Case) -> None:
    """Where an unclean stop left numbers out, the numbers tell nothing of events."""
    case.machine.fs = case.disk = case.disk.after_kill()
    more = commit(case.machine.start().journal, b"after the jump", b"and more")
    assert more[0][0] > LSN_JUMP
    case.flip(3, case.record(3, -2).offset + 30)
    (lost,) = case.machine.look(evidence_lsn=more[-1][0]).report.damage
    assert (lost.through_lsn, lost.events) == (more[0][0], 0)
