from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

import pytest

from tallymark.record import Kind
from tallymarkd.core.committer import EXIT_IO_ERROR, Committer, Ticket
from tallymarkd.storage.journal import JournalFull
from tests.daemon_parts import DEADLINE_SECONDS, PRODUCERS, MemoryLog, producer_bytes, wait_until

NEVER = 3600.0


class Rig:
    """A committer over a journal in memory."""

    def __init__(
        self,
        *,
        commit_bytes_max: int = 1000,
        idle_mark_seconds: float = NEVER,
        on_commit: Callable[[list[Ticket]], None] | None = None,
    ) -> None:
        self.log = MemoryLog()
        self.results: queue.SimpleQueue[list[Ticket]] = queue.SimpleQueue()
        self.deaths: list[int] = []
        self.died = threading.Event()
        self.committer = Committer(
            self.log,
            on_commit or self.results.put,
            commit_bytes_max=commit_bytes_max,
            idle_mark_seconds=idle_mark_seconds,
            die=self._die,
        )

    def _die(self, code: int) -> NoReturn:
        """As the end of the process: nothing comes after it on this thread."""
        self.deaths.append(code)
        self.died.set()
        while True:
            threading.Event().wait()

    def submit(self, payload: bytes = b"payload", **fields: object) -> Ticket:
        ticket = Ticket(Kind.BATCH, payload, **fields)  # type: ignore[arg-type]  # each test gives what Ticket has
        self.committer.submit(ticket)
        return ticket

    def next(self) -> list[Ticket]:
        return self.results.get(timeout=DEADLINE_SECONDS)

    def held(self) -> None:
        """Have the thread in the middle of a sync."""
        self.log.may_sync.clear()
        self.log.syncing.clear()
        self.submit(b"first")
        assert self.log.syncing.wait(DEADLINE_SECONDS)

    def stop(self) -> None:
        self.log.may_sync.set()
        assert self.committer.stop(DEADLINE_SECONDS)


def test_a_ticket_comes_back_when_it_is_durable() -> None:
    rig = Rig()
    producer = producer_bytes(PRODUCERS[0])
    ticket = rig.submit(b"abc", count=3, producer=producer, seq=4, from_seq=2, context="mine")
    rig.committer.start()

    assert rig.next() == [ticket]

    assert (ticket.lsn, ticket.failed, ticket.context) == (1, None, "mine")
    (record,) = rig.log.records
    assert (record.kind, record.payload, record.count) == (Kind.BATCH, b"abc", 3)
    assert (record.producer, record.seq, record.from_seq) == (producer, 4, 2)
    assert rig.log.durable_lsn == 3
    rig.stop()


def test_one_that_was_never_started_takes_its_turns_with_whoever_stops_it() -> None:
    rig = Rig()
    ticket = rig.submit()
    assert rig.committer.waiting == 1

    assert rig.committer.stop(0.0)

    assert rig.committer.waiting == 0
    assert rig.next() == [ticket]
    assert [record.kind for record in rig.log.records] == [Kind.BATCH, Kind.STOP]


def test_nothing_comes_back_before_the_sync() -> None:
    rig = Rig()
    rig.committer.start()
    rig.held()

    assert rig.results.empty()
    assert rig.committer.busy_since is not None

    rig.stop()
    assert rig.next()[0].lsn == 1
    assert rig.committer.busy_since is None


def test_one_sync_serves_everyone_who_waits() -> None:
    rig = Rig()
    rig.committer.start()
    rig.held()
    waiting = [rig.submit(b"x" * 10) for _ in range(50)]

    rig.stop()

    assert rig.next()[0].payload == b"first"
    assert rig.next() == waiting
    assert rig.log.sync_sizes == [1, 50, 1]  # the last is the clean stop
    assert [ticket.lsn for ticket in waiting] == list(range(2, 52))


def test_a_commit_takes_no_more_than_its_bytes_and_keeps_the_order() -> None:
    rig = Rig(commit_bytes_max=1000)
    rig.committer.start()
    rig.held()
    waiting = [rig.submit(bytes(size)) for size in (600, 400, 1, 999, 1, 5000, 1, 1000)]

    rig.stop()

    groups = [rig.next() for _ in range(7)]
    assert [[len(t.payload) for t in group] for group in groups[1:]] == [
        [600, 400],
        [1, 999],
        [1],
        [5000],
        [1],
        [1000],
    ]
    assert [ticket for group in groups[1:] for ticket in group] == waiting


def test_queue_bytes_are_what_is_not_committed_yet() -> None:
    rig = Rig()
    rig.committer.start()
    rig.held()
    rig.submit(bytes(600))

    assert rig.committer.queue_bytes == 605

    rig.stop()
    assert rig.committer.queue_bytes == 0


def test_queue_bytes_do_not_drift_when_both_threads_count() -> None:
    rig = Rig(commit_bytes_max=100)
    rig.committer.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20_000):
            rig.submit(bytes(10))
    finally:
        sys.setswitchinterval(before)

    rig.stop()

    assert rig.committer.queue_bytes == 0


def test_a_full_disk_fails_the_tickets_and_the_thread_goes_on() -> None:
    rig = Rig()
    rig.log.full = True
    first = rig.submit()
    rig.committer.start()

    assert rig.next() == [first]
    assert isinstance(first.failed, JournalFull)
    assert first.lsn == 0

    rig.log.full = False
    rig.committer.epoch += 1
    second = rig.submit()
    assert rig.next() == [second]
    assert (second.failed, second.lsn) == (None, 1)
    assert rig.deaths == []
    rig.stop()


def test_nothing_overtakes_what_was_not_kept() -> None:
    rig = Rig(commit_bytes_max=1)
    rig.log.full = True
    first = rig.submit(b"first")
    rig.committer.start()
    assert rig.next() == [first]

    rig.log.full = False
    same_epoch = rig.submit(b"second")
    assert rig.next() == [same_epoch]
    rig.committer.epoch += 1
    next_epoch = rig.submit(b"first")
    assert rig.next() == [next_epoch]

    assert isinstance(same_epoch.failed, JournalFull)
    assert next_epoch.failed is None
    assert [record.payload for record in rig.log.of_kind(Kind.BATCH)] == [b"first"]
    rig.stop()


def test_what_a_roll_had_made_durable_before_the_disk_was_full_is_kept() -> None:
    rig = Rig()
    rig.log.roll_at = 2
    tickets = [rig.submit(b"%d" % number, count=2) for number in range(4)]
    rig.committer.start()

    assert rig.next() == tickets

    assert [ticket.lsn for ticket in tickets] == [1, 3, 0, 0]
    assert [ticket.failed is None for ticket in tickets] == [True, True, False, False]
    assert [record.payload for record in rig.log.records] == [b"0", b"1"]
    rig.stop()


def test_a_failed_sync_ends_the_process_without_an_answer_or_a_second_try() -> None:
    rig = Rig()
    rig.log.sync_error = OSError(5, "Input/output error")
    rig.submit()
    rig.committer.start()

    assert rig.died.wait(DEADLINE_SECONDS)

    assert rig.deaths == [EXIT_IO_ERROR] == [74]
    assert rig.results.empty()
    assert rig.log.syncs == 0
    assert rig.log.records == []


def test_a_failed_sync_of_the_idle_mark_ends_the_process_too() -> None:
    def break_the_disk(tickets: list[Ticket]) -> None:
        rig.log.sync_error = OSError(5, "Input/output error")

    rig = Rig(idle_mark_seconds=0.001, on_commit=break_the_disk)
    rig.submit()
    rig.committer.start()

    assert rig.died.wait(DEADLINE_SECONDS)

    assert rig.deaths == [EXIT_IO_ERROR]


def test_an_error_of_the_journal_that_is_no_full_disk_ends_the_process() -> None:
    rig = Rig()
    rig.log.append_error = OSError(5, "Input/output error")
    rig.submit()
    rig.committer.start()

    assert rig.died.wait(DEADLINE_SECONDS)

    assert rig.results.empty()


def test_an_error_behind_the_commit_ends_the_process() -> None:
    def refuse(tickets: list[Ticket]) -> None:
        raise RuntimeError("the loop is closed")

    rig = Rig(on_commit=refuse)
    rig.submit()
    rig.committer.start()

    assert rig.died.wait(DEADLINE_SECONDS)


def test_after_quiet_time_one_mark_is_written() -> None:
    rig = Rig(idle_mark_seconds=0.001)
    rig.submit()
    rig.committer.start()
    rig.next()

    wait_until(lambda: len(rig.log.records) == 2, "the mark")
    rig.submit()
    rig.next()
    wait_until(lambda: len(rig.log.records) == 4, "the second mark")
    rig.stop()

    kinds = [record.kind for record in rig.log.records]
    assert kinds == [Kind.BATCH, Kind.MARK, Kind.BATCH, Kind.MARK, Kind.STOP]
    # What the mark proves: everything before it had been durable.
    assert rig.log.records[1].durable_lsn == 1


def test_another_quiet_time_holds_for_the_wait_that_has_begun() -> None:
    rig = Rig(idle_mark_seconds=NEVER)
    rig.submit()
    rig.committer.start()
    rig.next()

    rig.committer.use(commit_bytes_max=1000, idle_mark_seconds=0.001)

    wait_until(lambda: len(rig.log.records) == 2, "the mark")
    rig.stop()


def test_no_mark_is_written_before_the_quiet_time_is_over() -> None:
    rig = Rig(idle_mark_seconds=NEVER)
    rig.submit()
    rig.committer.start()
    rig.next()

    rig.stop()

    assert [record.kind for record in rig.log.records] == [Kind.BATCH, Kind.STOP]


def test_marks_that_do_not_fit_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def fill_the_disk(tickets: list[Ticket]) -> None:
        rig.log.full = True

    rig = Rig(idle_mark_seconds=0.001, on_commit=fill_the_disk)
    rig.submit()
    rig.committer.start()
    wait_until(lambda: "cannot write a mark record" in caplog.text, "the warning")

    rig.stop()

    assert "cannot write a stop record" in caplog.text
    assert rig.deaths == []
    assert [record.kind for record in rig.log.records] == [Kind.BATCH]


def test_stop_commits_what_is_queued_and_writes_the_clean_stop_last() -> None:
    rig = Rig(commit_bytes_max=1)
    tickets = [rig.submit(b"%d" % number) for number in range(5)]
    rig.committer.start()

    rig.stop()

    assert [rig.next() for _ in tickets] == [[ticket] for ticket in tickets]
    kinds = [record.kind for record in rig.log.records]
    assert kinds == [Kind.BATCH] * 5 + [Kind.STOP]


def test_stop_without_anything_to_do_writes_the_clean_stop() -> None:
    rig = Rig()
    rig.committer.start()

    rig.stop()

    assert [record.kind for record in rig.log.records] == [Kind.STOP]


def test_stop_says_when_the_disk_does_not_answer() -> None:
    rig = Rig()
    rig.committer.start()
    rig.held()

    assert not rig.committer.stop(0.01)

    rig.stop()


def test_figures_for_health() -> None:
    rig = Rig(commit_bytes_max=1)
    rig.submit(b"a", count=3)
    rig.submit(b"b", count=4)
    rig.committer.start()
    rig.next()
    rig.next()
    rig.stop()

    stats = rig.committer.stats
    assert (stats.commits, stats.events) == (2, 7)
    assert len(stats.fsync_seconds) == 2
    assert all(0 <= seconds < DEADLINE_SECONDS for seconds in stats.fsync_seconds)


def test_many_threads_may_submit() -> None:
    rig = Rig()
    rig.committer.start()

    def send(number: int) -> None:
        for seq in range(200):
            rig.submit(b"%d" % number, seq=seq)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rig.stop()

    by_sender: dict[bytes, list[int]] = {}
    for record in rig.log.of_kind(Kind.BATCH):
        by_sender.setdefault(record.payload, []).append(record.seq)
    assert by_sender == {b"%d" % number: list(range(200)) for number in range(4)}


@pytest.mark.parametrize("rounds", [300])
def test_no_wake_up_is_lost(rounds: int) -> None:
    """Submit while the thread is about to go to sleep, over and over."""
    rig = Rig()
    rig.committer.start()

    for _ in range(rounds):
        ticket = rig.submit()
        assert rig.next() == [ticket]

    rig.stop()


def test_an_echo_comes_back_between_two_commits() -> None:
    rig = Rig()
    came = threading.Event()
    rig.committer.start()
    rig.committer.echo(came.set)

    assert came.wait(DEADLINE_SECONDS)
    rig.stop()
    assert [record.kind for record in rig.log.records] == [Kind.STOP]


def test_a_writer_that_hangs_gives_no_echo() -> None:
    rig = Rig()
    rig.committer.start()
    came = threading.Event()
    rig.held()
    rig.committer.echo(came.set)
    rig.submit(b"second")
    assert not came.is_set()

    rig.log.may_sync.set()
    assert came.wait(DEADLINE_SECONDS)
    rig.stop()


def test_an_echo_is_not_starved_by_work() -> None:
    rig = Rig(commit_bytes_max=1)
    echoes: list[int] = []
    for number in range(5):
        rig.submit(b"x")
        if number == 2:
            rig.committer.echo(lambda: echoes.append(rig.log.syncs))
    rig.committer.start()
    rig.stop()

    assert echoes == [0]
