"""A short conversation of its own, for the thread that has a question."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tallymark.errors import (
    ConnectError,
    DeliveryError,
    ProtocolError,
    RefusedError,
    ReplyTimeout,
)
from tallymark.protocol.connection import ClientConnection
from tallymark.protocol.messages import (
    Goodbye,
    Health,
    HealthReport,
    Nack,
    Query,
    Refused,
    Reply,
    ServerMessage,
    Welcome,
)
from tallymark.transport.link import Transport
from tallymark.transport.poller import Poller
from tallymark.transport.unreachable import NOT_TALLYMARK, cannot_reach, silent, turned_away

CONNECT_RETRY_SECONDS: Final = 0.01

Question = Query | Health
Answer = Reply | HealthReport


def ask(
    paths: Sequence[Path],
    questions: Sequence[Question],
    timeout_seconds: float,
    *,
    client: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> list[Answer]:
    """Put questions to the daemon in a conversation of their own; answers in order.

    The pieces of a Reply come joined into one. ``timeout_seconds`` is for the
    whole. Blocks the calling thread, and uses nothing shared.

    Raises ``ConnectError`` when no tallymarkd can be talked to, ``RefusedError``
    when it refuses, ``ReplyTimeout`` when it answers the connection and not
    the question.
    """
    conversation = Asking(paths, questions, timeout_seconds, clock)
    try:
        return conversation.run(client)
    finally:
        conversation.close()


class Asking:
    """One such conversation; it stays open after its answers, until ``close``."""

    def __init__(
        self,
        paths: Sequence[Path],
        questions: Sequence[Question],
        timeout_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._questions = questions
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._deadline = clock() + timeout_seconds
        self._connection = ClientConnection()
        self._bodies: dict[int, list[bytes]] = {}
        self._answers: dict[int, Answer] = {}
        self._asked = {question.id for question in questions}
        self._poller = Poller()
        try:
            self._transport = self._connect(paths)
        except BaseException:
            self._poller.close()
            raise

    def _connect(self, paths: Sequence[Path]) -> Transport:
        while True:
            try:
                return Transport.connect(paths)
            except ConnectError as error:
                cause = error.__cause__
                full = isinstance(cause, OSError) and cause.errno == errno.EAGAIN
                if not full or self._clock() + CONNECT_RETRY_SECONDS >= self._deadline:
                    raise
                self._poller.wait(CONNECT_RETRY_SECONDS)

    def close(self) -> None:
        """Hang up."""
        self._transport.close()
        self._poller.close()

    def run(self, client: str) -> list[Answer]:
        """The answers. Raises as ``ask`` does."""
        self._poller.watch(self._transport)
        try:
            # Another program may have hung up already; what it said is still to be read.
            with contextlib.suppress(BrokenPipeError):
                self._transport.send(self._connection.start(client=client))
            while not self._answers.keys() >= self._asked:
                self._wait()
                self._take()
        except ProtocolError as error:
            raise self._foreign(str(error)) from error
        except OSError as error:
            raise self._gone() from error
        return [self._answers[question.id] for question in self._questions]

    @property
    def path(self) -> Path:
        """The socket's."""
        return self._transport.path

    @property
    def version(self) -> str:
        """The daemon's, as its Welcome told it; empty before."""
        welcome = self._connection.welcome
        return "" if welcome is None else welcome.version

    def goes_on(self) -> bool:
        """Whether the daemon has not hung up since its answers. Never waits."""
        try:
            data = self._transport.receive()
            return data is None or (
                bool(data)
                and not any(isinstance(each, Goodbye) for each in self._connection.receive(data))
            )
        except (OSError, ProtocolError):
            return False

    def _wait(self) -> None:
        left = self._deadline - self._clock()
        if left > 0 and self._poller.wait(left):
            return
        if self._connection.welcome is None:
            raise silent(self._transport.path, self._timeout_seconds)
        raise ReplyTimeout(
            f"cannot get an answer from tallymarkd at {self._transport.path}: "
            f"connected, but nothing within {self._timeout_seconds:g} s; it is stopped or busy"
        )

    def _take(self) -> None:
        self._transport.resume()
        data = self._transport.receive()
        if data is None:
            return
        if not data:
            raise self._gone()
        if self._connection.welcome is None and (error := turned_away(self.path, data)):
            raise error
        for message in self._connection.receive(data):
            self._handle(message)

    def _handle(self, message: ServerMessage) -> None:
        match message:
            case Welcome():
                for question in self._questions:
                    self._transport.send(self._connection.send(question))
            case Reply():
                self._add(message)
            case HealthReport():
                self._answers[message.id] = message
            case Refused():
                raise RefusedError(
                    message.code,
                    f"tallymarkd at {self._transport.path} refused the conversation: "
                    f"{message.message} ({message.code})",
                )
            case Nack():
                raise cannot_reach(
                    self._transport.path, f"it is not ready: {message.message} ({message.code})"
                )
            case Goodbye():
                raise cannot_reach(self._transport.path, "it is stopping")

    def _add(self, reply: Reply) -> None:
        pieces = self._bodies.setdefault(reply.id, [])
        pieces.append(reply.body)
        if not reply.more:
            self._answers[reply.id] = Reply(id=reply.id, body=b"".join(pieces), error=reply.error)

    def _foreign(self, cause: str) -> ConnectError:
        return cannot_reach(self._transport.path, f"{NOT_TALLYMARK}: {cause}")

    def _gone(self) -> DeliveryError:
        if self._connection.welcome is None:
            return cannot_reach(
                self._transport.path,
                f"it closed the connection without a Welcome; it is stopping, or {NOT_TALLYMARK}",
            )
        return DeliveryError(
            f"cannot get an answer from tallymarkd at {self._transport.path}: "
            "it closed the connection; it is stopping"
        )
