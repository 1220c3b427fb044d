from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from tallymark.errors import NewerFormatError, StorageError
from tallymark.record import Kind
from tallymarkd.storage.segment import RECORDS_OFFSET, decode_header, encode_header
from tallymarkd.storage.survey import refuse_newer, survey
from tests.damaged_journals import Case, facts
from tests.faulty_fs import FaultyFs
from tests.journals import (
    JOURNAL,
    SERVER_ID,
    segment,
    zeroed,
)
from tests.memory_fs import MemoryFs


@pytest.fixture
def case() -> Case:
    return Case()


# Headers.


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("at", [20, 4096 + 20])
def test_one_header_is_enough_and_its_loss_is_told(case: Case, number: int, at: int) -> None:
    case.flip(number, at)
    (damage,) = case.machine.look().report.damage
    assert (damage.segment, damage.events, damage.numbers, damage.torn) == (number, 0, 0, False)
    assert damage.reason == "one copy of the segment header does not verify"
    assert case.lost() == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_without_a_header_the_first_record_still_tells_the_salt(case: Case, number: int) -> None:
    case.break_headers(number)
    found = case.machine.look()
    (damage,) = found.report.damage
    assert (damage.segment, damage.numbers) == (number, 0)
    assert damage.reason == "neither copy of the segment header verifies"
    assert case.lost() == []
    assert found.server_id == SERVER_ID
    assert found.segments[number - 1].guessed


def test_the_end_before_a_headless_segment_is_still_known(case: Case) -> None:
    last = case.record(1, -1)
    case.break_headers(2)
    case.change(1, lambda data: data[: last.offset])
    assert facts(case.machine.look().report.damage[0]) == (1, last.lsn, last.lsn, False, 1)


@pytest.mark.parametrize("number", [1, 2])
def test_a_sealed_segment_of_which_nothing_can_be_read(case: Case, number: int) -> None:
    case.change(number, lambda data: zeroed(data, 0, RECORDS_OFFSET + 8))
    (damage,) = case.machine.look().report.damage
    numbers = case.ends[number] - case.ends[number - 1]
    assert facts(damage) == (
        number, case.ends[number - 1] + 1, case.ends[number], False, numbers,
    )  # fmt: skip
    assert len(case.lost()) == numbers


def test_a_last_segment_of_which_nothing_can_be_read(case: Case) -> None:
    case.change(3, lambda data: zeroed(data, 0, RECORDS_OFFSET + 8))
    first, last = case.last[0][0], case.last[-1][0]
    (damage,) = case.machine.look(evidence_lsn=last).report.damage
    assert facts(damage) == (3, first, last, False, last - first + 1)
    # Nothing proves how much it held: that is told as well, and counts as unknown.
    found = case.machine.look()
    assert [facts(each) for each in found.report.damage] == [(3, first, first, False, 0)]
    assert [r.kind for r in found.records(first - 1)] == [Kind.LOSS]
    assert found.report.highest_lsn >= last


def test_two_unreadable_segments_are_one_loss(case: Case) -> None:
    for number in (1, 2):
        case.change(number, lambda data: b"")
    found = case.machine.look()
    assert [facts(each) for each in found.report.damage] == [
        (1, 1, 0, False, 0),
        (2, 1, case.ends[2], False, case.ends[2]),
    ]
    assert [r.lsn for r in found.records(0)] == [case.ends[2], *(lsn for lsn, _ in case.last)]


def test_what_was_retired_is_not_counted_as_lost(case: Case) -> None:
    """The oldest segment is unreadable, and nothing tells where it had begun."""
    case.journal.retire(1)
    case.change(2, lambda data: b"")
    (damage,) = case.machine.look().report.damage
    assert (damage.through_lsn, damage.events) == (case.ends[2], 0)


# What cannot be read.


class BadSector(MemoryFs):
    """A disk with one sector that cannot be read."""

    def __init__(self, disk: MemoryFs, number: int, offset: int) -> None:
        super().__init__()
        self.directories = disk.directories
        self._bad = number, offset

    def read(self, fd: int, count: int, offset: int) -> bytes:
        number, bad = self._bad
        if self._open[fd] is self.file_at(segment(number)) and offset <= bad < offset + count:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(fd, count, offset)


def test_sectors_that_cannot_be_read_are_damage(case: Case) -> None:
    case.machine.fs = BadSector(case.disk, 2, 12_288)
    damage = case.machine.look().report.damage
    assert sum(each.events for each in damage) == len(case.lost()) > 0
    assert {each.segment for each in damage} == {2}


def test_an_unreadable_tail_is_not_taken_for_free_blocks(case: Case) -> None:
    first = case.record(3, 0)
    case.machine.fs = BadSector(case.disk, 3, first.offset)
    (torn,) = case.machine.look().report.damage
    assert (torn.torn, torn.start, torn.end) == (True, first.offset, first.offset + 4096)
    case.machine.fs = BadSector(case.disk, 3, 0)
    assert case.machine.look().report.damage[0].reason.startswith("one copy")


@pytest.mark.parametrize("kind", ["open_read", "read", "size"])
def test_what_is_no_damage_stops_the_survey(case: Case, kind: str) -> None:
    fs = FaultyFs(case.disk)
    fs.fail(kind, errno.EACCES, name=segment(2).name)
    with pytest.raises(StorageError, match="cannot read segment .*000000000002.seg.*Permission"):
        survey(fs, JOURNAL)


def test_a_newer_format_is_refused_before_anything_else(case: Case) -> None:
    header, _ = decode_header(case.machine.file(2))
    newer = encode_header(replace(header, format=3, oldest_reader=2))
    case.change(2, lambda data: newer + data[RECORDS_OFFSET:])
    case.break_headers(1)
    before = case.disk.contents()
    for refuse in (lambda: refuse_newer(case.disk, JOURNAL), lambda: survey(case.disk, JOURNAL)):
        with pytest.raises(
            NewerFormatError, match=r"cannot open segment 2 \(.*\): .* format 3 and"
        ):
            refuse()
    with pytest.raises(NewerFormatError):
        case.machine.start()
    assert case.disk.contents() == before


def test_what_cannot_be_read_is_not_newer(case: Case) -> None:
    fs = FaultyFs(case.disk)
    fs.fail("open_read", errno.EIO, name=segment(1).name)
    case.break_headers(2)
    refuse_newer(fs, JOURNAL)
