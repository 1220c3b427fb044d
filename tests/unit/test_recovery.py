from __future__ import annotations

import errno
import logging
import random
import re

import msgspec
import pytest

from tallymark.record import Kind, append_record
from tallymarkd.storage.segment import RECORDS_OFFSET, decode_header
from tallymarkd.storage.survey import LSN_JUMP, Damage
from tests.faulty_fs import FaultyFs
from tests.journals import (
    JOURNAL,
    QUARANTINE,
    SERVER_ID,
    SPARE,
    Machine,
    commit,
    fill,
    flipped,
    segment,
    stop,
)
from tests.memory_fs import MemoryFs
from tests.stopped_journals import Case, two_segments


@pytest.fixture
def case() -> Case:
    return two_segments()


def quarantined(case: Case, name: str) -> bytes:
    """What a power cut leaves of a file in quarantine: all of it, whatever happens."""
    left = {
        case.disk.after_power_cut(random.Random(seed)).content(QUARANTINE / name)
        for seed in range(20)
    }
    assert len(left) == 1
    return left.pop()


def salt(machine: Machine, number: int) -> bytes:
    return decode_header(machine.file(number))[0].salt


def test_a_new_directory() -> None:
    fs = FaultyFs(MemoryFs())
    machine = Machine(fs)
    opened = machine.start()
    changes = [(each.kind, each.path) for each in fs.operations if each.changes]
    assert changes[:2] == [("mkdir", JOURNAL), ("sync_dir", JOURNAL.parent)]
    assert machine.fs.names(JOURNAL) == [segment(1).name, SPARE.name]
    header, whole = decode_header(machine.file(1))
    assert whole
    assert (header.server_id, header.number, header.first_lsn, header.prev_last_lsn) == (
        SERVER_ID,
        1,
        1,
        0,
    )
    assert (opened.journal.next_lsn, opened.journal.durable_lsn, opened.records()) == (1, 0, [])
    assert not machine.fs.exists(QUARANTINE)


def test_after_a_clean_stop_the_file_goes_on_as_it_is(case: Case) -> None:
    stop(case.journal)
    before = salt(case.machine, 2)
    case.die()
    opened = case.start()
    assert opened.found.report.clean
    assert opened.journal.next_lsn == case.last + 2
    assert opened.journal.durable_lsn == case.last + 1
    case.written += commit(opened.journal, b"more")
    assert salt(case.machine, 2) == before
    case.die()
    assert case.start().events() == case.written


def test_the_stop_record_is_durable_before_it_is_built_upon(case: Case) -> None:
    """It may have been seen in memory only; then a power cut must not take it."""
    stop(case.journal)
    case.die()
    fs = case.machine.fs = FaultyFs(case.disk)
    case.start()
    fs.fail("sync_data")
    case.journal.append(Kind.STOP, b"")
    with pytest.raises(OSError, match="Input/output"):
        case.journal.sync()
    case.disk.lose_pages(segment(2))
    case.die()
    opened = case.start()
    assert opened.found.report.clean
    for seed in range(50):
        left = Machine(case.disk.after_power_cut(random.Random(seed)), case.machine.settings)
        report = left.look().report
        assert (report.clean, report.damage) == (True, [])
        assert report.end_lsn == opened.journal.durable_lsn == case.last + 2


def test_a_stop_that_outran_its_commit_is_not_clean(case: Case) -> None:
    """The record says that what came before it was not durable yet."""
    case.journal.append(Kind.BATCH, b"not durable before the stop")
    case.journal.append(Kind.STOP, b"")
    case.journal.sync()
    assert not case.machine.look().report.clean


def test_after_an_unclean_stop_the_last_segment_is_written_anew(case: Case) -> None:
    before = [salt(case.machine, number) for number in (1, 2)]
    case.die()
    opened = case.start()
    assert not opened.found.report.clean
    after = [salt(case.machine, number) for number in (1, 2)]
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)
    assert opened.events() == case.written
    header, _ = decode_header(case.machine.file(2))
    assert (header.first_lsn, header.prev_last_lsn) == (case.last - 3, case.last - 4)
    # What was not durable when the daemon died is durable now.
    left = Machine(case.disk.after_power_cut(random.Random(1)), case.machine.settings)
    assert left.start().events() == case.written


def test_numbers_go_on_above_all_that_may_have_been_given(case: Case) -> None:
    case.die()
    opened = case.start()
    assert opened.journal.durable_lsn == case.last
    assert opened.journal.next_lsn == case.last + 1 + LSN_JUMP
    first = commit(opened.journal, b"d")[0][0]
    (record,) = [r for r in case.machine.look().records(case.last) if r.lsn == first]
    assert record.durable_lsn == case.last


def test_numbers_without_a_trace_are_not_given_again(case: Case) -> None:
    """Two unclean stops; what the daemon gave in between never came to the disk."""
    seen = {lsn for lsn, _ in case.written}
    for _ in range(4):
        case.die()
        opened = case.start()
        given = {opened.journal.append(Kind.BATCH, b"only in memory") for _ in range(3)}
        assert not given & seen
        seen |= given


def test_numbers_of_torn_records_are_not_given_again(case: Case) -> None:
    case.tear()
    torn = case.journal.next_lsn
    case.die()
    assert case.start().journal.next_lsn > torn + LSN_JUMP - 2


def test_after_a_clean_stop_no_numbers_are_left_out(case: Case) -> None:
    case.die()
    first = case.start().journal
    stop(first)
    case.die()
    second = case.start().journal
    assert second.next_lsn == first.next_lsn == case.last + LSN_JUMP + 2


@pytest.mark.parametrize("clean", [True, False])
def test_numbers_can_be_made_to_go_on_higher_up(case: Case, clean: bool) -> None:
    if clean:
        stop(case.journal)
    case.die()
    far = 2**50
    assert case.machine.start(next_lsn_min=far).journal.next_lsn == far
    assert case.machine.start(next_lsn_min=1).journal.next_lsn > case.last


def test_torn_bytes_are_cut_and_kept(case: Case) -> None:
    before = len(case.machine.file(2).rstrip(b"\0"))
    case.tear()
    whole = case.machine.file(2)
    case.die()
    opened = case.start()
    (torn,) = opened.damage
    assert torn.torn
    assert opened.events() == case.written
    (name,) = opened.found.report.quarantined
    kept = quarantined(case, name)
    assert kept == whole[torn.start :].rstrip(b"\0")
    assert kept.startswith(salt_of(whole))
    assert before <= torn.start < before + 8
    case.die()
    assert case.start().damage == []


def salt_of(data: bytes) -> bytes:
    return decode_header(data)[0].salt


def test_a_full_disk_for_torn_bytes_does_not_stop_the_start(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.tear()
    case.die()
    fs = case.machine.fs = FaultyFs(case.disk)
    fs.fail("create", errno.ENOSPC, times=9)
    with caplog.at_level(logging.WARNING):
        opened = case.start()
    assert opened.events() == case.written
    assert re.search(
        r"cannot keep the \d+ torn bytes at the end of .*000000000002.seg", caplog.text
    )
    assert opened.found.report.quarantined == []


def test_a_damaged_last_segment_is_kept_whole(case: Case) -> None:
    data = case.machine.file(2)
    damaged = flipped(data, RECORDS_OFFSET + 85)
    case.change(2, damaged)
    case.die()
    opened = case.start()
    (name,) = opened.found.report.quarantined
    assert quarantined(case, name) == damaged
    assert case.machine.file(2) != damaged
    assert not opened.damage[0].torn


def test_a_damaged_file_that_cannot_be_kept_is_not_replaced(case: Case) -> None:
    damaged = flipped(case.machine.file(2), RECORDS_OFFSET + 85)
    case.change(2, damaged)
    fs = case.machine.fs = FaultyFs(case.disk)
    fs.fail("link", errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        case.start()
    assert case.disk.content(segment(2)) == damaged


def test_a_damaged_sealed_segment_is_left_as_it_is(case: Case) -> None:
    damaged = flipped(case.machine.file(1), RECORDS_OFFSET + 85)
    case.change(1, damaged)
    for _ in range(3):
        case.die()
        opened = case.start()
        assert [each.from_lsn for each in opened.damage] == [1]
        assert [loss.lsn for loss in opened.losses()] == [1]
        assert case.disk.content(segment(1)) == damaged


def test_damage_in_a_sealed_segment_leaves_a_clean_stop_clean(case: Case) -> None:
    case.change(1, flipped(case.machine.file(1), RECORDS_OFFSET + 85))
    stop(case.journal)
    before = salt(case.machine, 2)
    case.die()
    opened = case.start()
    assert opened.found.report.clean
    assert len(opened.damage) == 1
    assert salt(case.machine, 2) == before


@pytest.mark.parametrize("header_too", [False, True])
def test_a_loss_is_written_down_and_counted_once(case: Case, header_too: bool) -> None:
    data = flipped(case.machine.file(2), RECORDS_OFFSET + 85)
    case.change(2, flipped(data, RECORDS_OFFSET + 30) if header_too else data)
    case.die()
    first = case.start()
    (loss,) = first.losses()
    told = msgspec.json.decode(loss.payload, type=Damage)
    assert (told, told.events) == (first.damage[0], 1)
    assert loss.lsn == case.last - 3
    for _ in range(3):
        case.die()
        again = case.start()
        assert again.damage == []
        assert [(r.lsn, r.count, r.payload) for r in again.losses()] == [
            (loss.lsn, 1, loss.payload)
        ]
        assert again.events() == [pair for pair in case.written if pair[0] != loss.lsn]


def test_what_state_files_prove_is_lost_once(case: Case) -> None:
    data = case.machine.file(2)
    stop(case.journal)
    case.change(2, data[: RECORDS_OFFSET + 40])
    case.die()
    first = case.start(evidence_lsn=case.last)
    assert first.journal.durable_lsn == case.last
    assert [loss.lsn for loss in first.losses()] == [case.last]
    case.die()
    again = case.start(evidence_lsn=case.last)
    assert (again.damage, len(again.losses())) == ([], 1)


def test_both_headers_of_the_last_segment(case: Case) -> None:
    before = case.machine.file(2)
    case.change(2, flipped(flipped(before, 20), 4096 + 20))
    case.die()
    opened = case.start()
    assert opened.events() == case.written
    header, whole = decode_header(case.machine.file(2))
    assert (header.server_id, header.first_lsn, header.prev_last_lsn, whole) == (
        SERVER_ID,
        case.last - 3,
        case.last - 4,
        True,
    )
    assert len(opened.found.report.quarantined) == 1
    case.die()
    assert case.start().damage == []


def test_one_header_of_the_last_segment_is_healed(case: Case) -> None:
    stop(case.journal)
    case.change(2, flipped(case.machine.file(2), 20))
    case.die()
    assert len(case.start().damage) == 1
    assert decode_header(case.machine.file(2)).whole
    case.die()
    opened = case.start()
    assert (opened.damage, opened.events()) == ([], case.written)


def test_nothing_at_all_is_left_of_the_last_segment(case: Case) -> None:
    case.change(2, b"")
    case.die()
    opened = case.start()
    assert opened.events() == case.written[:-4]
    (loss,) = opened.losses()
    assert loss.lsn == opened.journal.durable_lsn == case.last - 3
    case.written = [*case.written[:-4], *commit(opened.journal, b"goes on")]
    case.die()
    again = case.start()
    assert (again.events(), again.damage, len(again.losses())) == (case.written, [], 1)


def test_a_lost_journal_begins_above_what_state_files_prove() -> None:
    machine = Machine()
    opened = machine.start(evidence_lsn=70)
    assert opened.journal.next_lsn == 71 + LSN_JUMP
    assert opened.journal.durable_lsn == 70
    written = commit(opened.journal, b"a")
    again = machine.start(evidence_lsn=70)
    assert (again.damage, again.events()) == ([], written)


def test_records_of_kinds_to_come_are_carried_along(case: Case) -> None:
    """A newer daemon, of a compatible format, has written a kind that is not known."""
    active = case.journal._active
    data = bytearray()
    append_record(
        data.extend, salt=active.header.salt, offset=active.end, kind=99, lsn=case.last + 1,
        count=1, durable_lsn=case.last, prev_crc=active.prev_crc, payload=b"new",
    )  # fmt: skip
    old = case.machine.file(2)
    case.change(2, old[: active.end] + bytes(data) + old[active.end + len(data) :])
    for _ in range(2):
        case.die()
        opened = case.start()
        assert [(r.kind, r.payload) for r in opened.records(case.last)] == [(99, b"new")]
        assert opened.damage == []


def test_sealed_segments_keep_what_retirement_needs(case: Case) -> None:
    case.written += fill(case.journal, 2)
    expected = case.journal.sealed()
    case.die()
    assert case.start().journal.sealed() == expected
    # Without its header a segment is as old as the next: else it would be the oldest of all.
    case.change(2, flipped(flipped(case.machine.file(2), 20), 4096 + 20))
    case.die()
    found = case.start().journal.sealed()
    assert [each.last_lsn for each in found] == [each.last_lsn for each in expected]
    assert [each.created_ns for each in found] == [
        expected[0].created_ns,
        expected[2].created_ns,
        expected[2].created_ns,
    ]
