"""The backlog with a spool: what spills, in which order it comes back, who is let go when."""

from __future__ import annotations

import errno
import logging
import random
from pathlib import Path

import msgspec
import pytest

from tallymark.backlog import Backlog
from tallymark.events import Usage
from tallymark.intake import Intake, Waiter
from tallymark.own_spool import PAUSE_SECONDS
from tallymark.protocol import messages
from tallymark.protocol.messages import Ack, Publish
from tallymark.spool import Spool, spool_paths
from tallymark.spool_header import SpoolHeader
from tests.faulty_fs import FaultyFs
from tests.memory_fs import MemoryFs

DIRECTORY = Path("/spool")
PRODUCER = "0194a0b2-0000-7000-8000-000000000001"
WIDE = 10**9


class Bench:
    """An intake, its backlog, and a disk; ``durable`` is what a daemon would have."""

    def __init__(self, *, bytes_max: int = WIDE, batch_events_max: int = 2) -> None:
        self.disk = MemoryFs()
        self.fs = FaultyFs(self.disk)
        self.intake = Intake(100, lambda: None)
        self.now = 100.0
        self.backlog = Backlog(
            self.intake, batch_events_max, self._make_spool, bytes_max, clock=lambda: self.now
        )
        self.told: list[str] = []
        self.durable: list[str] = []
        self._numbers = iter(range(10**6))

    def _make_spool(self, first_seq: int) -> Spool:
        header = SpoolHeader(PRODUCER, "p", first_seq=first_seq)
        return Spool.create(self.fs, DIRECTORY, header, random_bytes=random.Random(1).randbytes)

    def put(self, count: int) -> None:
        for _ in range(count):
            self.intake.put(Usage(event_id=str(next(self._numbers))))

    def wait_for_all(self, name: str, *, durable: bool = False) -> Waiter:
        waiter = Waiter(lambda: self.told.append(name), durable=durable)
        self.intake.enlist(waiter)
        self.backlog.notice_waiters()
        return waiter

    def send(self, window_bytes: int = WIDE) -> list[int]:
        """Send; gives the seqs."""
        seqs = []
        for batch in self.backlog.take(window_bytes):
            message = messages.decode_client(batch.frame[4:])
            if isinstance(message, Publish):
                events = msgspec.msgpack.decode(message.events)
                self.durable += [event["event_id"] for event in events]
            seqs.append(batch.seq)
        return seqs

    def deliver(self, window_bytes: int = WIDE) -> None:
        """All that there is, as an open connection would."""
        while True:
            self.backlog.freeze_to(window_bytes)
            seqs = self.send(window_bytes)
            if not seqs:
                return
            self.backlog.acknowledge(Ack(through_seq=seqs[-1]))

    @property
    def files(self) -> list[Path]:
        return spool_paths(self.disk, DIRECTORY)


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def test_what_spills_leaves_memory_and_comes_back_in_order() -> None:
    bench = Bench()
    bench.put(5)
    bench.backlog.spill()
    assert (bench.intake.pending, bench.backlog.spooled, len(bench.files)) == (0, 5, 1)
    assert not bench.backlog.empty
    bench.put(3)
    bench.backlog.spill()
    bench.put(2)
    bench.deliver()
    assert bench.durable == numbers(10)
    assert bench.backlog.empty
    assert (bench.files, bench.backlog.spooled, bench.backlog.acknowledged) == ([], 0, 10)
    assert bench.intake.pending == 0


def test_a_small_window_takes_it_in_pieces() -> None:
    bench = Bench()
    bench.put(40)
    bench.backlog.spill()
    bench.put(7)
    bench.deliver(window_bytes=200)
    assert bench.durable == numbers(47)
    assert bench.backlog.empty


def test_nothing_spills_without_cause() -> None:
    bench = Bench()
    assert not bench.backlog.spill_due
    bench.backlog.spill()
    assert bench.files == []
    bench.put(2)
    assert bench.backlog.spill_due
    bench.backlog.spill()
    assert not bench.backlog.spill_due


def test_what_was_sent_and_spilled_may_be_acknowledged_before_it_is_loaded() -> None:
    bench = Bench()
    bench.put(6)
    bench.backlog.freeze_to(WIDE)
    assert bench.send() == [1, 2, 3]
    bench.backlog.spill()
    assert bench.backlog.acknowledge(Ack(through_seq=2))
    assert bench.backlog.first_seq == 3
    assert bench.backlog.acknowledge(Ack(through_seq=3))
    assert bench.backlog.empty
    assert (bench.files, bench.backlog.acknowledged, bench.backlog.spooled) == ([], 6, 0)


def test_a_lost_connection_sends_again_what_is_not_durable() -> None:
    bench = Bench()
    bench.put(8)
    bench.backlog.spill()
    bench.send(100)
    bench.backlog.rewind()
    bench.durable.clear()
    bench.backlog.resume(2)
    bench.deliver()
    assert bench.durable == numbers(8)[4:]
    assert bench.backlog.acknowledged == 8


def test_everything_was_durable_already() -> None:
    """The acknowledgements were lost with the connection."""
    bench = Bench()
    bench.put(4)
    bench.backlog.freeze_to(WIDE)
    bench.send()
    bench.backlog.spill()
    bench.backlog.rewind()
    bench.backlog.resume(2)
    assert bench.backlog.empty
    assert (bench.files, bench.backlog.acknowledged) == ([], 4)


def test_waiters_are_let_go_when_spooled_but_for_those_that_want_it_durable() -> None:
    bench = Bench()
    bench.put(3)
    bench.wait_for_all("flush")
    bench.put(1)
    bench.wait_for_all("durable", durable=True)
    assert (bench.told, bench.backlog.somebody_waits) == ([], True)
    bench.backlog.spill()
    assert (bench.told, bench.backlog.somebody_waits) == (["flush"], False)
    bench.deliver()
    assert bench.told == ["flush", "durable"]


def test_those_who_wait_in_vain_are_let_go_at_the_end() -> None:
    bench = Bench()
    bench.put(1)
    waiter = bench.wait_for_all("durable", durable=True)
    bench.backlog.spill()
    bench.intake.over = True
    bench.backlog.leave_spool()
    bench.backlog.dismiss()
    assert bench.told == ["durable"]
    assert waiter.error is not None


def test_without_room_events_stay_in_memory_and_go_on_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "tallymark")
    bench = Bench()
    bench.put(2)
    bench.fs.fail("write", errno.ENOSPC, times=2)
    for _ in range(2):
        bench.backlog.spill()
        assert (bench.intake.pending, bench.backlog.spooled) == (2, 0)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("events stay in memory")
    bench.put(2)
    bench.backlog.spill()
    assert bench.backlog.spooled == 4
    bench.put(2)
    bench.deliver()
    assert bench.durable == numbers(6)


def test_its_size_is_bounded_and_what_fits_is_spooled() -> None:
    bench = Bench(bytes_max=4096 + 400)
    bench.put(2)
    bench.backlog.spill()
    bench.put(20)
    bench.backlog.spill()
    assert (bench.backlog.spooled, bench.intake.pending) == (4, 18)
    bench.deliver()
    assert bench.durable == numbers(22)


def test_a_full_spool_is_tried_again_after_a_pause_or_when_there_may_be_room() -> None:
    bench = Bench(bytes_max=4096 + 400)
    bench.put(20)
    assert bench.backlog.spill_due
    bench.backlog.spill()
    assert 0 < bench.backlog.spooled < 20
    assert not bench.backlog.spill_due
    bench.now += PAUSE_SECONDS
    assert bench.backlog.spill_due
    bench.backlog.spill()
    assert not bench.backlog.spill_due
    bench.wait_for_all("flush")
    assert bench.backlog.spill_due
    bench.backlog.spill()
    assert not bench.backlog.spill_due
    bench.deliver()
    bench.put(1)
    assert bench.backlog.spill_due


def test_a_spool_that_could_not_begin_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.put(3)
    bench.fs.fail("mkdir", errno.EACCES, times=2)
    for _ in range(2):
        assert bench.backlog.spill_due
        bench.backlog.spill()
        assert (bench.files, bench.backlog.spooled, bench.intake.pending) == ([], 0, 3)
        assert not bench.backlog.spill_due
        bench.now += PAUSE_SECONDS
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("cannot spool events: ")
    bench.backlog.spill()
    assert (bench.backlog.spooled, bench.intake.pending) == (3, 0)
    bench.deliver()
    assert bench.durable == numbers(3)


def test_after_a_failed_sync_nothing_more_is_written(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.put(2)
    bench.backlog.spill()
    bench.put(2)
    bench.fs.fail("sync_data")
    bench.backlog.spill()
    writes = bench.fs.count("write")
    bench.put(1)
    assert not bench.backlog.spill_due
    bench.backlog.spill()
    assert bench.fs.count("write") == writes
    assert "cannot spool events" in caplog.messages[-1]
    bench.deliver()
    assert bench.durable == numbers(5)
    assert bench.intake.pending == 0


def test_a_spool_that_cannot_be_read_waits(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.put(4)
    bench.backlog.spill()
    bench.fs.fail("read", times=1)
    assert bench.send() == []
    assert "cannot read" in caplog.messages[-1]
    bench.deliver()
    assert bench.durable == numbers(4)


def test_a_spool_that_cannot_be_removed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.put(1)
    bench.backlog.spill()
    bench.fs.fail("unlink")
    bench.deliver()
    assert bench.backlog.empty
    assert "cannot remove" in caplog.messages[-1]


def test_losses_are_spooled_too() -> None:
    bench = Bench()
    bench.intake.drop("queue_full", 7)
    bench.backlog.notice_losses("")
    bench.put(1)
    bench.backlog.spill()
    assert bench.backlog.spooled == 1
    (path,) = bench.files
    spool = Spool.adopt(bench.disk.after_kill(), path)
    assert spool is not None
    found = [spool.next_batch(), spool.next_batch()]
    assert [each.lost for each in found if each is not None] == [0, 7]


def test_it_is_bound_before_it_is_sent() -> None:
    bench = Bench()
    assert bench.backlog.bound_to == ""
    bench.backlog.bind("server-1")
    bench.put(1)
    bench.backlog.spill()
    bench.backlog.bind("server-1")
    assert bench.backlog.bound_to == "server-1"


def test_a_new_spool_begins_where_the_last_one_ended() -> None:
    bench = Bench()
    for _ in range(3):
        bench.put(4)
        bench.backlog.spill()
        bench.put(1)
        bench.deliver()
    assert bench.durable == numbers(15)
    assert bench.fs.count("create") + bench.fs.count("lock") == 3
