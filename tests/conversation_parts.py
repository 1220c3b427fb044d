"""Parts of conversations for tests: a fake transport, answers, frames as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tallymark.protocol.connection import ClientConnection
from tallymark.protocol.framing import PREFACE, frame
from tallymark.protocol.messages import Message, ServerMessage, encode
from tallymarkd.server.desk import Condition, Desk, FramePool, ServerSettings
from tests.daemon_parts import MIB, PRODUCERS, Bench, hello


class FakeTransport(asyncio.Transport):
    """What a conversation writes, and whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.reading = True
        self.closed = False
        self.aborted = False
        self.buffered_bytes = 0

    def write(self, data: Any) -> None:
        assert not self.closed, "written after the close"
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading and not self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.buffered_bytes


class FakeAnswers:
    """Answers to questions (server.desk.Answers)."""

    def __init__(self) -> None:
        self.states: dict[str, bytes] = {}
        self.condition = Condition("ok", [], {"version": "0"})
        self.waiting: list[Callable[[Condition], None]] = []
        self.holds: list[tuple[int, Callable[[bytes, str], None]]] = []
        self.released: list[int] = []

    def projects(self) -> bytes:
        return b'["every project"]'

    def state(self, project: str) -> bytes | None:
        return self.states.get(project)

    def health(self, deep: bool, done: Callable[[Condition], None]) -> None:
        if deep:
            self.waiting.append(done)
        else:
            done(self.condition)

    def hold(self, uid: int, done: Callable[[bytes, str], None]) -> Callable[[], None]:
        self.holds.append((uid, done))
        return lambda: self.released.append(uid)


def make_desk(
    bench: Bench,
    answers: FakeAnswers | None = None,
    *,
    frame_pool_bytes_max: int = 16 * MIB,
    **limits: Any,
) -> Desk:
    """A desk over the bench's engine."""
    settings = ServerSettings(
        **{
            "connections_max": 1024,
            "connections_per_user_max": 256,
            "unacknowledged_bytes_max": 8 * MIB,
            "first_byte_timeout_seconds": 3600.0,
            "frame_timeout_seconds": 3600.0,
            **limits,
        }
    )
    pool = FramePool(frame_pool_bytes_max)
    return Desk(bench.engine, answers or FakeAnswers(), settings, pool)


def wire(*messages: Message) -> bytes:
    """Messages as frames."""
    return b"".join(frame(encode(message)) for message in messages)


def opening(producer: str = PRODUCERS[0], project: str = "spotter", **fields: Any) -> bytes:
    """The first bytes of a client."""
    return PREFACE + wire(hello(producer, project, **fields))


def messages_in(data: bytes | bytearray) -> list[ServerMessage]:
    """What a client reads from these bytes."""
    return ClientConnection().receive(bytes(data))
