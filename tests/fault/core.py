"""The daemon between its sockets and its disk, every step taken by the test.

Recovery, engine, committer, checkpoints and retirement are the real ones; one
thread takes the steps that the daemon's three threads take, in an order that a
test decides. Time stands still but for what the test lets pass.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from tallymark.fs import FileSystem
from tallymark.protocol.messages import Ack, Nack, Publish, Skip, Welcome
from tallymarkd.core.admission import Admission
from tallymarkd.core.books import Books
from tallymarkd.core.checkpoint import Checkpointer, CheckpointSettings
from tallymarkd.core.committer import Committer, Ticket
from tallymarkd.core.engine import Engine, EngineSettings, PostResult
from tallymarkd.core.layout import Layout
from tallymarkd.core.restore import restore
from tallymarkd.storage.journal import JournalSettings
from tests.daemon_parts import MIB, NOON_NS, UID, hello, image
from tests.fault.account import Account, Agent, Batch

SERVER_UUID = uuid.UUID("0194a0b2-7c4d-4e5f-8a6b-3c2d1e0f9a8b")
SEGMENT_BYTES = 16 * 1024
CHUNK_BYTES = 2 * 1024
SAVE_SECONDS = 3.0


class Died(BaseException):
    """The daemon has ended its own process; nothing may clean up after this."""


@dataclass
class Timer:
    """What ``call_later`` gives."""

    at: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Core:
    """One life of a daemon, from its recovery on."""

    def __init__(
        self, fs: FileSystem, root: Path, account: Account, *, seed: int, history_bytes_max: int
    ) -> None:
        self.account = account
        self.now = 1000.0
        self.images: dict[int, bytes] = {}
        self._timers: list[Timer] = []
        self._ids = itertools.count(1)
        self._ns = itertools.count(NOON_NS + seed, 1_000_000_000)
        fs.mkdir(root)
        restored = restore(
            fs, root, self._journal_settings(seed), new_uuid=lambda: SERVER_UUID,
            clock=lambda: self.now,
        )  # fmt: skip
        self.restored, self.books = restored, restored.books
        self.journal, self.keys = restored.journal, restored.keys
        self._watch_books()
        self.checkpointer = Checkpointer(
            fs, Layout(root), self.books, self.journal, self.keys,
            CheckpointSettings(SAVE_SECONDS, history_bytes_max, 400),
            run_job=self._run_job, call_later=self._call_later,
            clock=lambda: self.now, clock_ns=lambda: NOON_NS,
        )  # fmt: skip
        self.checkpointer.adopt(restored.reaches, restored.server_reaches)
        self.committer = Committer(
            self.journal, self._committed,
            commit_bytes_max=4096, idle_mark_seconds=3600.0, die=self._die,
        )  # fmt: skip
        self.engine = Engine(
            self.books, self.keys,
            Admission(self.keys, lambda event: None, lambda: f"id-{seed}-{next(self._ids)}"),
            self.committer, EngineSettings(100, 1000, 30, 8 * MIB, 64 * MIB),
            note=self.checkpointer.note, clock_ns=lambda: next(self._ns),
        )  # fmt: skip
        if self.books.touched:
            self.checkpointer.note()

    def _journal_settings(self, seed: int) -> JournalSettings:
        return JournalSettings(
            SEGMENT_BYTES, CHUNK_BYTES, random.Random(seed).randbytes, lambda: next(self._ns)
        )

    def _watch_books(self) -> None:
        """Remember what the books are after each record, by its number."""
        self._remember()
        for name in ("batch", "control"):
            setattr(self.books, name, self._remembering(getattr(self.books, name)))

    def _remembering(self, change: Callable[..., None]) -> Callable[..., None]:
        def changed(*args: Any) -> None:
            change(*args)
            self._remember()

        return changed

    def _remember(self) -> None:
        self.images[self.books.server.applied_lsn] = image_bytes(self.books)

    # What the daemon's threads do.

    def commit(self) -> None:
        """The committer's thread: everything that waits becomes durable."""
        while self.committer.waiting:
            self.committer.turn()

    def mark(self) -> None:
        """A record that proves what is before it, as after a second of rest."""
        self.engine.probe(lambda error: None)
        self.commit()

    def pass_time(self, seconds: float) -> None:
        """Let time pass; what falls due is done."""
        self.now += seconds
        due = [timer for timer in self._timers if timer.at <= self.now]
        self._timers = [timer for timer in self._timers if timer.at > self.now]
        for timer in due:
            if not timer.cancelled:
                timer.call()

    def stop(self) -> None:
        """End in good order, without saving: the clean-stop record."""
        self.commit()
        self.checkpointer.stop()
        assert self.committer.stop(0.0)
        self.abandon()

    def abandon(self) -> None:
        """It was killed: only what the operating system does then."""
        self.journal.close()
        self.keys.close()

    def _committed(self, tickets: list[Ticket]) -> None:
        self.engine.committed(tickets)

    def _call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(self.now + seconds, call)
        self._timers.append(timer)
        return timer

    def _run_job(
        self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        """The saving thread. What comes in between, a hook of the file system does."""
        try:
            result, error = job(), None
        except (OSError, sqlite3.Error) as caught:
            result, error = None, caught
        done(result, error)

    def _die(self, code: int) -> NoReturn:
        raise Died(code)

    # What conversations do.

    def open(self, agent: Agent) -> Conversation:
        """A client connects, and reads its Welcome."""
        return Conversation(self, agent)

    def post(self, batch: Batch) -> None:
        """Events over HTTP; answered when they are durable."""
        self.account.submit(batch)

        def done(result: PostResult | None, error: Exception | None) -> None:
            if error is None:
                self.account.answer(batch)
            else:
                self.account.withdraw(batch)

        self.engine.post([(batch.project, bytes(batch.array), len(batch.events))], UID, done)


def image_bytes(books: Books) -> bytes:
    """Everything that the journal adds up to, as bytes to compare.

    Without ``retired_lsn``, which tells of the journal's files.
    """
    held = image(books)
    del held["server"]["retired_lsn"]
    return msgspec.msgpack.encode(held, order="deterministic")


class Conversation:
    """One client at the engine (core.producers.Link), sending what it has frozen."""

    def __init__(self, core: Core, agent: Agent) -> None:
        self._core = core
        self._agent = agent
        self._welcomes: list[Welcome] = []
        found = core.engine.open(
            hello(agent.name, agent.project), UID, self, self._welcomes.append
        )  # fmt: skip
        assert found is not None
        self.producer = found
        (welcome,) = self._welcomes
        core.account.acknowledge(agent.name, welcome.durable_seq)

    def send_rest(self) -> None:
        """Send what is frozen and was not sent; a batch without events is a skip."""
        for batch in self._agent.batches[self._agent.sent :]:
            if batch.events:
                self._publish(batch)
            else:
                self._skip(batch, SKIPPED_EVENTS)

    def _publish(self, batch: Batch) -> None:
        self._core.account.submit(batch)
        message = Publish(seq=batch.seq, count=len(batch.events), events=batch.array)
        self._core.engine.publish(self.producer, self, message, len(bytes(batch.array)))

    def _skip(self, batch: Batch, events: int) -> None:
        self._core.account.submit(batch, skipped=events)
        message = Skip(
            from_seq=batch.seq, through_seq=batch.seq, events=events, reason="announced"
        )  # fmt: skip
        self._core.engine.skip(self.producer, self, message, 128)

    def goodbye(self) -> None:
        """Everything is acknowledged: forget the mark."""
        self._core.account.leave(self._agent.name)
        self._core.engine.goodbye(self.producer)
        self._core.engine.detach(self.producer, self)

    def acknowledge(self, ack: Ack) -> None:
        self._core.account.acknowledge(self._agent.name, ack.through_seq)

    def nack(self, nack: Nack) -> None:
        self._core.account.go_back(self._agent.name, nack.seq - 1)

    def fence(self, message: str) -> None:
        raise AssertionError(message)

    def settled(self, count: int) -> None:
        """Nobody waits for room here."""


SKIPPED_EVENTS = 3
"""How many events each skip stands for."""


def come_back(core: Core, agents: Iterable[Agent]) -> dict[str, Conversation]:
    """Agents connect, and send what they have frozen and the daemon has not."""
    talks = {agent.name: core.open(agent) for agent in agents if not agent.gone}
    for talk in talks.values():
        talk.send_rest()
    core.commit()
    return talks
