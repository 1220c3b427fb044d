"""Parts of the daemon for tests: a journal in memory, an engine over it, fake sockets.

The engine is the real one, with a real committer thread. What a commit brings
back waits in a queue until the test hands it over, so a test decides what is
still in flight.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tallymark.events import RunEnd, Usage
from tallymark.protocol.messages import (
    Ack,
    Hello,
    Nack,
    Publish,
    Skip,
    Welcome,
)
from tallymark.record import NO_PRODUCER, Kind, Record
from tallymarkd.core.admission import Admission
from tallymarkd.core.books import Books
from tallymarkd.core.committer import Committer, Ticket
from tallymarkd.core.engine import Engine, EngineSettings, PostResult
from tallymarkd.core.entry import Cost
from tallymarkd.core.keys import Keys
from tallymarkd.core.ledger import ServerState
from tallymarkd.core.producers import Producer
from tallymarkd.core.project_state import snapshot
from tallymarkd.storage.index import KeyIndex
from tallymarkd.storage.journal import JournalFull

DEADLINE_SECONDS = 60.0
"""Longer than anything here can take; a test that gets there has failed."""

NOON_NS = 1_767_355_200_000_000_000
"""2026-01-02 12:00 UTC."""

UID = 1000
SERVER_ID = "0194a0b2-7c4d-7e5f-8a6b-3c2d1e0f9a8b"
MIB = 1024 * 1024

PRODUCERS = [f"0194a0b2-0000-7000-8000-{number:012d}" for number in range(1, 20)]


def wait_until(done: Callable[[], bool], what: str) -> None:
    """Wait for another thread. Fails after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not done():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.001)


async def until(done: Callable[[], bool], what: str) -> None:
    """Let the loop run until something is so. Fails after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not done():
        assert time.monotonic() < deadline, f"never came: {what}"
        await asyncio.sleep(0.001)


class MemoryLog:
    """A journal in memory (core.committer.Log).

    ``full`` makes the next appends fail as a full disk does; ``rolls`` makes
    the one with that number sync what came before it and then fail.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.syncs = 0
        self.sync_sizes: list[int] = []
        self.durable_lsn = 0
        self.full = False
        self.roll_at = 0
        self.append_error: OSError | None = None
        self.sync_error: OSError | None = None
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.syncing = threading.Event()
        self._pending: list[Record] = []
        self._next_lsn = 1

    def append(
        self,
        kind: Kind,
        payload: bytes,
        *,
        count: int = 1,
        producer: bytes = NO_PRODUCER,
        seq: int = 0,
        from_seq: int | None = None,
    ) -> int:
        if self.append_error is not None:
            raise self.append_error
        if self.full:
            self._pending.clear()
            raise JournalFull("cannot write to the journal in memory: No space left on device")
        if self.roll_at and len(self._pending) == self.roll_at:
            self.roll_at = 0
            self.sync()
            raise JournalFull("cannot begin a segment in memory: No space left on device")
        lsn = self._next_lsn
        self._next_lsn += count
        first = seq if from_seq is None else from_seq
        self._pending.append(
            Record(kind, lsn, count, self.durable_lsn, producer, seq, first, 0, payload, 0, 0)
        )
        return lsn

    def sync(self) -> int:
        self.syncing.set()
        assert self.may_sync.wait(DEADLINE_SECONDS)
        if self.sync_error is not None:
            raise self.sync_error
        self.syncs += 1
        self.sync_sizes.append(len(self._pending))
        self.records += self._pending
        self._pending.clear()
        if self.records:
            self.durable_lsn = self.records[-1].last_lsn
        return self.durable_lsn

    def of_kind(self, *kinds: Kind) -> list[Record]:
        return [record for record in self.records if record.kind in kinds]


class FakeLink:
    """Keeps what the engine says to a conversation (core.engine.Link)."""

    def __init__(self) -> None:
        self.said: list[Ack | Nack] = []
        self.fenced = ""
        self.settled_bytes = 0
        self.settled_calls = 0

    def acknowledge(self, ack: Ack) -> None:
        self.said.append(ack)

    def nack(self, nack: Nack) -> None:
        self.said.append(nack)

    def fence(self, message: str) -> None:
        self.fenced = message

    def settled(self, count: int) -> None:
        self.settled_bytes += count
        self.settled_calls += 1

    @property
    def acks(self) -> list[Ack]:
        return [each for each in self.said if isinstance(each, Ack)]

    @property
    def nacks(self) -> list[Nack]:
        return [each for each in self.said if isinstance(each, Nack)]


def array(*events: Any) -> bytes:
    """A msgpack array of events, as a client sends it."""
    return msgspec.msgpack.encode(list(events))


def run_end(number: int = 1, **fields: Any) -> dict[str, Any]:
    """A plain run event, as it stands on the wire."""
    return {
        "type": "run.end",
        "event_id": f"run-{number}",
        "agent_name": "coding",
        "input_tokens": 10,
        "output_tokens": 5,
        "estimated_cost_usd": 0.25,
        **fields,
    }


def usage(key: str = "", **fields: Any) -> dict[str, Any]:
    """A usage, with a dedupe key where one is given."""
    keyed = {"dedupe_key": key} if key else {}
    return {"type": "usage", "agent_name": "coding", "input_tokens": 7, **keyed, **fields}


def publish(seq: int, *events: Any, count: int | None = None) -> Publish:
    """A batch of these events."""
    return Publish(
        seq=seq,
        count=len(events) if count is None else count,
        events=msgspec.Raw(array(*events)),
    )


def hello(producer: str = PRODUCERS[0], project: str = "spotter", **fields: Any) -> Hello:
    """A Hello of the current protocol."""
    return Hello(
        **{
            "protocol_min": 1,
            "protocol_max": 1,
            "producer": producer,
            "project": project,
            **fields,
        }
    )


def open_keys(directory: Path) -> Keys:
    """Keys over an index in a directory."""
    path = directory / "index.sqlite"
    return Keys(KeyIndex.open(path), KeyIndex.open(path))


def fleeting_keys() -> Keys:
    """Keys over an empty index in memory, for what never writes to it."""
    memory = Path(":memory:")
    return Keys(KeyIndex.open(memory), KeyIndex.open(memory))


def image(books: Books) -> dict[str, Any]:
    """Everything that books hold, as plain values, to compare."""
    return {
        "server": msgspec.to_builtins(books.server),
        "projects": {
            name: (
                msgspec.to_builtins(snapshot(state)),
                state.applied_lsn,
                state.apply_failures,
                msgspec.to_builtins(state.open_runs),
                list(state.known_sessions),
            )
            for name, state in books.projects.items()
        },
    }


def engine_settings(**limits: int) -> EngineSettings:
    """Limits that no test comes near, but for those that are given."""
    usual = {
        "projects_max": 1000,
        "producers_max": 100_000,
        "mark_days_max": 30,
        "unacknowledged_bytes_max": 8 * MIB,
        "unacknowledged_total_bytes_max": 64 * MIB,
    }
    return EngineSettings(**{**usual, **limits})


class Bench:
    """An engine over a journal in memory.

    ``settle`` hands over to the engine everything that was submitted; ``pump``
    only the oldest commit.
    """

    def __init__(
        self,
        *,
        books: Books | None = None,
        log: MemoryLog | None = None,
        price: Callable[[Usage | RunEnd], Cost | None] = lambda event: None,
        commit_bytes_max: int = 2 * MIB,
        **limits: int,
    ) -> None:
        self.books = books or Books(ServerState(server_id=SERVER_ID), {})
        self.log = log or MemoryLog()
        self.keys = fleeting_keys()
        self.notes = 0
        self.results: queue.SimpleQueue[list[Ticket]] = queue.SimpleQueue()
        self.on_commit: Callable[[list[Ticket]], object] = self.results.put
        self.committer = Committer(
            self.log,
            lambda tickets: (self.on_commit(tickets), None)[1],
            commit_bytes_max=commit_bytes_max,
            idle_mark_seconds=3600.0,
        )
        ids = itertools.count(1)
        self.admission = Admission(self.keys, price, lambda: f"assigned-{next(ids)}")
        self.engine = Engine(
            self.books,
            self.keys,
            self.admission,
            self.committer,
            engine_settings(**limits),
            note=self._note,
            clock_ns=lambda: NOON_NS,
        )
        self.committer.start()

    def _note(self) -> None:
        self.notes += 1

    def pump(self) -> list[Ticket]:
        """Wait for the oldest commit and hand it over."""
        tickets = self.results.get(timeout=DEADLINE_SECONDS)
        self.engine.committed(tickets)
        return tickets

    def settle(self) -> None:
        """Hand over everything that was submitted so far.

        A probe is submitted behind it; when that is back, so is the rest.
        """
        back: list[Exception | None] = []
        self.engine.probe(back.append)
        while not back:
            self.pump()

    def stop(self) -> None:
        assert self.committer.stop(DEADLINE_SECONDS)
        self.keys.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.may_sync.set()
        self.stop()

    def join(
        self, producer: str = PRODUCERS[0], project: str = "spotter", uid: int = UID
    ) -> Client:
        """Open a producer; its Welcome may still be due."""
        link = FakeLink()
        welcomes: list[Welcome] = []
        found = self.engine.open(hello(producer, project), uid, link, welcomes.append)
        assert found is not None
        return Client(self, link, found, welcomes)

    def post(self, *batches: tuple[str, bytes, int], uid: int = UID) -> list[Any]:
        """Post over HTTP; gives the list that the answer will be put into."""
        answers: list[tuple[PostResult | None, Exception | None]] = []
        self.engine.post(batches, uid, lambda result, error: answers.append((result, error)))
        return answers

    def replayed(self) -> Books:
        """Books made from the journal alone."""
        books = Books(ServerState(server_id=SERVER_ID), {})
        for record in self.log.records:
            books.record(record)
        return books

    def events_of(self, project: str = "spotter") -> list[str]:
        """Ids of a project's finished runs."""
        state = self.books.projects.get(project)
        return [] if state is None else [run.event_id for run in snapshot(state).events]


class Client:
    """One producer at the engine, without a conversation."""

    def __init__(
        self, bench: Bench, link: FakeLink, producer: Producer, welcomes: list[Welcome]
    ) -> None:
        self.bench = bench
        self.link = link
        self.producer = producer
        self.welcomes = welcomes

    def publish(self, seq: int, *events: Any, count: int | None = None) -> int:
        """Send a batch; gives the bytes it counts for."""
        message = publish(seq, *events, count=count)
        size = len(memoryview(message.events))
        self.bench.engine.publish(self.producer, self.link, message, size)
        return size

    def skip(self, from_seq: int, through_seq: int, events: int = 3, reason: str = "full") -> None:
        message = Skip(from_seq=from_seq, through_seq=through_seq, events=events, reason=reason)
        self.bench.engine.skip(self.producer, self.link, message, 128)

    def leave(self) -> None:
        self.bench.engine.detach(self.producer, self.link)


def producer_bytes(name: str) -> bytes:
    return uuid.UUID(name).bytes


def a_record(
    kind: Kind, payload: bytes, *, lsn: int, count: int = 1, producer: str = "", seq: int = 0,
    from_seq: int | None = None,
) -> Record:  # fmt: skip
    """A journal record as recovery reads it."""
    return Record(
        kind=kind,
        lsn=lsn,
        count=count,
        durable_lsn=0,
        producer=producer_bytes(producer) if producer else NO_PRODUCER,
        seq=seq,
        from_seq=seq if from_seq is None else from_seq,
        prev_crc=0,
        payload=payload,
        crc=0,
        offset=0,
    )
