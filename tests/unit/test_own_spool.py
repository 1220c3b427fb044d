"""A producer's own spool: what goes in, and when it is tried again."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from tallymark.errors import StorageError
from tallymark.own_spool import PAUSE_SECONDS, OwnSpool
from tallymark.spool import Spool, spool_paths
from tallymark.spool_header import SpoolHeader
from tests.faulty_fs import FaultyFs
from tests.memory_fs import MemoryFs
from tests.unit.test_spool import DIRECTORY, PRODUCER, WIDE, batches


class Bench:
    """An own spool over a disk, what it warned of, and a clock."""

    def __init__(self, bytes_max: int = WIDE) -> None:
        self.fs = FaultyFs(MemoryFs())
        self.now = 5.0
        self.warned: list[str] = []
        self.error: Exception | None = None
        self.own = OwnSpool(
            self._make, bytes_max, lambda topic, _: self.warned.append(topic), lambda: self.now
        )

    def _make(self, first_seq: int) -> Spool:
        if self.error is not None:
            raise self.error
        header = SpoolHeader(PRODUCER, "p", first_seq=first_seq)
        return Spool.create(self.fs, DIRECTORY, header, random_bytes=random.Random(1).randbytes)

    @property
    def files(self) -> list[Path]:
        return spool_paths(self.fs, DIRECTORY)


def test_without_a_place_nothing_is_spooled() -> None:
    own = OwnSpool(None, WIDE, lambda *_: None, lambda: 0.0)
    assert not own.usable
    assert not own.due
    assert own.append(batches(1)) == []


def test_a_disk_that_fills_takes_what_it_can() -> None:
    bench = Bench()
    sent = batches(8)
    bench.own.append(sent[:1])
    bench.fs.fail("write", errno.ENOSPC, times=2)
    assert bench.own.append(sent[1:]) == sent[1:2]
    assert bench.warned == ["spool full", "spool full"]
    assert not bench.own.due
    bench.now += PAUSE_SECONDS
    assert bench.own.due
    assert bench.own.append(sent[2:]) == sent[2:]


@pytest.mark.parametrize("error", [StorageError("too long"), PermissionError("no"), OSError()])
def test_one_that_cannot_begin_may_begin_later(error: Exception) -> None:
    bench = Bench()
    bench.error = error
    assert bench.own.append(batches(1)) == []
    assert (bench.own.usable, bench.own.due, bench.warned) == (True, False, ["spool failed"])
    bench.own.hurry()
    assert bench.own.due
    bench.error = None
    assert bench.own.append(batches(1)) == batches(1)


def test_one_that_failed_is_neither_written_nor_sealed_and_is_left_for_others() -> None:
    bench = Bench()
    bench.own.append(batches(1))
    bench.fs.fail("sync_data")
    assert bench.own.append(batches(1, first=2)) == []
    writes = bench.fs.count("write")
    bench.own.hurry()
    assert not bench.own.due
    bench.own.bind("server")
    assert bench.own.append(batches(1, first=2)) == []
    bench.own.leave()
    assert bench.fs.count("write") == writes
    assert len(bench.files) == 1


def test_one_that_cannot_be_removed_stays_locked_until_the_end() -> None:
    bench = Bench()
    bench.own.append(batches(1))
    bench.fs.fail("unlink")
    bench.own.retire()
    assert bench.own.spool is None
    assert Spool.adopt(bench.fs, bench.files[0]) is None
    bench.own.leave()
    adopted = Spool.adopt(bench.fs, bench.files[0])
    assert adopted is not None
