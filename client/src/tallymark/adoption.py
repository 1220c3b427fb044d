"""Delivery of spools whose owners are gone, under their own producer and seq.

The next client of the user does it in a thread of its own, and so does a daemon of
the same uid, over its own socket. The seqs are the owner's, so nothing is counted
twice: neither what the owner had delivered, nor what two adopters try one after the
other, nor what was acknowledged without anybody having read that.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tallymark.conversation import Conversation
from tallymark.errors import (
    ConnectError,
    DamagedError,
    NewerFormatError,
    ProtocolError,
    TallymarkError,
)
from tallymark.fs import FileSystem
from tallymark.protocol.messages import Ack, Goodbye, Nack, Refused, ServerMessage, Welcome
from tallymark.protocol.outbox import FrozenBatch, Outbox
from tallymark.spool import Spool, SpoolFull, spool_paths
from tallymark.transport import Poller, Transport

log = logging.getLogger("tallymark")

DAMAGED_SUFFIX = ".damaged"
"""A spool whose header does not verify: nobody can tell whose it was."""

SILENCE_SECONDS_MAX = 10.0
"""A daemon that says nothing for so long is left alone until the next time."""

ANY_SEQ = 2**62
"""How many batches an unread spool may hold: no bound."""


class Closes(Protocol):
    """What has a descriptor."""

    def close(self) -> None: ...


class NotNow(Exception):
    """This spool cannot be delivered now; the message says why."""


@dataclass(slots=True)
class Adopted:
    """What came of a round: spools delivered, events in them, those of these that the
    daemon rejected, by its reason, and each spool that was left, with why."""

    spools: int = 0
    events: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    left: dict[Path, str] = field(default_factory=dict)


class Adopter:
    """Delivers every spool of a directory that has no owner, one after the other.

    What another user owns, another daemon's, and what cannot be delivered now is
    left as it is, which is logged once for each spool and reason. Not thread-safe,
    but for ``forget``.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        paths: Sequence[Path],
        *,
        client: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._paths = paths
        self._client = client
        self._clock = clock
        self._delivery: _Delivery | None = None
        self._told: dict[Path, str] = {}

    def run(self, stop: Callable[[], bool] = lambda: False) -> Adopted:
        """One round. Blocks; for a thread of its own.

        Ends early once ``stop`` says so, or when no daemon can be reached. Never
        raises on account of a spool; ``OSError`` when the directory cannot be read.
        """
        adopted = Adopted()
        for path in spool_paths(self._fs, self._directory):
            if stop():
                break
            try:
                self._deliver(path, stop, adopted)
            except ConnectError as error:
                adopted.left[path] = str(error)
                log.debug("cannot deliver %s: %s", path, error)
                break
            except (NotNow, TallymarkError, OSError, UnicodeError) as error:
                self._leave(path, str(error), adopted)
        else:
            self._told = dict(adopted.left)
        return adopted

    def _deliver(self, path: Path, stop: Callable[[], bool], adopted: Adopted) -> None:
        spool = _adopt(self._fs, path)
        if spool is None:
            return
        self._delivery = _Delivery(spool, self._client, stop, self._clock)
        try:
            adopted.events += self._delivery.run(self._paths)
            adopted.rejected += self._delivery.rejected
            adopted.spools += 1
        finally:
            self._delivery = None

    def _leave(self, path: Path, why: str, adopted: Adopted) -> None:
        """A daemon looks every minute, and would say the same every minute."""
        adopted.left[path] = why
        if self._told.get(path) != why:
            self._told[path] = why
            log.info("cannot deliver %s: %s; it is kept for later", path, why)

    def forget(self) -> None:
        """In a forked child: close the descriptors that are the parent's."""
        delivery = self._delivery
        if delivery is not None:
            delivery.forget()


def _adopt(fs: FileSystem, path: Path) -> Spool | None:
    try:
        return Spool.adopt(fs, path)
    except NewerFormatError:
        raise
    except DamagedError as error:
        kept = path.with_suffix(DAMAGED_SUFFIX)
        fs.replace(path, kept)
        fs.sync_dir(path.parent)
        log.warning("cannot use %s: %s; what it held is lost, the file is kept as %s",
                    path, error, kept)  # fmt: skip
        return None


class _Delivery:
    """One spool, one conversation."""

    def __init__(
        self, spool: Spool, client: str, stop: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        self._spool = spool
        self._client = client
        self._stop = stop
        self._clock = clock
        self._outbox = Outbox(next_seq=ANY_SEQ)
        self._open: list[Closes] = [spool]
        self._welcomed = False
        self._events = 0
        self.rejected: Counter[str] = Counter()

    def forget(self) -> None:
        """In a forked child: close what is not locked; that the fork has closed."""
        self._spool.forget()
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        while self._open:
            self._open.pop().close()

    def run(self, paths: Sequence[Path]) -> int:
        """Deliver all of it, and remove it; gives the number of events.

        The spool is let go of, whatever happens. Raises ``NotNow``, ``ConnectError``,
        ``ProtocolError`` and ``OSError``.
        """
        try:
            poller = Poller()
            self._open.append(poller)
            transport = Transport.connect(self._meant(paths))
            self._open.append(transport)
            poller.watch(transport)
            self._talk = Conversation(transport, self._clock() + SILENCE_SECONDS_MAX)
            self._converse(poller)
        finally:
            self.close()
        return self._events

    def _meant(self, paths: Sequence[Path]) -> Sequence[Path]:
        """A spool that has spoken to no daemon is only for one where it looked for it."""
        header = self._spool.header
        if header.server_id:
            return paths
        meant = [path for path in paths if str(path) in header.sockets]
        if not meant:
            raise NotNow(f"it is for a daemon at {' or '.join(header.sockets)}")
        return meant

    def _converse(self, poller: Poller) -> None:
        try:
            self._exchange(poller)
        except (BrokenPipeError, ConnectionResetError):
            # The daemon's last word may still have to be read; it says more.
            while said := self._talk.receive():
                for message in said:
                    self._handle(message)
            raise
        # In this order: a mark that is forgotten cannot keep its spool from counting again.
        self._spool.remove()
        self._talk.say_goodbye()

    def _exchange(self, poller: Poller) -> None:
        header = self._spool.header
        self._talk.begin(producer=header.producer, project=header.project, client=self._client)
        heard = self._clock()
        while not self._done:
            left = heard + SILENCE_SECONDS_MAX - self._clock()
            if self._stop() or left <= 0:
                raise NotNow("stopped" if left > 0 else "the daemon does not answer")
            poller.wait(min(left, 1.0))
            self._talk.transport.resume()
            said = self._talk.receive()
            if said is None:
                raise NotNow("the daemon closed the connection")
            for message in said:
                heard = self._clock()
                self._handle(message)
            if self._welcomed:
                self._send()

    @property
    def _done(self) -> bool:
        return self._welcomed and not self._spool.unread and not len(self._outbox)

    def _handle(self, message: ServerMessage) -> None:
        match message:
            case Welcome():
                self._welcome(message)
            case Ack():
                self._outbox.acknowledge(message)
                self.rejected.update(message.reasons)
            case Nack():
                raise NotNow(f"{message.message} ({message.code})")
            case Refused():
                raise NotNow(f"the daemon refused it: {message.message} ({message.code})")
            case Goodbye():
                raise NotNow("the daemon is stopping")
            case _:
                raise ProtocolError("cannot take an answer to a question nobody asked")

    def _welcome(self, welcome: Welcome) -> None:
        first = self._next()
        bound_to = self._spool.header.server_id
        if bound_to not in ("", welcome.server_id):
            raise NotNow(f"it belongs to the daemon {bound_to}")
        try:
            self._spool.bind(welcome.server_id)
        except SpoolFull as error:
            # Delivering it is what makes room again.
            log.debug("cannot bind %s: %s", self._spool.path, error)
        self._talk.agree(welcome.limits)
        self._outbox.resume(welcome.durable_seq)
        first_seq = self._spool.header.first_seq
        if first is not None and first_seq > welcome.durable_seq + 1:
            self._talk.step_over(welcome.durable_seq + 1, first_seq - 1)
        self._take(first)
        self._welcomed = True

    def _send(self) -> None:
        while self._spool.unread and self._outbox.pending_bytes < self._talk.window_bytes:
            self._take(self._next())
        while not self._talk.transport.unsent:
            batches = self._outbox.take(self._talk.window_bytes)
            if not batches:
                return
            for batch in batches:
                self._talk.transport.send(batch.frame)

    def _next(self) -> FrozenBatch | None:
        batch = self._spool.next_batch()
        if batch is not None:
            self._events += batch.events
        return batch

    def _take(self, batch: FrozenBatch | None) -> None:
        if batch is not None and batch.seq > self._outbox.acknowledged_seq:
            self._outbox.load(batch)
