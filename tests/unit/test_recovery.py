from __future__ import annotations

import errno
import itertools
import logging
import random
import re
from dataclasses import dataclass

import msgspec
import pytest

from tallymark.record import Kind, append_record
from tallymarkd.storage.journal import Journal, JournalFull
from tallymarkd.storage.segment import RECORDS_OFFSET, decode_header
from tallymarkd.storage.survey import LSN_JUMP, Damage
from tests.faulty_fs import FaultyFs, Killed
from tests.journals import (
    JOURNAL,
    QUARANTINE,
    SEGMENT_BYTES,
    SERVER_ID,
    SPARE,
    Machine,
    Opened,
    commit,
    fill,
    flipped,
    segment,
    stop,
    zeroed,
)
from tests.memory_fs import MemoryFs


@dataclass
class Case:
    """Two segments with what was committed, and the disk they are on."""

    disk: MemoryFs
    machine: Machine
    journal: Journal
    written: list[tuple[int, bytes]]

    def die(self) -> None:
        """The daemon is gone; what it had written is there."""
        self.disk = self.machine.fs = self.disk.after_kill()

    def start(self, *, evidence_lsn: int = 0) -> Opened:
        opened = self.machine.start(evidence_lsn=evidence_lsn)
        self.journal = opened.journal
        return opened

    @property
    def last(self) -> int:
        return self.written[-1][0]

    def change(self, number: int, data: bytes) -> None:
        self.disk.overwrite(segment(number), data)

    def tear(self) -> None:
        """A commit of two records of which half came to the disk."""
        before = len(self.machine.file(2).rstrip(b"\0"))
        self.journal.append(Kind.BATCH, b"torn" * 100)
        self.journal.append(Kind.BATCH, b"torn too" * 100)
        self.journal.sync()
        data = self.machine.file(2)
        self.change(2, zeroed(data, before + 300, len(data) - before - 300))


@pytest.fixture
def case() -> Case:
    disk = MemoryFs()
    machine = Machine(disk)
    journal = machine.start().journal
    written = fill(journal, 1)
    written += commit(journal, b"a" * 90, b"b" * 90)
    written += commit(journal, b"c" * 90)
    return Case(disk, machine, journal, written)


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
    kept = case.disk.after_power_cut(random.Random(1)).content(QUARANTINE / name)
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
    left = case.disk.after_power_cut(random.Random(1))
    assert left.content(QUARANTINE / name) == damaged
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
        data, salt=active.header.salt, offset=active.end, kind=99, lsn=case.last + 1, count=1,
        durable_lsn=case.last, prev_crc=active.prev_crc, payload=b"new",
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


# The spare, and what else lies about.


def test_the_spare_is_as_large_as_a_segment_and_is_used_for_the_copy(case: Case) -> None:
    assert len(case.disk.content(SPARE)) == SEGMENT_BYTES
    case.die()
    fs = case.machine.fs = FaultyFs(case.disk)
    opened = case.start()
    moved = [(each.path.name, each.target) for each in fs.operations if each.kind == "replace"]
    assert moved[0] == (SPARE.name, segment(2).with_suffix(".tmp"))
    assert moved[1] == (segment(2).with_suffix(".tmp").name, segment(2))
    assert opened.events() == case.written
    assert len(case.disk.content(SPARE)) == SEGMENT_BYTES


def test_on_a_full_disk_the_spare_is_enough(case: Case) -> None:
    case.die()
    fs = case.machine.fs = FaultyFs(case.disk)
    fs.fail("create", errno.ENOSPC, times=99)
    fs.fail("allocate", errno.ENOSPC, times=99)
    opened = case.start()
    assert opened.events() == case.written
    with pytest.raises(JournalFull):
        commit(opened.journal, b"no room")
    fs.heal()
    case.written += commit(opened.journal, b"room again")
    # The next start makes the spare that this one could not.
    case.die()
    assert case.start().events() == case.written
    assert len(case.disk.content(SPARE)) == SEGMENT_BYTES


def test_what_a_start_left_of_the_spare_is_used_by_the_next(case: Case) -> None:
    """The disk is full, and the first start dies after it took the spare."""
    case.die()
    fs = case.machine.fs = FaultyFs(case.disk)
    fs.kill(0, kind="write")
    with pytest.raises(Killed):
        case.start()
    assert not case.disk.exists(SPARE)
    case.die()
    fs = case.machine.fs = FaultyFs(case.disk)
    fs.fail("create", errno.ENOSPC, times=99)
    assert case.start().events() == case.written


def test_half_a_spare_is_completed(case: Case) -> None:
    case.disk.overwrite(SPARE, bytes(100))
    stop(case.journal)
    case.die()
    case.start()
    assert len(case.disk.content(SPARE)) == SEGMENT_BYTES


def test_without_room_for_a_spare_it_goes_without_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = MemoryFs()
    fs = FaultyFs(disk)
    fs.fail("allocate", errno.ENOSPC, skip=1)
    with caplog.at_level(logging.WARNING):
        journal = Machine(fs).start().journal
    assert f"cannot hold back {SEGMENT_BYTES} bytes" in caplog.text
    assert not disk.exists(SPARE)
    commit(journal, b"a")


def test_temporary_files_are_removed(case: Case) -> None:
    for name in ("000000000003.tmp", "000000000001.tmp"):
        case.disk.create(JOURNAL / name)
    stop(case.journal)
    case.die()
    case.start()
    assert case.disk.names(JOURNAL) == [segment(1).name, segment(2).name, SPARE.name]


def test_a_copy_that_fails_leaves_the_segment(case: Case) -> None:
    case.die()
    before = case.machine.file(2)
    fs = case.machine.fs = FaultyFs(case.disk)
    fs.fail("sync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        case.start()
    assert case.disk.content(segment(2)) == before
    case.die()
    assert case.start().events() == case.written


# Killed, again and again.


def states(case: Case, kind: str) -> None:
    """Bring the journal into a state that recovery has work with."""
    if kind == "torn":
        case.tear()
    elif kind == "corrupt":
        case.change(2, flipped(case.machine.file(2), RECORDS_OFFSET + 85))
        case.written = [pair for pair in case.written if pair[0] != case.last - 3]
    elif kind == "clean":
        stop(case.journal)
    elif kind == "no headers":
        case.change(2, flipped(flipped(case.machine.file(2), 20), 4096 + 20))


@pytest.mark.parametrize("cut", [False, True], ids=["kill", "power cut"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["unclean", "torn", "corrupt", "clean", "no headers", "new"])
def test_recovery_can_be_killed_at_every_step(case: Case, kind: str, done: bool, cut: bool) -> None:
    """Killed at each operation, and the next recovery killed at each of its own too;
    the third finds what the first would have found."""
    if kind == "new":
        case.disk, case.written = MemoryFs(), []
    states(case, kind)
    losses = 1 if kind == "corrupt" else 0
    kills = 0
    for first in itertools.count():
        disk = killed_at(case, case.disk.after_kill(), first, done, cut)
        if disk is None:
            break
        kills += 1
        # The second kill falls at a place that differs with the first.
        again = killed_at(case, disk, first * 7 % 11, done, cut)
        machine = Machine(disk if again is None else again, case.machine.settings)
        opened = machine.start()
        assert opened.events() == case.written
        assert [r.kind for r in opened.records()].count(Kind.LOSS) == losses
        more = commit(opened.journal, b"goes on")
        assert isinstance(machine.fs, MemoryFs)
        machine.fs = machine.fs.after_power_cut(random.Random(first))
        last = machine.start()
        assert last.events() == case.written + more
        assert (len(last.losses()), last.damage) == (losses, [])
        assert machine.fs.names(JOURNAL)[-1] == SPARE.name
        assert not any(name.endswith(".tmp") for name in machine.fs.names(JOURNAL))
    assert kills >= {"clean": 2, "new": 6}.get(kind, 8)


def killed_at(case: Case, disk: MemoryFs, step: int, done: bool, cut: bool) -> MemoryFs | None:
    """The disk after a recovery that died at a step; None when it had fewer."""
    fs = FaultyFs(disk)
    fs.kill(step, done=done)
    try:
        Machine(fs, case.machine.settings).start()
    except Killed:
        return disk.after_power_cut(random.Random(step)) if cut else disk.after_kill()
    return None


def test_what_was_quarantined_is_there_once_however_often_it_was_tried(case: Case) -> None:
    case.tear()
    data = case.machine.file(2)
    case.change(2, flipped(data, RECORDS_OFFSET + 85))
    for step in range(12):
        disk = killed_at(case, case.disk, step, True, False)
        if disk is not None:
            case.disk = disk
    opened = Machine(case.disk, case.machine.settings).start()
    names = case.disk.names(QUARANTINE)
    assert len(names) == 2
    assert [name.split(".")[-1].split("-")[0] for name in names] == ["corrupt", "torn"]
    assert opened.events()[-2:] == case.written[-2:]
