"""Both sides of a conversation: which message is allowed when."""

from __future__ import annotations

import msgspec
import pytest

from tallymark.errors import ProtocolError
from tallymark.protocol import messages
from tallymark.protocol.connection import ClientConnection, ServerConnection, State
from tallymark.protocol.framing import PREFACE, frame
from tallymark.protocol.messages import (
    Ack,
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

LIMITS = Limits(
    frame_bytes_max=1, event_bytes_max=2, batch_events_max=3, unacknowledged_bytes_max=4
)
WELCOME = Welcome(protocol=1, server_id="s", durable_seq=0, limits=LIMITS)
HELLO = Hello(protocol_min=1, protocol_max=1, producer="p", project="x")
PUBLISH = Publish(seq=1, count=1, events=msgspec.Raw(b"\x90"))
SKIP = Skip(from_seq=1, through_seq=2, events=0, reason="r")


def wire(*sent: Message) -> bytes:
    return b"".join(frame(messages.encode(message)) for message in sent)


def server(*received: Message) -> ServerConnection:
    connection = ServerConnection()
    connection.receive(PREFACE + wire(*received))
    return connection


def client(*received: Message) -> ClientConnection:
    connection = ClientConnection()
    connection.receive(wire(*received))
    return connection


def state_of(connection: ServerConnection | ClientConnection) -> State:
    return connection.state


def incomplete(connection: ClientConnection) -> bool:
    return connection.incomplete


def test_the_first_bytes_of_a_client_open_the_server() -> None:
    connection = ServerConnection()
    start = ClientConnection().start(producer="p", project="x", client="me")
    (hello,) = connection.receive(start)
    assert hello == Hello(protocol_min=1, protocol_max=1, producer="p", project="x", client="me")
    assert connection.hello == hello
    assert state_of(connection) is State.OPEN


def test_welcome_opens_the_client() -> None:
    connection = ClientConnection()
    assert state_of(connection) is State.WAITING
    assert connection.receive(ServerConnection().send(WELCOME)) == [WELCOME]
    assert connection.welcome == WELCOME
    assert state_of(connection) is State.OPEN


def test_the_preface_may_come_in_pieces() -> None:
    connection = ServerConnection()
    for byte in PREFACE:
        assert state_of(connection) is State.PREFACE
        assert connection.receive(bytes([byte])) == []
    assert connection.receive(wire(HELLO)) == [HELLO]


@pytest.mark.parametrize("first", [b"\xc1TM\x02", b"\xc1X", b"GET / HTTP/1.1\r\n", b"\x00"])
def test_another_preface_is_refused_at_its_first_wrong_byte(first: bytes) -> None:
    connection = ServerConnection()
    with pytest.raises(ProtocolError, match="preface"):
        connection.receive(first)
    assert state_of(connection) is State.CLOSED


@pytest.mark.parametrize("first", [PUBLISH, SKIP, Query(id=1, what="projects"), Goodbye()])
def test_a_client_begins_with_hello(first: Message) -> None:
    with pytest.raises(ProtocolError, match="without a Hello"):
        server(first)


def test_a_second_hello_is_refused() -> None:
    with pytest.raises(ProtocolError, match="second Hello"):
        server(HELLO, HELLO)


@pytest.mark.parametrize("batch", [PUBLISH, SKIP])
def test_events_need_a_producer(batch: Message) -> None:
    asker = Hello(protocol_min=1, protocol_max=1)
    with pytest.raises(ProtocolError, match="named no producer"):
        server(asker, batch)
    assert server(asker, Health(id=1)).state is State.OPEN
    assert server(HELLO, batch).state is State.OPEN


def test_a_skip_goes_forwards() -> None:
    with pytest.raises(ProtocolError, match="backwards"):
        server(HELLO, Skip(from_seq=2, through_seq=1, events=0, reason="r"))


def test_goodbye_ends_the_servers_side() -> None:
    connection = server(HELLO, Goodbye())
    assert state_of(connection) is State.CLOSED
    with pytest.raises(ProtocolError, match="after the conversation's end"):
        connection.receive(wire(PUBLISH))


@pytest.mark.parametrize("end", [Goodbye(), Refused(code="fenced", message="m")])
def test_goodbye_and_refused_end_the_clients_side(end: Message) -> None:
    connection = client(WELCOME, end)
    assert state_of(connection) is State.CLOSED
    with pytest.raises(ProtocolError, match="after the conversation's end"):
        connection.receive(wire(Ack(through_seq=1)))


@pytest.mark.parametrize(
    "first", [Ack(through_seq=1), Reply(id=1, body=b""), HealthReport(id=1, status="ok")]
)
def test_a_daemon_begins_with_welcome(first: Message) -> None:
    with pytest.raises(ProtocolError, match="without a Welcome"):
        client(first)


@pytest.mark.parametrize(
    "first",
    [
        Refused(code="wrong_user", message="m"),
        Nack(code="overloaded", seq=1, message="m"),
        Goodbye(),
    ],
)
def test_a_daemon_may_say_no_before_welcome(first: Message) -> None:
    connection = ClientConnection()
    assert connection.receive(wire(first)) == [first]
    assert connection.welcome is None


def test_a_second_welcome_is_refused() -> None:
    with pytest.raises(ProtocolError, match="second Welcome"):
        client(WELCOME, WELCOME)


def test_a_client_asks_only_while_open() -> None:
    with pytest.raises(ProtocolError, match="before the Welcome"):
        ClientConnection().send(Health(id=1))
    connection = client(WELCOME)
    assert server(HELLO).receive(connection.send(Health(id=1))) == [Health(id=1)]
    connection.close()
    with pytest.raises(ProtocolError, match="after the end"):
        connection.send(Health(id=1))


def test_an_incomplete_frame_is_known() -> None:
    connection = client(WELCOME)
    data = wire(Ack(through_seq=1))
    assert not incomplete(connection)
    assert connection.receive(data[:-3]) == []
    assert incomplete(connection)
    assert connection.missing_bytes == 3
    assert connection.receive(data[-3:]) == [Ack(through_seq=1)]
    assert not incomplete(connection)
