from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

import pytest

from tallymark.errors import StorageError
from tallymark.fs import OsFileSystem
from tallymark.record import PAYLOAD_BYTES_MAX, Kind, record_bytes
from tallymarkd.storage.journal import Journal, JournalFull, SealedSegment
from tallymarkd.storage.recovery import open_journal
from tallymarkd.storage.segment import RECORDS_OFFSET, decode_header
from tallymarkd.storage.survey import survey
from tests.faulty_fs import FaultyFs
from tests.journals import (
    CHUNK_BYTES,
    JOURNAL,
    SEGMENT_BYTES,
    SERVER_ID,
    SPARE,
    Machine,
    Opened,
    commit,
    fill,
    segment,
    stop,
)
from tests.journals import settings as journal_settings
from tests.memory_fs import MemoryFs

BIG = bytes(1000)
FILLED_BYTES = record_bytes(1015)  # of one record of ``fill``
NO_ROOM = [errno.ENOSPC, errno.EDQUOT]


@dataclass
class Setup:
    """A journal on a disk that can fail."""

    disk: MemoryFs
    fs: FaultyFs
    machine: Machine
    journal: Journal

    def after_kill(self) -> Machine:
        """The same directory, for the next process."""
        return Machine(self.disk.after_kill(), self.machine.settings)


@pytest.fixture
def made() -> Setup:
    disk = MemoryFs()
    fs = FaultyFs(disk)
    machine = Machine(fs)
    made = Setup(disk, fs, machine, machine.start().journal)
    fs.operations.clear()
    return made


def test_numbers_begin_at_one_and_go_on(made: Setup) -> None:
    journal = made.journal
    assert (journal.next_lsn, journal.durable_lsn) == (1, 0)
    assert journal.append(Kind.BATCH, b"a", count=3) == 1
    assert journal.append(Kind.MARK, b"") == 4
    assert journal.next_lsn == 5


def test_nothing_is_written_before_sync_and_one_sync_serves_all(made: Setup) -> None:
    journal = made.journal
    for _ in range(3):
        journal.append(Kind.BATCH, b"a")
    assert made.fs.kinds() == []
    assert (journal.durable_lsn, journal.buffered_bytes) == (0, 3 * 88)
    assert journal.sync() == 3
    assert made.fs.kinds() == ["write", "sync_data"]
    assert (journal.durable_lsn, journal.buffered_bytes) == (3, 0)


def test_a_sync_with_nothing_to_do_does_nothing(made: Setup) -> None:
    commit(made.journal, b"a")
    made.fs.operations.clear()
    assert made.journal.sync() == 1
    assert made.fs.kinds() == []


def test_every_record_says_what_was_durable_when_it_was_written(made: Setup) -> None:
    commit(made.journal, b"a", b"b")
    commit(made.journal, b"c")
    records = made.after_kill().start().records()
    assert [(r.lsn, r.durable_lsn, r.prev_crc) for r in records] == [
        (1, 0, 0),
        (2, 0, records[0].crc),
        (3, 2, records[1].crc),
    ]


def test_blocks_are_reserved_ahead(made: Setup) -> None:
    assert len(made.disk.content(segment(1))) == RECORDS_OFFSET + CHUNK_BYTES
    for _ in range(3):
        commit(made.journal, BIG)
    assert made.fs.kinds() == ["write", "sync_data"] * 3
    commit(made.journal, BIG)
    assert made.fs.kinds()[6:] == ["allocate", "write", "sync_data"]
    assert len(made.disk.content(segment(1))) == min(
        SEGMENT_BYTES, RECORDS_OFFSET + 2 * CHUNK_BYTES
    )


def test_a_segment_that_is_full_is_rolled(made: Setup) -> None:
    written = fill(made.journal, 1)
    assert made.journal.active_number == 2
    first = len(written) - 1
    assert (
        len(made.disk.content(segment(1))) == RECORDS_OFFSET + first * FILLED_BYTES <= SEGMENT_BYTES
    )
    header, whole = decode_header(made.disk.content(segment(2)))
    assert whole
    assert (header.number, header.first_lsn, header.prev_last_lsn, header.next_lsn) == (
        2,
        first + 1,
        first,
        first + 1,
    )
    (sealed,) = made.journal.sealed()
    assert sealed == SealedSegment(
        1, 1, first, RECORDS_OFFSET + first * FILLED_BYTES, sealed.created_ns
    )
    assert made.journal.size_bytes() == sealed.size_bytes + RECORDS_OFFSET + FILLED_BYTES
    assert made.after_kill().start().events() == written


def test_the_next_segment_gets_its_name_after_this_one_is_durable(made: Setup) -> None:
    made.journal.append(Kind.BATCH, b"not durable yet")
    while made.journal.active_number == 1:
        made.journal.append(Kind.BATCH, BIG)
    assert made.fs.kinds()[-10:] == [
        "write",
        "sync_data",
        "unlink",
        "create",
        "allocate",
        "write",
        "sync",
        "replace",
        "sync_dir",
        "truncate",
    ]


def test_a_record_larger_than_a_segment_gets_one_of_its_own(made: Setup) -> None:
    written = commit(made.journal, b"a")
    written += commit(made.journal, bytes(SEGMENT_BYTES * 2))
    assert made.journal.active_number == 2
    written += commit(made.journal, b"b")
    assert made.journal.active_number == 3
    assert made.after_kill().start().events() == written


def test_what_cannot_be_read_back_is_not_taken(made: Setup) -> None:
    commit(made.journal, b"a")
    for count, payload in ((0, b""), (1, bytes(PAYLOAD_BYTES_MAX + 1))):
        with pytest.raises(ValueError, match="cannot write a record"):
            made.journal.append(Kind.BATCH, payload, count=count)
    written = commit(made.journal, b"b")
    assert made.after_kill().start().events()[1:] == written == [(2, b"b")]


# A full disk.


@pytest.mark.parametrize("code", NO_ROOM)
@pytest.mark.parametrize("written", [0, 700, 2000])
def test_a_full_disk_while_writing(made: Setup, code: int, written: int) -> None:
    kept = commit(made.journal, b"kept")
    made.fs.fail("write", code, written=written)
    lost = [made.journal.append(Kind.BATCH, BIG) for _ in range(3)]
    with pytest.raises(JournalFull, match="cannot write to the journal"):
        made.journal.sync()
    assert (made.journal.durable_lsn, made.journal.buffered_bytes) == (1, 0)
    assert made.after_kill().start().events() == kept
    kept += commit(made.journal, b"smaller")
    assert kept[-1][0] > max(lost)
    assert made.after_kill().start().events() == kept
    assert made.journal.durable_lsn == kept[-1][0]


@pytest.mark.parametrize("code", NO_ROOM)
def test_a_full_disk_while_reserving(made: Setup, code: int) -> None:
    """First the chunk cannot be had, then not even what is needed just now."""
    kept = commit(made.journal, *[BIG] * 3)
    made.fs.fail("allocate", code, times=2)
    made.journal.append(Kind.BATCH, BIG)
    size = len(made.disk.content(segment(1)))
    with pytest.raises(JournalFull):
        made.journal.sync()
    assert len(made.disk.content(segment(1))) == size
    kept += commit(made.journal, b"fits in what was reserved")
    assert made.fs.count("allocate") == 2
    kept += commit(made.journal, BIG)
    assert made.after_kill().start().events() == kept


def test_less_than_a_chunk_is_better_than_nothing(made: Setup) -> None:
    kept = commit(made.journal, *[BIG] * 3)
    made.fs.fail("allocate", errno.ENOSPC)
    kept += commit(made.journal, BIG)
    assert len(made.disk.content(segment(1))) == RECORDS_OFFSET + 4 * 1080
    assert made.after_kill().start().events() == kept


@pytest.mark.parametrize("code", NO_ROOM)
@pytest.mark.parametrize("kind", ["create", "allocate", "write", "sync", "replace"])
def test_a_full_disk_while_rolling(made: Setup, kind: str, code: int) -> None:
    """What came before the roll is durable; the rest is gone, and does not come back."""
    journal = made.journal
    kept = commit(journal, *[BIG] * 7)
    kept.append((journal.append(Kind.BATCH, b"before"), b"before"))
    # Of blocks, two amounts are asked for.
    times = 4 if kind == "allocate" else 2
    made.fs.fail(kind, code, times=times, name="000000000002.tmp")
    for _ in range(2):
        with pytest.raises(JournalFull, match="cannot begin a segment"):
            journal.append(Kind.BATCH, BIG)
        assert (journal.durable_lsn, journal.active_number) == (kept[-1][0], 1)
    assert made.after_kill().start().events() == kept
    kept += commit(journal, b"small ones still fit")
    assert journal.active_number == 1
    kept += commit(journal, BIG)
    assert journal.active_number == 2
    assert made.after_kill().start().events() == kept
    assert made.fs.names(JOURNAL) == [segment(1).name, segment(2).name, SPARE.name]


def test_a_roll_needs_no_more_room_than_what_comes(made: Setup) -> None:
    journal = made.journal
    kept = commit(journal, *[BIG] * 7)
    made.fs.fail("allocate", errno.ENOSPC, name="000000000002.tmp")
    kept += commit(journal, BIG)
    assert journal.active_number == 2
    assert len(made.disk.content(segment(2))) == RECORDS_OFFSET + record_bytes(len(BIG))
    kept += commit(journal, b"and on", BIG)
    assert made.after_kill().start().events() == kept


def test_for_a_record_larger_than_a_chunk_nothing_less_is_tried(made: Setup) -> None:
    journal = made.journal
    kept = commit(journal, *[BIG] * 6)
    made.fs.fail("allocate", errno.ENOSPC, name="000000000002.tmp")
    with pytest.raises(JournalFull):
        journal.append(Kind.BATCH, bytes(5000))
    assert made.fs.count("truncate") == 0
    kept += commit(journal, b"it fits")
    assert made.after_kill().start().events() == kept


def test_what_was_given_up_cannot_come_back_behind_a_roll(made: Setup) -> None:
    """The cut is durable before the next segment has its name: else a power cut
    could bring back what a client has sent again into the next segment."""
    journal = made.journal
    kept = commit(journal, *[BIG] * 6)
    made.fs.fail("write", errno.ENOSPC, done=True)
    journal.append(Kind.BATCH, b"given up")
    with pytest.raises(JournalFull):
        journal.sync()
    made.fs.operations.clear()
    kept += commit(journal, bytes(3000))
    kinds = made.fs.kinds()
    assert journal.active_number == 2
    assert kinds.index("sync_data") < kinds.index("create")
    assert made.after_kill().start().events() == kept


# A failing disk.


@pytest.mark.parametrize(
    ("kind", "code"),
    [("sync_data", errno.EIO), ("sync_data", errno.ENOSPC), ("write", errno.EIO)],
)
def test_a_failed_sync_is_not_tried_again(made: Setup, kind: str, code: int) -> None:
    commit(made.journal, b"a")
    made.fs.fail(kind, code)
    made.journal.append(Kind.BATCH, b"b")
    with pytest.raises(OSError) as caught:
        made.journal.sync()
    assert caught.value.errno == code
    assert made.journal.durable_lsn == 1
    made.fs.operations.clear()
    with pytest.raises(OSError, match="cannot go on with the journal, which failed"):
        made.journal.sync()
    assert made.fs.kinds() == []


def test_a_sync_that_fails_in_a_roll(made: Setup) -> None:
    made.fs.fail("sync_data")
    with pytest.raises(OSError, match="Input/output error"):
        fill(made.journal, 1)
    with pytest.raises(OSError, match="cannot go on"):
        made.journal.sync()
    assert made.fs.names(JOURNAL) == [segment(1).name, SPARE.name]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_once_the_next_segment_has_its_name_there_is_no_way_back(made: Setup, code: int) -> None:
    """The name may be on disk: then this segment must not grow any more."""
    made.fs.fail("sync_dir", code)
    with pytest.raises(OSError, match="cannot make the name .*000000000002.seg durable") as caught:
        fill(made.journal, 1)
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError, match="cannot go on"):
        made.journal.sync()
    assert [lsn for lsn, _ in made.after_kill().start().events()] == list(range(1, 8))


def test_giving_back_blocks_of_a_full_segment_may_fail(made: Setup) -> None:
    made.fs.fail("truncate")
    written = fill(made.journal, 2)
    assert len(made.disk.content(segment(1))) == SEGMENT_BYTES
    assert made.after_kill().start().events() == written


# Retirement.


def test_segments_are_retired_oldest_first(made: Setup) -> None:
    written = fill(made.journal, 3)
    for wrong in (0, 2, 4):
        with pytest.raises(StorageError, match=f"cannot retire segment {wrong}: it is not the ol"):
            made.journal.retire(wrong)
    last = made.journal.sealed()[0].last_lsn
    made.fs.operations.clear()
    made.journal.retire(1)
    assert made.fs.kinds() == ["unlink", "sync_dir"]
    assert [sealed.number for sealed in made.journal.sealed()] == [2, 3]
    opened = made.after_kill().start()
    assert opened.events() == [pair for pair in written if pair[0] > last]
    assert opened.damage == []
    assert opened.found.begins_after_lsn == last


def test_a_retirement_that_fails_can_be_tried_again(made: Setup) -> None:
    fill(made.journal, 2)
    made.fs.fail("sync_dir")
    with pytest.raises(OSError, match="Input/output"):
        made.journal.retire(1)
    assert [sealed.number for sealed in made.journal.sealed()] == [1, 2]
    made.journal.retire(1)
    made.journal.retire(2)
    with pytest.raises(StorageError):
        made.journal.retire(3)
    assert made.fs.names(JOURNAL) == [segment(3).name, SPARE.name]


def test_close_leaves_what_was_not_synced(made: Setup) -> None:
    commit(made.journal, b"a")
    made.journal.append(Kind.BATCH, b"b")
    made.journal.close()
    assert made.after_kill().start().events() == [(1, b"a")]


def test_on_a_real_disk(tmp_path: Path) -> None:
    fs, settings = OsFileSystem(), journal_settings()

    def opened() -> Opened:
        found = survey(fs, tmp_path / "journal")
        journal = open_journal(
            fs, tmp_path / "journal", found, settings,
            server_id=SERVER_ID, quarantine=tmp_path / "quarantine",
        )  # fmt: skip
        return Opened(journal, found)

    first = opened()
    written = fill(first.journal, 2)
    first.journal.close()
    second = opened()
    assert second.events() == written
    assert not second.found.report.clean
    written += commit(second.journal, b"b")
    stop(second.journal)
    third = opened()
    assert third.events() == written
    assert third.found.report.clean
    third.journal.close()
    assert (tmp_path / "journal" / "spare").stat().st_size == SEGMENT_BYTES
