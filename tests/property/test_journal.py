"""Whatever happens to a journal: what was synced is there once, in order, and rot is told."""

from __future__ import annotations

import random

import hypothesis.strategies as st
from hypothesis import given

from tallymark.record import Kind
from tallymarkd.storage.survey import Damage
from tests.faulty_fs import FaultyFs, Killed
from tests.journals import (
    Machine,
    Opened,
    commit,
    fill,
    flipped,
    segment,
    stop,
    zeroed,
)
from tests.journals import settings as journal_settings
from tests.memory_fs import MemoryFs

SIZES = st.sampled_from([0, 7, 400, 1500, 5000])
SEEDS = st.integers(0, 2**32)
SMALL = {"segment_bytes": 12 * 1024, "chunk_bytes": 2 * 1024}

STEPS = st.one_of(
    st.tuples(st.just("append"), SIZES, st.integers(1, 3)),
    st.tuples(st.just("sync")),
    st.tuples(st.just("stop")),
    st.tuples(st.just("crash"), st.booleans(), SEEDS),
    st.tuples(
        st.just("crash in sync"), st.integers(0, 8), st.integers(0, 3000), st.booleans(), SEEDS
    ),
    st.tuples(st.just("crash in recovery"), st.integers(0, 25), st.booleans(), SEEDS),
)
Step = tuple[object, ...]


class Model:
    """What the journal must hold, beside the journal."""

    def __init__(self) -> None:
        self.disk = MemoryFs()
        self.machine = Machine(settings=journal_settings(**SMALL))
        self.durable: list[tuple[int, bytes]] = []
        self.unsure: list[tuple[int, bytes]] = []
        self.given: set[int] = set()
        self.written = 0
        self.start()

    def start(self, kill_after: int | None = None, cut: bool = False, seed: int = 0) -> None:
        """Recover, dying on the way if asked to, and hold the outcome against the model."""
        self.fs = FaultyFs(self.disk)
        self.machine.fs = self.fs
        if kill_after is not None:
            self.fs.kill(kill_after)
        try:
            opened = self.machine.start()
        except Killed:
            self.find_disk(cut, seed)
            self.start()
            return
        self.fs.heal()
        self.hold(opened)
        self.journal = opened.journal

    def hold(self, opened: Opened) -> None:
        found = opened.events()
        assert found[: len(self.durable)] == self.durable
        rest = found[len(self.durable) :]
        assert rest == [pair for pair in self.unsure if pair in rest]
        assert all(damage.torn for damage in opened.damage), opened.damage
        assert not opened.losses()
        self.durable, self.unsure = found, []
        if opened.found.report.clean:
            # Whatever was given beyond has left no trace: nobody can have seen it.
            self.given = {lsn for lsn in self.given if lsn <= opened.found.report.end_lsn}

    def find_disk(self, cut: bool, seed: int) -> None:
        if cut:
            self.disk = self.disk.after_power_cut(random.Random(seed))
        else:
            self.disk = self.disk.after_kill()

    def do(self, step: Step) -> None:
        match step:
            case ("append", int(size), int(count)):
                self.append(size, count)
            case ("sync",):
                self.sync()
            case ("stop",):
                self.sync()
                self.give(self.journal.next_lsn, 1)
                stop(self.journal)
                self.find_disk(True, 0)
                self.start()
            case ("crash", bool(cut), int(seed)):
                self.find_disk(cut, seed)
                self.start()
            case ("crash in sync", int(skip), int(written), bool(cut), int(seed)):
                self.append(written, 1)
                self.fs.kill(skip, written=written)
                try:
                    self.sync()
                except Killed:
                    self.find_disk(cut, seed)
                    self.start()
                self.fs.heal()
            case ("crash in recovery", int(skip), bool(cut), int(seed)):
                self.find_disk(cut, seed)
                self.start(skip, cut, seed + 1)
            case _:
                raise AssertionError(step)

    def append(self, size: int, count: int) -> None:
        payload = b"%d:" % self.written + bytes(size)
        self.written += 1
        lsn = self.journal.next_lsn
        self.give(lsn, count)
        self.unsure.append((lsn, payload))
        assert self.journal.append(Kind.BATCH, payload, count=count) == lsn

    def give(self, lsn: int, count: int) -> None:
        numbers = set(range(lsn, lsn + count))
        assert not numbers & self.given, "a number was given twice"
        self.given |= numbers

    def sync(self) -> None:
        self.journal.sync()
        self.durable += self.unsure
        self.unsure = []
        assert self.journal.durable_lsn >= self.durable[-1][0] if self.durable else True


@given(st.lists(STEPS, max_size=25))
def test_what_was_synced_is_there_once_and_in_order(steps: list[Step]) -> None:
    model = Model()
    for step in steps:
        model.do(step)
    model.find_disk(True, 0)
    model.start()


def three_segments(clean: bool) -> tuple[Machine, MemoryFs, list[tuple[int, bytes]]]:
    """The middle one with several records to a commit, the last one with few."""
    disk = MemoryFs()
    machine = Machine(disk, journal_settings(**SMALL))
    journal = machine.start().journal
    written = commit(journal, b"first", b"second")
    written += fill(journal, 1)
    written += commit(journal, *(b"%d" % n + bytes(n * 90) for n in range(8)))
    written += fill(journal, 1)
    written += commit(journal, b"a", b"b" * 700)
    written += commit(journal, b"c")
    if clean:
        stop(journal)
    return machine, disk, written


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """A file after one misfortune."""
    at = draw(st.integers(0, len(data) - 1))
    kind = draw(st.sampled_from(["flip", "cut", "zeros", "garbage"]))
    if kind == "flip":
        return flipped(data, at)
    if kind == "cut":
        return data[:at]
    start = at // 512 * 512
    length = min(draw(st.sampled_from([512, 1024, 4096, 8192])), len(data) - start)
    if kind == "zeros":
        return zeroed(data, start, length)
    return data[:start] + random.Random(at).randbytes(length) + data[start + length :]


def is_told(lsn: int, damage: list[Damage]) -> bool:
    return any(each.from_lsn <= lsn <= each.through_lsn for each in damage)


@given(st.data())
def test_whatever_is_damaged_nothing_is_lost_in_silence(data: st.DataObject) -> None:
    machine, disk, written = three_segments(clean=data.draw(st.booleans(), label="clean stop"))
    evidence = data.draw(st.sampled_from([0, written[-1][0]]), label="a state file proves")
    for number in sorted(data.draw(st.sets(st.integers(1, 3), min_size=1), label="segments")):
        disk.overwrite(segment(number), data.draw(damaged(machine.file(number))))

    opened = machine.start(evidence_lsn=evidence)
    found = opened.events()
    assert found == [pair for pair in written if pair in found]
    missing = {lsn for lsn, _ in written} - {lsn for lsn, _ in found}
    proven = opened.found.report.proven_lsn
    assert all(is_told(lsn, opened.damage) for lsn in missing if lsn <= proven)
    # What is beyond E stood in the last segment: the end of the others is proven.
    assert proven >= evidence
    assert {lsn for lsn in missing if lsn > proven} <= {lsn for lsn, _ in written[-4:]}
    again = commit(opened.journal, b"goes on")
    assert again[0][0] > written[-1][0]

    machine.fs = disk.after_kill()
    later = machine.start()
    assert later.events() == found + again
    assert [loss.payload for loss in later.losses()] == [loss.payload for loss in opened.losses()]
