"""A scripted daemon for tests of the client: a real socket, real messages, no disk.

It answers as tallymarkd does and keeps what it got, and can be told to be slow,
refuse, go away, stop reading, or be another program. Its attributes may be
changed at any time from the test's thread.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tallymark.errors import ProtocolError
from tallymark.protocol.connection import ServerConnection
from tallymark.protocol.messages import (
    Ack,
    ClientMessage,
    Goodbye,
    Health,
    HealthReport,
    Hello,
    Limits,
    Message,
    Nack,
    Publish,
    Query,
    Refused,
    Reply,
    Skip,
    Welcome,
)

DEADLINE_SECONDS = 60.0
"""Only a test that has failed waits so long."""

LIMITS = Limits(
    frame_bytes_max=1024 * 1024,
    event_bytes_max=64 * 1024,
    batch_events_max=4096,
    unacknowledged_bytes_max=8 * 1024 * 1024,
)


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Look again and again until the condition holds; fails after a deadline."""
    give_up = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.001)


class Producer:
    """What the fake has of one producer."""

    def __init__(self) -> None:
        self.durable_seq = 0
        self.kept_seq = 0
        self.batches: dict[int, Publish | Skip] = {}
        self.goodbye = False

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event, once, in order of seq."""
        return [
            event
            for _, batch in sorted(self.batches.items())
            if isinstance(batch, Publish)
            for event in msgspec.msgpack.decode(batch.events)
        ]

    @property
    def skips(self) -> list[Skip]:
        """Every Skip, in order."""
        return [batch for _, batch in sorted(self.batches.items()) if isinstance(batch, Skip)]


class FakeDaemon:
    """Listens at ``path`` from ``start`` to ``stop``; use it in a ``with`` block."""

    def __init__(self, path: Path, *, backlog: int = 64, server_id: str = "server-1") -> None:
        self.path = path
        self.changed = threading.Condition()
        self.producers: dict[str, Producer] = {}
        self.hellos: list[Hello] = []
        self.wrong: list[str] = []
        """What a client did that the protocol forbids."""
        self.limits = LIMITS
        self.server_id = server_id
        self.welcomes = True
        self.acks = True
        self.reading = threading.Event()
        self.reading.set()
        self.refusal: str | None = None
        self.nacks: list[tuple[str, float]] = []
        """For the next batches, one after the other: code and retry_after_seconds."""
        self.greeting_nack: tuple[str, float] | None = None
        self.cuts_before_ack = 0
        """How many times the connection is cut after a batch is kept, before its Ack."""
        self.last_word: Message | None = None
        """Said, with the connection closed, when events come; the rest is not read."""
        self.answer: Callable[[Publish], Ack | None] = lambda publish: None
        self.first_words: bytes | None = None
        """Bytes of another program, sent on accept; empty closes at once."""
        self.health = HealthReport(id=0, status="ok")
        self.replies: dict[str, list[bytes]] = {}
        self.reply_error = ""
        self.knows_all_questions = True
        self._backlog = backlog
        self._connections: set[_Conversation] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None

    def __enter__(self) -> FakeDaemon:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Bind and listen."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen(self._backlog)
        self._listener = listener
        self._spawn(lambda: self._accept(listener))

    def stop(self) -> None:
        """Go away as a killed daemon does, but for the socket's file."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Closing alone does not end an accept in another thread.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self.path.unlink()
        self.reading.set()
        self.cut()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)
        self._threads.clear()

    def cut(self) -> None:
        """Close every connection."""
        with self.changed:
            for conversation in list(self._connections):
                conversation.close()
            self.changed.notify_all()

    def say_goodbye(self) -> None:
        """Tell every client that the daemon stops."""
        for conversation in list(self._connections):
            conversation.send(Goodbye())

    def resume_acks(self) -> None:
        """Acknowledge what was held back, and what comes."""
        self.acks = True
        for conversation in list(self._connections):
            conversation.acknowledge()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event of every producer."""
        return [event for producer in self.producers.values() for event in producer.events]

    @property
    def producer(self) -> Producer:
        """The only producer there was."""
        (producer,) = self.producers.values()
        return producer

    def wait(self, condition: Callable[[], object], what: str = "it") -> None:
        """Until the condition holds; fails after a deadline."""
        with self.changed:
            assert self.changed.wait_for(lambda: bool(condition()), DEADLINE_SECONDS), what

    def _spawn(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="fake-daemon", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            conversation = _Conversation(self, connection)
            with self.changed:
                self._connections.add(conversation)
            self._spawn(conversation.run)

    def forget(self, conversation: _Conversation) -> None:
        """A conversation is over."""
        with self.changed:
            self._connections.discard(conversation)
            self.changed.notify_all()


class _Conversation:
    def __init__(self, daemon: FakeDaemon, connection: socket.socket) -> None:
        self._daemon = daemon
        self._socket = connection
        self._connection = ServerConnection()
        self._producer: Producer | None = None
        self._was_cut = False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def send(self, message: Message) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendall(self._connection.send(message))

    def run(self) -> None:
        daemon = self._daemon
        try:
            if daemon.first_words is not None:
                self._socket.sendall(daemon.first_words)
                return
            while True:
                daemon.reading.wait()
                data = self._socket.recv(256 * 1024)
                if not data:
                    return
                for message in self._connection.receive(data):
                    with daemon.changed:
                        self._take(message)
                        daemon.changed.notify_all()
                    if self._was_cut:
                        return
                    if daemon.last_word is not None and isinstance(message, Publish):
                        self.send(daemon.last_word)
                        return
        except ProtocolError as error:
            daemon.wrong.append(str(error))
        except OSError:
            return
        finally:
            self._socket.close()
            daemon.forget(self)

    def _take(self, message: ClientMessage) -> None:
        daemon = self._daemon
        match message:
            case Hello():
                self._greet(message)
            case Publish() | Skip():
                self._keep(message)
            case Goodbye():
                if self._producer is not None:
                    self._producer.goodbye = True
            case Health():
                self.send(msgspec.structs.replace(daemon.health, id=message.id))
            case Query():
                self._answer(message)

    def _greet(self, hello: Hello) -> None:
        daemon = self._daemon
        daemon.hellos.append(hello)
        if daemon.refusal is not None:
            self.send(Refused(code=daemon.refusal, message="not you"))
        elif daemon.greeting_nack is not None:
            code, seconds = daemon.greeting_nack
            daemon.greeting_nack = None
            self.send(Nack(code=code, seq=0, message="not yet", retry_after_seconds=seconds))
        elif daemon.welcomes:
            if hello.producer:
                self._producer = daemon.producers.setdefault(hello.producer, Producer())
            self.send(
                Welcome(
                    protocol=1,
                    server_id=daemon.server_id,
                    durable_seq=self._producer.durable_seq if self._producer else 0,
                    limits=daemon.limits,
                    version="0.0.9",
                )
            )

    def _keep(self, batch: Publish | Skip) -> None:
        daemon, producer = self._daemon, self._producer
        assert producer is not None
        seq = batch.seq if isinstance(batch, Publish) else batch.from_seq
        last = batch.seq if isinstance(batch, Publish) else batch.through_seq
        if last > producer.durable_seq and daemon.nacks:
            code, seconds = daemon.nacks.pop(0)
            self.send(Nack(code=code, seq=seq, message="later", retry_after_seconds=seconds))
            return
        if seq > producer.kept_seq + 1:
            gap = producer.kept_seq + 1
            self.send(Nack(code="gap", seq=gap, message="gap", retry_after_seconds=0.01))
            return
        if producer.batches.setdefault(seq, batch) != batch:
            daemon.wrong.append(f"seq {seq} changed its content")
        producer.kept_seq = max(producer.kept_seq, last)
        if not daemon.acks:
            return
        producer.durable_seq = max(producer.durable_seq, last)
        if daemon.cuts_before_ack:
            daemon.cuts_before_ack -= 1
            self._was_cut = True
            return
        told = daemon.answer(batch) if isinstance(batch, Publish) else None
        self.send(told or Ack(through_seq=producer.durable_seq, stored=1))

    def acknowledge(self) -> None:
        """Everything that was kept."""
        producer = self._producer
        if producer is not None and producer.batches:
            producer.durable_seq = producer.kept_seq
            self.send(Ack(through_seq=producer.durable_seq))

    def _answer(self, query: Query) -> None:
        if not self._daemon.knows_all_questions:
            message = "cannot understand a message of the client: Invalid enum value"
            self.send(Refused(code="protocol_error", message=message))
            return
        pieces = self._daemon.replies.get(query.what, [b""])
        for number, piece in enumerate(pieces, 1):
            more = number < len(pieces)
            self.send(Reply(id=query.id, body=piece, more=more, error=self._daemon.reply_error))


def main() -> None:
    """Run alone, at the path given: for measurements across processes."""
    import sys

    daemon = FakeDaemon(Path(sys.argv[1]))
    daemon.start()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
