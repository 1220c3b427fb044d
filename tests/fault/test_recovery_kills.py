"""Recovery killed at every operation on the disk, and the next one as well."""

from __future__ import annotations

import itertools
import random

import pytest

from tallymark.record import Kind
from tallymarkd.storage.segment import RECORDS_OFFSET
from tests.faulty_fs import FaultyFs, Killed
from tests.journals import (
    JOURNAL,
    QUARANTINE,
    SPARE,
    Machine,
    commit,
    flipped,
    stop,
)
from tests.memory_fs import MemoryFs
from tests.stopped_journals import Case, two_segments


@pytest.fixture
def case() -> Case:
    return two_segments()


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
