"""Recovery on a full disk, and what an earlier one left lying about."""

from __future__ import annotations

import errno
import logging

import pytest

from tallymarkd.storage.journal import JournalFull
from tests.faulty_fs import FaultyFs, Killed
from tests.journals import (
    JOURNAL,
    SEGMENT_BYTES,
    SPARE,
    Machine,
    commit,
    segment,
    stop,
)
from tests.memory_fs import MemoryFs
from tests.stopped_journals import Case, two_segments


@pytest.fixture
def case() -> Case:
    return two_segments()


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
