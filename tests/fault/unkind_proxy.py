"""Between a client and the daemon: acknowledgements get lost, late or doubled, connections break.

One thread, one connection after the other as they come; what happens to which of them
is decided by a seed.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import select
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tallymark.errors import ProtocolError
from tallymark.protocol import messages
from tallymark.protocol.framing import FrameDecoder, frame
from tallymark.protocol.messages import Ack

DELAY_SECONDS_MAX = 0.03


@dataclass
class Odds:
    """How likely it is for an Ack, and for a piece of bytes to be the last."""

    drop: float = 0.2
    delay: float = 0.2
    double: float = 0.2
    cut: float = 0.05


@dataclass(eq=False)
class Pair:
    """One connection through the proxy."""

    client: socket.socket
    daemon: socket.socket
    decoder: FrameDecoder = field(default_factory=FrameDecoder)
    late: list[tuple[float, int, bytes]] = field(default_factory=list)

    def close(self) -> None:
        self.client.close()
        self.daemon.close()


class UnkindProxy:
    """Listens at ``path`` as long as the ``with`` block lasts."""

    def __init__(self, path: Path, daemon: Path, seed: int, odds: Odds) -> None:
        self.did: Counter[str] = Counter()
        self._odds = odds
        self._daemon = daemon
        self._random = random.Random(seed)
        self._order = itertools.count()
        self._pairs: list[Pair] = []
        self._stop = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> UnkindProxy:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop = True
        self._thread.join()
        self._listener.close()

    def be_kind(self) -> None:
        """From now on everything goes through."""
        self._odds = Odds(0, 0, 0, 0)

    def _serve(self) -> None:
        while not self._stop:
            sides = {each.client: each for each in self._pairs}
            sides |= {each.daemon: each for each in self._pairs}
            ready, _, _ = select.select([self._listener, *sides], [], [], 0.005)
            for sock in ready:
                if sock is self._listener:
                    self._accept()
                elif (pair := sides[sock]) in self._pairs:
                    self._pass_on(pair, sock)
            for pair in list(self._pairs):
                self._deliver_late(pair)
        for pair in list(self._pairs):
            self._cut(pair)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        daemon = socket.socket(socket.AF_UNIX)
        daemon.connect(str(self._daemon))
        self._pairs.append(Pair(client, daemon))
        self.did["connections"] += 1

    def _cut(self, pair: Pair) -> None:
        pair.close()
        self._pairs.remove(pair)

    def _pass_on(self, pair: Pair, sock: socket.socket) -> None:
        try:
            data = sock.recv(64 * 1024)
            if not data:
                self._cut(pair)
                return
            cut = self._random.random() < self._odds.cut
            if cut:
                # Where it breaks off may be anywhere, in the middle of a frame too.
                data = data[: self._random.randrange(len(data))]
                self.did["cut"] += 1
            if sock is pair.client:
                pair.daemon.sendall(data)
            else:
                self._answer(pair, data)
            if cut:
                self._cut(pair)
        except (OSError, ProtocolError):
            self._cut(pair)

    def _answer(self, pair: Pair, data: bytes) -> None:
        for payload in pair.decoder.feed(data):
            if isinstance(messages.decode_server(payload), Ack):
                self._acknowledge(pair, frame(payload))
            else:
                pair.client.sendall(frame(payload))

    def _acknowledge(self, pair: Pair, data: bytes) -> None:
        odds, luck = self._odds, self._random.random()
        if luck < odds.drop:
            self.did["dropped"] += 1
        elif luck < odds.drop + odds.delay:
            self.did["delayed"] += 1
            due = time.monotonic() + self._random.random() * DELAY_SECONDS_MAX
            heapq.heappush(pair.late, (due, next(self._order), data))
        elif luck < odds.drop + odds.delay + odds.double:
            self.did["doubled"] += 1
            pair.client.sendall(data + data)
        else:
            pair.client.sendall(data)

    def _deliver_late(self, pair: Pair) -> None:
        with contextlib.suppress(OSError):
            while pair.late and pair.late[0][0] <= time.monotonic():
                pair.client.sendall(heapq.heappop(pair.late)[2])
