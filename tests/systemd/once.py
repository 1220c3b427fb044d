"""Conversations that never try again: each says what it has to say, and how it ended.

``python -m tests.systemd.once SOCKET WORKERS NAME FOR``. Some speak frames, with a few
batches or for as long as they are let; the others HTTP. Each worker has one conversation
after the other while FOR is ``ever``; for ``one`` each has a single one, as long as it
is let. It tells ``conversations`` that have ended and how many events are ``acked``; at
its end ``acked``, the ids that were acknowledged, and ``broken``: every
conversation that ended neither in an acknowledgement of all it sent nor in a Goodbye,
a refused connection among them.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tallymark.events import RunEnd
from tallymark.ids import uuid7
from tallymark.protocol.framing import PREFACE, FrameDecoder, frame
from tallymark.protocol.messages import (
    PROTOCOL,
    Ack,
    Goodbye,
    Hello,
    Message,
    Publish,
    Welcome,
    decode_server,
    encode,
)
from tests.systemd.told import asked_to_end, tell

PATIENCE_SECONDS = 30.0
"""Longest wait for anything: a daemon that starts under load needs a while."""

EVENTS = 3
"""Of a batch."""

BATCHES_MAX = 4
"""Of a conversation that ends by itself."""

AHEAD = 2
"""Batches of a long conversation on their way."""

UNAVAILABLE = 503


class Talk:
    """What all workers have said and heard."""

    def __init__(self, path: Path, name: str, once: bool) -> None:
        self.path = path
        self.once = once
        self.stop = threading.Event()
        self.acked: list[str] = []
        self.ends: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self._name = name
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def events(self) -> list[RunEnd]:
        """New ones."""
        ids = [f"{self._name}-{next(self._numbers)}" for _ in range(EVENTS)]
        return [RunEnd(event_id=each, agent_name="once", input_tokens=1) for each in ids]

    def converse(self, kind: str) -> None:
        """One conversation after the other."""
        for number in itertools.count():
            if self.stop.is_set():
                return
            try:
                if kind == "http":
                    ended = self._post()
                else:
                    ended = _Framed(self, number % BATCHES_MAX + 1, kind == "long").run()
            except (OSError, http.client.HTTPException) as error:
                ended = f"{kind}: {type(error).__name__} {error}"
                self.stop.wait(0.01)
            with self._lock:
                ends = self.ends if ended in ("acknowledged", "goodbye") else self.broken
                ends[ended] += 1
            if self.once:
                return

    def connected(self) -> socket.socket:
        """A connection. Raises ``OSError``."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(PATIENCE_SECONDS)
            sock.connect(str(self.path))
        except BaseException:
            sock.close()
            raise
        return sock

    def _post(self) -> str:
        events = self.events()
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.connected()
        began = time.monotonic()
        try:
            # What was said before it hung up is still to be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(
                    "POST", "/v1/events?project=http",
                    b"".join(msgspec.json.encode(each) + b"\n" for each in events),
                    {"Content-Type": "application/x-ndjson", "Connection": "close"},
                )  # fmt: skip
            sent = time.monotonic() - began
            answer = http.client.HTTPResponse(connection.sock, method="POST")
            with answer:
                answer.begin()
                body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            return f"http: {type(error).__name__} {error}, sent after {sent:.3f} s"
        finally:
            connection.close()
        if answer.status // 100 == 2:
            self.acked += [each.event_id for each in events]
            return "acknowledged"
        if answer.status == UNAVAILABLE and answer.getheader("Retry-After"):
            return "goodbye"
        return f"http: answered {answer.status} {body!r}"


class _Framed:
    """One conversation in frames."""

    def __init__(self, talk: Talk, batches: int, long: bool) -> None:
        self._talk = talk
        self._left = batches
        self._long = long
        self._seq = 0
        self._sent: dict[int, list[str]] = {}
        self._open = True

    def run(self) -> str:
        """How it ended. Raises ``OSError``."""
        with self._talk.connected() as sock:
            self._send(sock, PREFACE + frame(encode(Hello(
                protocol_min=PROTOCOL, protocol_max=PROTOCOL, producer=str(uuid7()),
                project="frames",
            ))))  # fmt: skip
            self._publish(sock)
            for message in self._heard(sock):
                if isinstance(message, Goodbye):
                    return "goodbye"
                if isinstance(message, Ack):
                    for seq in [seq for seq in self._sent if seq <= message.through_seq]:
                        self._talk.acked += self._sent.pop(seq)
                elif not isinstance(message, Welcome):
                    return f"frames: {message}"
                self._publish(sock)
                if not self._sent and not self._left:
                    self._send(sock, frame(encode(Goodbye())))
                    return "acknowledged"
        return f"frames: closed without a word, {len(self._sent)} batches on their way"

    def _publish(self, sock: socket.socket) -> None:
        if self._long and self._talk.stop.is_set():
            self._left = 0
        while self._left and len(self._sent) < AHEAD:
            events = self._talk.events()
            self._left -= not self._long
            self._seq += 1
            raw = msgspec.Raw(msgspec.msgpack.encode(events))
            self._sent[self._seq] = [each.event_id for each in events]
            self._send(sock, frame(encode(Publish(seq=self._seq, count=EVENTS, events=raw))))

    def _send(self, sock: socket.socket, data: bytes) -> None:
        """What was said before it hung up is still to be read."""
        try:
            if self._open:
                sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self._open = False

    def _heard(self, sock: socket.socket) -> Iterator[Message]:
        frames = FrameDecoder()
        while data := sock.recv(65536):
            for payload in frames.feed(data):
                yield decode_server(payload)


def main() -> None:
    """Have them converse until told to end."""
    path, workers, name, kept = sys.argv[1:]
    talk = Talk(Path(path), name, kept == "one")
    kinds = itertools.cycle(("long",) if talk.once else ("long", "frames", "frames", "http"))
    threads = [
        threading.Thread(target=talk.converse, args=(kind,))
        for kind, _ in zip(kinds, range(int(workers)), strict=False)
    ]
    for thread in threads:
        thread.start()
    while not asked_to_end(0.05):
        ended = talk.ends.total() + talk.broken.total()
        tell(conversations=ended, acked=len(talk.acked))
    talk.stop.set()
    for thread in threads:
        thread.join()
    tell(acked=talk.acked, ends=talk.ends, broken=talk.broken)


if __name__ == "__main__":
    main()
