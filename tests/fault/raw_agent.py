"""An agent that speaks the protocol itself and keeps account of what it was promised.

``python raw_agent.py NAME PROJECT SOCKET ACCOUNT AHEAD PACE_SECONDS`` sends batches until
its standard input ends, then waits until all are acknowledged. ACCOUNT is a file of
three numbers (``read_account``): events sent, written before their bytes go out; events
acknowledged, written after an Ack was read; times it was told that the disk is full.

Event n of an agent is known by its id, its key and its tokens, so that its two numbers
are the entire account. Every batch but the first ends with the first event of the batch
before under another id: its key makes it a duplicate.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import sys
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tallymark.events import RunEnd
from tallymark.ids import uuid7
from tallymark.protocol.framing import PREFACE, FrameDecoder, frame
from tallymark.protocol.messages import (
    PROTOCOL,
    Ack,
    Hello,
    Message,
    Nack,
    Publish,
    Refused,
    Welcome,
    decode_server,
    encode,
)

PATH = Path(__file__)
BATCH_EVENTS = 4
"""New events of a batch; the repeated one comes on top."""

RETRY_SECONDS_MAX = 0.1
"""Longest pause after a Nack: a test waits for it."""

CONNECT_PAUSE_SECONDS = 0.01
SEND_SECONDS_MAX = 10.0

_account = struct.Struct("<QQQ")


def event_id(name: str, number: int) -> str:
    """The id of an agent's n-th event; ``number_of`` is its reverse."""
    return f"{name}-{number}"


def number_of(found: str) -> tuple[str, int]:
    """The agent and the number in an event's id. Raises ``ValueError`` for any other."""
    name, _, number = found.rpartition("-")
    return name, int(number)


def tokens_of(name: str, number: int) -> int:
    """The tokens of an agent's n-th event: hardly any two sums of them are the same."""
    return zlib.crc32(event_id(name, number).encode()) % 1_000_000 + 1


@dataclass
class _Batch:
    seq: int
    through: int
    data: bytes


class RawAgent:
    """One producer on one connection, which it makes again when it breaks."""

    def __init__(self, name: str, project: str, path: Path, *, fill_bytes: int = 0) -> None:
        self.name = name
        self.project = project
        self.path = path
        self.sent = 0
        self.acked = 0
        self.disk_full = 0
        self._fill = "x" * fill_bytes
        self._producer = str(uuid7())
        self._batches: deque[_Batch] = deque()
        self._seq = 0
        self._next = 1
        self._not_before = 0.0
        self._sock: socket.socket | None = None
        self._frames = FrameDecoder()
        self._welcome = False

    @property
    def ahead(self) -> int:
        """Batches that are not acknowledged."""
        return len(self._batches)

    def make(self) -> None:
        """One more batch. From here on its events may be anywhere."""
        events = [self._event(self.sent + n, "") for n in range(1, BATCH_EVENTS + 1)]
        if self.sent:
            events.append(self._event(self.sent - BATCH_EVENTS + 1, "-again"))
        self._seq += 1
        raw = msgspec.Raw(msgspec.msgpack.encode(events))
        self.sent += BATCH_EVENTS
        message = Publish(seq=self._seq, count=len(events), events=raw)
        self._batches.append(_Batch(self._seq, self.sent, frame(encode(message))))

    def _event(self, number: int, suffix: str) -> RunEnd:
        return RunEnd(
            event_id=event_id(self.name, number) + suffix,
            dedupe_key="key:" + event_id(self.name, number),
            agent_name=self.name,
            input_tokens=tokens_of(self.name, number),
            attrs={"fill": self._fill} if self._fill else {},
        )

    def pump(self, seconds: float) -> None:
        """Connect, send what may go, take what comes; up to ``seconds`` when nothing does."""
        try:
            if self._sock is None:
                self._connect()
            self._send()
            self._receive(seconds)
        except OSError:
            self.disconnect()
            select.select([], [], [], CONNECT_PAUSE_SECONDS)

    def disconnect(self) -> None:
        """Leave, whatever is on its way."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(SEND_SECONDS_MAX)
            sock.connect(str(self.path))
            hello = Hello(
                protocol_min=PROTOCOL, protocol_max=PROTOCOL,
                producer=self._producer, project=self.project,
            )  # fmt: skip
            sock.sendall(PREFACE + frame(encode(hello)))
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        self._frames = FrameDecoder()
        self._welcome = False

    def _send(self) -> None:
        assert self._sock is not None
        if not self._welcome or time.monotonic() < self._not_before:
            return
        for batch in self._batches:
            if batch.seq >= self._next:
                self._sock.sendall(batch.data)
                self._next = batch.seq + 1

    def _receive(self, seconds: float) -> None:
        assert self._sock is not None
        if not select.select([self._sock], [], [], seconds)[0]:
            return
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionResetError
        for payload in self._frames.feed(data):
            self._take(decode_server(payload))

    def _take(self, message: Message) -> None:
        if isinstance(message, Welcome):
            self._welcome = True
            self._acknowledged(message.durable_seq)
            self._next = message.durable_seq + 1
        elif isinstance(message, Ack):
            self._acknowledged(message.through_seq)
        elif isinstance(message, Nack):
            self.disk_full += message.code == "disk_full"
            self._next = min(self._next, message.seq)
            pause = min(message.retry_after_seconds, RETRY_SECONDS_MAX)
            self._not_before = time.monotonic() + pause
        elif isinstance(message, Refused):
            raise SystemExit(f"{self.name} is refused: {message.message}")

    def _acknowledged(self, through_seq: int) -> None:
        assert through_seq <= self._seq, "the daemon acknowledges what was never sent"
        while self._batches and self._batches[0].seq <= through_seq:
            self.acked = self._batches.popleft().through


def read_account(path: Path) -> tuple[int, int, int]:
    """Events sent, events acknowledged, Nacks for a full disk; by now."""
    return _account.unpack(path.read_bytes()) if path.exists() else (0, 0, 0)


@contextmanager
def _kept_account(path: Path) -> Iterator[mmap.mmap]:
    """The file in memory: what is written there outlives this process at once."""
    path.with_suffix(".new").write_bytes(bytes(_account.size))
    with path.with_suffix(".new").open("r+b") as file:
        os.replace(path.with_suffix(".new"), path)
        with mmap.mmap(file.fileno(), _account.size) as memory:
            yield memory


def main() -> None:
    """Send until told to stop, then until all is acknowledged."""
    name, project, path, account, ahead, pace = sys.argv[1:]
    agent = RawAgent(name, project, Path(path))
    stopping = False
    next_batch = 0.0
    with _kept_account(Path(account)) as memory:
        while not stopping or agent.ahead:
            stopping = stopping or bool(select.select([0], [], [], 0)[0])
            if not stopping and agent.ahead < int(ahead) and time.monotonic() >= next_batch:
                next_batch = time.monotonic() + float(pace)
                agent.make()
            _account.pack_into(memory, 0, agent.sent, agent.acked, agent.disk_full)
            agent.pump(float(pace))
        _account.pack_into(memory, 0, agent.sent, agent.acked, agent.disk_full)


if __name__ == "__main__":
    main()
