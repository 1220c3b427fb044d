from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tallymark.fs import OsFileSystem
from tallymark.protocol.connection import ClientConnection
from tallymark.protocol.messages import Ack, Goodbye, Query, Refused, Welcome
from tallymarkd.server import server as server_module
from tallymarkd.server.desk import Desk
from tallymarkd.server.listener import listen
from tallymarkd.server.server import TURNED_AWAY_MAX, Server, own_uid
from tests.conversation_parts import FakeAnswers, make_desk, opening, wire
from tests.daemon_parts import DEADLINE_SECONDS, PRODUCERS, Bench, publish, run_end, until

HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class House:
    """A server on a real socket; commits come back to its loop."""

    def __init__(self, path: Path, bench: Bench, desk: Desk, server: Server) -> None:
        self.path = path
        self.bench = bench
        self.desk = desk
        self.server = server
        self.errors: list[dict[str, Any]] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))

    async def talk(self, data: bytes, *, eof: bool = False) -> bytes:
        """Everything the server says to this, up to its close."""
        reader, writer = await self.connect()
        try:
            if data:
                writer.write(data)
            if eof:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def house(tmp_path: Path, **limits: Any) -> AsyncIterator[House]:
    directory = tmp_path / "s"
    directory.mkdir()
    loop = asyncio.get_running_loop()
    with Bench() as bench:
        bench.on_commit = lambda tickets: loop.call_soon_threadsafe(bench.engine.committed, tickets)
        ids = itertools.count(1)
        desk = make_desk(bench, FakeAnswers(), **limits)
        server = Server(
            desk,
            new_id=lambda: f"made-{next(ids)}",
            own_uid=own_uid(),
            owns=lambda uid: uid in (own_uid(), 0),
        )
        listener = listen(OsFileSystem(), directory / "t.sock")
        found = House(directory / "t.sock", bench, desk, server)
        loop.set_exception_handler(lambda _, context: found.errors.append(context))
        try:
            server.start(listener.sock)
            yield found
            await server.stop_accepting()
            await server.say_goodbye()
            await asyncio.wait_for(server.idle.wait(), DEADLINE_SECONDS)
        finally:
            listener.close()
        assert found.errors == []


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(), 2 * DEADLINE_SECONDS)

    asyncio.run(main())


def test_both_tongues_on_one_socket(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path) as at:
            framed = opening() + wire(publish(1, run_end(1)))
            welcome_ack = ClientConnection().receive(await at.talk(framed, eof=True))
            assert isinstance(welcome_ack[0], Welcome)
            assert welcome_ack[1:] == [Ack(through_seq=1, stored=1)]

            answer = await at.talk(HEALTH)
            assert answer.startswith(b"HTTP/1.1 200 ")
            post = b'{"type":"usage","event_id":"e"}'
            head = b"POST /v1/events?project=p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            answer = await at.talk(head % len(post) + post, eof=True)
            assert b'{"stored":1,"duplicate":0,"event_ids":["e"]}' in answer

    run(test)


def test_a_curl_like_client_keeps_its_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path) as at:
            reader, writer = await at.connect()
            for _ in range(3):
                writer.write(HEALTH.replace(b"Connection: close\r\n", b""))
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_SECONDS)
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
            writer.close()

    run(test)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"\0", id="NUL"),
        pytest.param(b"\xc0\x01", id="nearly"),
        pytest.param(b"{}\n", id="JSON"),
        pytest.param(b"\n", id="a line"),
        pytest.param("é".encode(), id="a letter, but not of ASCII"),
    ],
)
def test_who_speaks_neither_gets_one_line_and_the_end(tmp_path: Path, data: bytes) -> None:
    async def test() -> None:
        async with house(tmp_path) as at:
            answer = await at.talk(data)

            assert answer.startswith(b"cannot understand you: this is tallymarkd")
            assert answer.endswith(b"\n")
            assert answer.count(b"\n") == 1

    run(test)


def test_many_may_come_while_it_is_busy(tmp_path: Path) -> None:
    """With a full backlog a connect that does not wait fails at once."""

    async def test() -> None:
        async with house(tmp_path) as at:
            with contextlib.ExitStack() as stack:
                for _ in range(300):
                    # Nobody accepts: the loop does not turn here.
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(str(at.path))

    run(test)


def test_the_preface_of_http_2_may_come_in_pieces(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path) as at:
            reader, writer = await at.connect()
            for byte in b"PRI ":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.001)
            answer = await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)
            assert answer.startswith(b"cannot understand you: this is tallymarkd")
            writer.close()

    run(test)


def test_a_preface_that_is_wrong_is_told_in_its_own_tongue(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path) as at:
            (refused,) = ClientConnection().receive(await at.talk(b"\xc1TM\x09"))

            assert isinstance(refused, Refused)
            assert refused.code == "protocol_error"

    run(test)


def test_the_first_byte_may_come_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path) as at:
            for data in (opening(), HEALTH):
                reader, writer = await at.connect()
                for byte in data:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0)
                assert await asyncio.wait_for(reader.read(1), DEADLINE_SECONDS) != b""
                writer.close()

    run(test)


def test_who_says_nothing_is_closed_after_a_while(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path, first_byte_timeout_seconds=0.01) as at:
            assert await at.talk(b"") == b""
            await asyncio.wait_for(at.server.idle.wait(), DEADLINE_SECONDS)

    run(test)


def test_who_has_begun_is_not_closed_for_the_first_byte(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path, first_byte_timeout_seconds=0.05) as at:
            with socket.socket(socket.AF_UNIX) as client:
                # Its words are there before the server can so much as accept it.
                client.connect(str(at.path))
                client.sendall(opening())
                reader, writer = await asyncio.open_unix_connection(sock=client.dup())
            await asyncio.wait_for(reader.read(1), DEADLINE_SECONDS)
            assert await at.talk(b"") == b""  # its time is over later than the first one's

            writer.write(wire(publish(1, run_end(1))))
            await until(lambda: at.bench.events_of() == ["run-1"], "the event")
            writer.close()

    run(test)


def test_connections_are_counted(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path) as at:
            assert at.server.connections == 0
            assert at.server.idle.is_set()
            first, second, third = [await at.connect() for _ in range(3)]
            first[1].write(opening())
            second[1].write(b"GET ")
            await until(lambda: at.server.connections == 3, "three connections")
            assert not at.server.idle.is_set()

            for _, writer in (first, second, third):
                writer.close()
            await asyncio.wait_for(at.server.idle.wait(), DEADLINE_SECONDS)
            assert at.server.connections == 0

    run(test)


def test_over_the_limit_of_connections_everybody_is_told_in_his_tongue(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path, connections_max=2) as at:
            open_ones = [await at.connect() for _ in range(2)]
            await until(lambda: at.server.connections == 2, "two connections")

            line = b"cannot serve you now: 2 connections are open\n"
            assert await at.talk(b"", eof=True) == line
            assert await at.talk(opening()) == line
            assert await at.talk(b"") == line  # after a while

            answer = await at.talk(HEALTH)
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"\r\nretry-after: 1\r\n" in answer
            head, body = answer.split(b"\r\n\r\n")
            assert body == b'{"error":"cannot serve you now: 2 connections are open"}\n'
            assert f"content-length: {len(body)}".encode() in head

            open_ones[0][1].close()
            await until(lambda: at.server.connections == 1, "room")
            assert (await at.talk(HEALTH)).startswith(b"HTTP/1.1 200 ")
            open_ones[1][1].close()

    run(test)


def test_for_a_crowd_that_is_turned_away_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "TURN_AWAY_SECONDS", 3600.0)

    async def test() -> None:
        async with house(tmp_path, connections_max=1) as at:
            _, inside = await at.connect()
            await until(lambda: at.server.connections == 1, "the connection")
            crowd = [await at.connect() for _ in range(TURNED_AWAY_MAX)]
            await until(lambda: len(at.server.turned_away) == TURNED_AWAY_MAX, "the crowd")
            assert at.server._acceptor is not None
            assert at.server._acceptor.open == 1 + TURNED_AWAY_MAX
            reader, late = await at.connect()  # no descriptor is left for him yet
            crowd[0][1].close()
            late.write(HEALTH)
            assert (await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)).startswith(
                b"HTTP/1.1 503 "
            )
            inside.close()
            late.close()
            await until(lambda: at.server.connections == 0, "room")
            monkeypatch.setattr(server_module, "peer_uid", lambda sock: 4711)
            _, one_more = await at.connect()
            await until(lambda: len(at.server.turned_away) == TURNED_AWAY_MAX, "the crowd again")
            assert (await at.talk(b"")).startswith(b"cannot serve uid 4711")  # at once

            await at.server.stop_accepting()
            await at.server.say_goodbye(0.01)
            for reader, writer in crowd[1:]:
                assert await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)
                writer.close()
            one_more.close()

    run(test)


def test_another_user_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with house(tmp_path) as at:
            monkeypatch.setattr(server_module, "peer_uid", lambda sock: 4711)

            answer = await at.talk(b"")

            line = f"cannot serve uid 4711: this daemon serves uid {os.geteuid()} and root\n"
            assert answer == line.encode()
            assert (await at.talk(HEALTH)).startswith(b"HTTP/1.1 403 Forbidden\r\n")
            await asyncio.wait_for(at.server.idle.wait(), DEADLINE_SECONDS)
            assert "uid 4711" in caplog.text

    run(test)


def test_who_cannot_be_known_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(sock: object) -> int:
        raise OSError(57, "Socket is not connected")

    async def test() -> None:
        async with house(tmp_path) as at:
            monkeypatch.setattr(server_module, "peer_uid", refuse)

            assert (await at.talk(b"")).startswith(b"cannot tell who you are")

    run(test)


def admitting(bench: Bench, **limits: int) -> Server:
    return Server(
        make_desk(bench, None, **limits),
        new_id=lambda: "id",
        own_uid=1000,
        owns=lambda uid: uid in (1000, 0),
    )


@pytest.fixture
def bench() -> Any:
    with Bench() as found:
        yield found


def test_the_own_user_and_root_may_come_in(bench: Bench) -> None:
    server = admitting(bench)

    assert server.admit(1000) == ""
    assert server.admit(0) == ""
    assert "cannot serve uid 1001" in server.admit(1001)
    assert server.connections == 2


def test_everybody_may_come_in_when_all_are_served(bench: Bench) -> None:
    server = admitting(bench, serves_all=True, connections_per_user_max=2)

    assert [server.admit(uid) for uid in (1000, 0, 1001, 1001)] == [""] * 4
    assert "your user has 2 connections open" in server.admit(1001)
    assert server.admit(1002) == ""


def test_root_has_a_limit_of_its_own(bench: Bench) -> None:
    server = admitting(bench, connections_max=10, connections_per_user_max=2)

    assert [server.admit(0) for _ in range(2)] == ["", ""]
    assert "2 connections" in server.admit(0)
    assert [server.admit(1000) for _ in range(8)] == [""] * 8
    assert "10 connections" in server.admit(1000)
    server.leave(0)
    assert server.admit(0) == ""


async def read_to_the_end(sock: socket.socket) -> bytes:
    """What was sent before the close, also when the other side closed over unread bytes."""
    loop = asyncio.get_running_loop()
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := await asyncio.wait_for(loop.sock_recv(sock, 65536), DEADLINE_SECONDS):
            found += data
    return found


def test_when_it_stops_nobody_comes_in_and_who_is_in_is_answered(tmp_path: Path) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with house(tmp_path) as at:
            silent, silent_writer = await at.connect()
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                await loop.sock_connect(client, str(at.path))
                protocol = ClientConnection()
                await loop.sock_sendall(client, opening())
                received = protocol.receive(await loop.sock_recv(client, 65536))
                assert isinstance(received[0], Welcome)
                at.bench.log.may_sync.clear()
                at.bench.log.syncing.clear()
                await loop.sock_sendall(client, wire(publish(1, run_end(1))))
                await asyncio.to_thread(at.bench.log.syncing.wait, DEADLINE_SECONDS)

                await at.server.stop_accepting()
                with pytest.raises(ConnectionError):
                    await at.connect()
                await loop.sock_sendall(client, wire(publish(2, run_end(2))))
                at.bench.log.may_sync.set()
                await until(lambda: at.bench.events_of() == ["run-1"], "the commit")
                await at.server.say_goodbye()
                assert await asyncio.wait_for(silent.read(), DEADLINE_SECONDS) == b""

                assert protocol.receive(await read_to_the_end(client)) == [
                    Ack(through_seq=1, stored=1),
                    Goodbye(reason="the daemon is stopping"),
                ]
            await asyncio.wait_for(at.server.idle.wait(), DEADLINE_SECONDS)
            assert at.bench.events_of() == ["run-1"]
            silent_writer.close()

    run(test)


@pytest.mark.parametrize(
    ("first_word", "last_word"),
    [
        pytest.param(opening(), wire(Goodbye(reason="the daemon is stopping")), id="framed"),
        pytest.param(HEALTH, b"HTTP/1.1 503 ", id="HTTP"),
        pytest.param(b"GET /v1/hea", b"HTTP/1.1 503 ", id="half of a request"),
    ],
)
def test_who_has_just_come_in_when_it_stops_gets_a_last_word(
    tmp_path: Path, first_word: bytes, last_word: bytes
) -> None:
    """Between accept and the first byte, and in the middle of asyncio's own accepting."""

    async def test() -> None:
        async with house(tmp_path) as at:
            early, early_writer = await at.connect()
            await until(lambda: at.server.connections == 1, "the connection")
            with contextlib.ExitStack() as stack:
                late = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(20)]
                for sock in late:
                    sock.setblocking(False)
                    sock.connect(str(at.path))
                for _ in range(2):
                    await asyncio.sleep(0)  # the loop accepts them; nobody is at the door yet
                assert at.server.connections == 1
                await at.server.stop_accepting()
                goodbye = asyncio.create_task(at.server.say_goodbye())
                early_writer.write(first_word)
                for sock in late:
                    sock.send(first_word)

                words = [await asyncio.wait_for(early.read(), DEADLINE_SECONDS)]
                words += [await read_to_the_end(sock) for sock in late]
                await goodbye

            assert all(word.startswith(last_word) for word in words), words
            early_writer.close()

    run(test)


def test_who_does_not_read_holds_up_no_stop(tmp_path: Path) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with house(tmp_path) as at:
            assert isinstance(at.desk.answers, FakeAnswers)
            at.desk.answers.states["p"] = bytes(4 * 1024 * 1024)
            with contextlib.ExitStack() as stack:
                framed = opening("", "") + wire(Query(id=1, what="state", project="p"))
                http = HEALTH.replace(b"/v1/health", b"/v1/state?project=p")
                for question in (framed, http):
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    await loop.sock_connect(client, str(at.path))
                    await loop.sock_sendall(client, question)
                    await asyncio.wait_for(loop.sock_recv(client, 1), DEADLINE_SECONDS)

                await at.server.stop_accepting()
                await at.server.say_goodbye()
                await asyncio.wait_for(at.server.idle.wait(), DEADLINE_SECONDS)

    run(test)


def test_the_name_of_the_socket_stays_when_the_server_stops(tmp_path: Path) -> None:
    """It is the listener's to remove, which looks whether it is still its own."""

    async def test() -> None:
        async with house(tmp_path) as at:
            await at.server.stop_accepting()
            await asyncio.sleep(0)

            assert at.path.is_socket()

    run(test)


def test_many_connections_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path, connections_max=300) as at:
            pairs = [await at.connect() for _ in range(200)]
            for number, (_, writer) in enumerate(pairs):
                producer = PRODUCERS[0][:-12] + f"{number + 500:012d}"
                writer.write(opening(producer) + wire(publish(1, run_end(number))))

            await until(lambda: at.bench.books.server.ledger.stored == 200, "all events")

            for _, writer in pairs:
                writer.close()
            await asyncio.wait_for(at.server.idle.wait(), DEADLINE_SECONDS)

    run(test)


def test_a_window_that_is_larger_than_the_daemons_comes_through(tmp_path: Path) -> None:
    """A client counts its own bytes, the daemon what it keeps: it reads on as it can."""

    async def test() -> None:
        async with house(tmp_path, unacknowledged_bytes_max=1) as at:
            reader, writer = await at.connect()
            writer.write(opening() + wire(*[publish(seq, {}) for seq in range(1, 501)]))
            protocol, through = ClientConnection(), 0
            while through < 500:
                data = await asyncio.wait_for(reader.read(65536), DEADLINE_SECONDS)
                acks = [said for said in protocol.receive(data) if isinstance(said, Ack)]
                through = acks[-1].through_seq if acks else through
            writer.close()

    run(test)


def test_a_client_that_breaks_off_at_any_byte_harms_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        async with house(tmp_path) as at:
            for data in (opening() + wire(publish(1, run_end(1))), HEALTH):
                for end in range(0, len(data), 3):
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(str(at.path))
                        client.sendall(data[:end])
                    await asyncio.sleep(0)
            await asyncio.wait_for(at.server.idle.wait(), DEADLINE_SECONDS)

            assert (await at.talk(HEALTH)).startswith(b"HTTP/1.1 200 ")

    run(test)
