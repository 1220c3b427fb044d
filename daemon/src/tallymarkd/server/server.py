"""The door: who may come in, and which tongue they speak."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from tallymark.protocol.framing import PREFACE
from tallymarkd.server.acceptor import Acceptor
from tallymarkd.server.conversation import Conversation, farewell
from tallymarkd.server.desk import Desk
from tallymarkd.server.http import HttpConversation, refusal
from tallymarkd.server.listener import BACKLOG
from tallymarkd.server.peer import peer_uid

log = logging.getLogger("tallymarkd")

HTTP2_PREFACE = b"PRI "

STOPPING = "the daemon is stopping"

FIRST_WORD_SECONDS = 1.0
"""How long a stop waits for the first byte of who has just connected, so that he gets a
Goodbye. On a busy machine some need more than 0.2 s for it. Who never says a word holds a
stop up for no longer."""

TURNED_AWAY_MAX = 16
"""Connections over the limit that may be open at one time, until they have been told so."""

TURN_AWAY_SECONDS = 1.0
"""How long who is turned away has for a first byte, by which he is told in his own tongue."""


class _Talk(Protocol):
    def stop_reading(self) -> None: ...
    def say_goodbye(self, reason: str) -> None: ...


class Server:
    """Accepts connections on a bound socket. Loop thread only."""

    def __init__(
        self, desk: Desk, *, new_id: Callable[[], str], own_uid: int, owns: Callable[[int], bool]
    ) -> None:
        """Who ``owns`` the daemon, its user and root, is served, others if the settings say so."""
        self.desk = desk
        self.new_id = new_id
        self._own_uid = own_uid
        self._owns = owns
        self._acceptor: Acceptor | None = None
        self._doors: set[Door] = set()
        self.turned_away: set[Door] = set()
        """Connections that wait for their first byte only to be told that they may not come in."""
        self._talks: set[_Talk] = set()
        self._by_uid: Counter[int] = Counter()
        self.stopping = False
        self.idle = asyncio.Event()
        self.idle.set()
        self._no_doors = asyncio.Event()
        self._no_doors.set()

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return sum(self._by_uid.values())

    def start(self, sock: socket.socket) -> None:
        """Serve a socket that is bound and listening. Its name stays ours to remove."""
        sock.setblocking(False)
        sock.listen(BACKLOG)  # again: a service manager may have left less room
        self._acceptor = Acceptor(sock, lambda: Door(self), self._room)
        self._acceptor.start()

    def _room(self) -> int:
        return self.desk.settings.connections_max + TURNED_AWAY_MAX

    async def stop_accepting(self) -> None:
        """Take no more connections and no more events; what was taken is still answered.

        Who has connected already is served as far as a Goodbye. Who has not, waits
        in the socket's queue: for the next daemon, if a service manager holds it.
        """
        self.stopping = True
        if self._acceptor is not None:
            await self._acceptor.stop()
        for talk in list(self._talks):
            talk.stop_reading()

    async def say_goodbye(self, seconds_max: float = FIRST_WORD_SECONDS) -> None:
        """Everything due has been answered: end the conversations.

        Waits up to ``seconds_max`` for those that have not begun.
        """
        for talk in list(self._talks):
            talk.say_goodbye(STOPPING)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._no_doors.wait(), seconds_max)
        for door in list(self._doors):
            door.close()
        for talk in list(self._talks):
            talk.say_goodbye(STOPPING)

    def admit(self, uid: int) -> str:
        """Why a user may not come in now; empty if he may, and then he is counted."""
        settings = self.desk.settings
        if not self.serves(uid):
            return f"cannot serve uid {uid}: this daemon serves uid {self._own_uid} and root"
        if self.connections >= settings.connections_max:
            return f"cannot serve you now: {settings.connections_max} connections are open"
        if uid != self._own_uid and self._by_uid[uid] >= settings.connections_per_user_max:
            return f"cannot serve you now: your user has {self._by_uid[uid]} connections open"
        self._by_uid[uid] += 1
        self.idle.clear()
        return ""

    def serves(self, uid: int) -> bool:
        """Whether this user is served at all."""
        return self.desk.settings.serves_all or self._owns(uid)

    def leave(self, uid: int) -> None:
        """One connection of this user is closed."""
        self._by_uid[uid] -= 1
        if not self.connections:
            self.idle.set()

    def opened(self, talk: _Talk) -> None:
        """A conversation has begun."""
        self._talks.add(talk)

    def closed(self, talk: _Talk, uid: int) -> None:
        """A conversation is over."""
        self._talks.discard(talk)
        self.leave(uid)
        self.gone()

    def gone(self) -> None:
        """A connection is closed, whether it was served or not."""
        if self._acceptor is not None:
            self._acceptor.closed()

    def watch(self, door: Door) -> None:
        """A connection waits for its first byte."""
        self._doors.add(door)
        self._no_doors.clear()

    def unwatch(self, door: Door) -> None:
        """It does not any more."""
        self._doors.discard(door)
        if not self._doors:
            self._no_doors.set()


class Door(asyncio.Protocol):
    """Reads the first byte, then hands the connection to who speaks its tongue."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._uid = -1
        self._admitted = False
        self._refusal: tuple[str, int] | None = None
        self._begun = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        try:
            self._uid = peer_uid(transport.get_extra_info("socket"))
        except OSError as error:
            self._turn_away_with(f"cannot tell who you are: {error}", 403)
            return
        problem = self._server.admit(self._uid)
        if problem:
            log.warning("%s", problem)
            self._turn_away_with(problem, 503 if self._server.serves(self._uid) else 403)
            return
        self._admitted = True
        self._server.watch(self)
        seconds = self._server.desk.settings.first_byte_timeout_seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self.close)

    def data_received(self, data: bytes) -> None:
        if self._refusal:
            self._tell(data)
        if not self._admitted or self._transport is None:
            return
        data = self._begun = self._begun + data
        if HTTP2_PREFACE.startswith(data) and data != HTTP2_PREFACE:
            # As POST begins as well: the next byte tells.
            return
        first = data[:1]
        if first == PREFACE[:1] and self._server.stopping:
            self._turn_away(farewell(STOPPING))
        elif first == PREFACE[:1]:
            desk, uid = self._server.desk, self._uid
            self._hand_over(Conversation(desk, uid, lambda t: self._server.closed(t, uid)), data)
        elif first.isalpha() and not data.startswith(HTTP2_PREFACE):
            desk, uid, new_id = self._server.desk, self._uid, self._server.new_id
            http = HttpConversation(desk, uid, lambda t: self._server.closed(t, uid), new_id)
            self._hand_over(http, data)
        else:
            self._turn_away(
                b"cannot understand you: this is tallymarkd; "
                b"it speaks the tallymark protocol and HTTP/1.1\n"
            )

    def eof_received(self) -> None:
        """Who says nothing can still listen."""
        if self._refusal:
            self._tell(b"")

    def _hand_over(self, talk: Conversation | HttpConversation, data: bytes) -> None:
        assert self._transport is not None
        self._stop_waiting()
        self._admitted = False
        self._server.opened(talk)
        self._transport.set_protocol(talk)
        talk.connection_made(self._transport)
        if self._server.stopping:
            talk.stop_reading()
        talk.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._transport = None
        if self._admitted:
            self._admitted = False
            self._server.leave(self._uid)
        self._server.gone()

    def close(self) -> None:
        """Nothing came in time, or the daemon stops."""
        if self._refusal:
            self._tell(b"")
        elif self._transport is not None:
            self._transport.close()

    def _turn_away_with(self, line: str, status: int) -> None:
        """His first byte says how to tell him; for a crowd nobody waits."""
        self._refusal = (line, status)
        if len(self._server.turned_away) >= TURNED_AWAY_MAX:
            self._tell(b"")
            return
        self._server.turned_away.add(self)
        self._server.watch(self)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TURN_AWAY_SECONDS, self.close)

    def _tell(self, data: bytes) -> None:
        assert self._refusal is not None
        line, status = self._refusal
        http = data[:1].isalpha()
        self._turn_away(refusal(status, line) if http else line.encode() + b"\n")

    def _turn_away(self, last_words: bytes) -> None:
        assert self._transport is not None
        self._stop_waiting()
        self._refusal = None
        self._transport.write(last_words)
        self._transport.close()

    def _stop_waiting(self) -> None:
        self._server.unwatch(self)
        self._server.turned_away.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def own_uid() -> int:
    """The user this daemon serves."""
    return os.geteuid()
