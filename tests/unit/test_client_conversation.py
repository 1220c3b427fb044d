"""A client's conversation: its window, what it says, and how the other side's end is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tallymark.backlog import Backlog
from tallymark.conversation import WINDOW_BYTES_MAX, Conversation
from tallymark.errors import ProtocolError
from tallymark.events import Usage
from tallymark.intake import Intake
from tallymark.protocol.connection import ServerConnection
from tallymark.protocol.messages import ClientMessage, Goodbye, Hello, Publish, Skip, Welcome
from tallymark.transport import Transport
from tests.fake_daemon import LIMITS


class Other:
    """The daemon's end of the connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.connection = ServerConnection()

    def read(self) -> list[ClientMessage]:
        return self.connection.receive(self.sock.recv(1 << 20))

    def welcome(self) -> None:
        said = Welcome(protocol=1, server_id="s", durable_seq=0, limits=LIMITS)
        self.sock.sendall(self.connection.send(said))


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Conversation, Other]]:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        conversation = Conversation(Transport.connect([path]), 1.0)
        with listener.accept()[0] as sock:
            yield conversation, Other(sock)
        conversation.transport.close()


def test_it_is_open_between_welcome_and_the_end(ends: tuple[Conversation, Other]) -> None:
    conversation, other = ends
    conversation.begin(producer="p", project="x", client="c")
    (hello,) = other.read()
    assert isinstance(hello, Hello)
    assert (hello.producer, hello.project, hello.client) == ("p", "x", "c")
    assert conversation.receive() == []
    before = conversation.open
    other.welcome()
    (welcome,) = conversation.receive() or []
    assert isinstance(welcome, Welcome)
    assert (before, conversation.open) == (False, True)
    other.sock.sendall(other.connection.send(Goodbye()))
    conversation.receive()
    assert conversation.open is before


def test_the_end_is_told_from_silence(ends: tuple[Conversation, Other]) -> None:
    conversation, other = ends
    assert conversation.receive() == []
    other.sock.close()
    assert conversation.receive() is None


def test_nonsense_is_a_protocol_error(ends: tuple[Conversation, Other]) -> None:
    conversation, other = ends
    other.sock.sendall(b"HTTP/1.1 200 OK")
    with pytest.raises(ProtocolError):
        conversation.receive()


def test_the_smaller_window_counts(ends: tuple[Conversation, Other]) -> None:
    conversation, _ = ends
    conversation.agree(msgspec.structs.replace(LIMITS, unacknowledged_bytes_max=1 << 40))
    assert conversation.window_bytes == WINDOW_BYTES_MAX
    conversation.agree(msgspec.structs.replace(LIMITS, unacknowledged_bytes_max=1000))
    assert conversation.window_bytes == 1000


def test_batches_go_out_as_far_as_the_window(ends: tuple[Conversation, Other]) -> None:
    conversation, other = ends
    conversation.begin(producer="p", project="x", client="c")
    other.welcome()
    conversation.receive()
    intake = Intake(100, lambda: None)
    backlog = Backlog(intake, 1)
    for number in range(5):
        intake.put(Usage(event_id=str(number)))
    backlog.freeze_to(1 << 20)
    conversation.agree(msgspec.structs.replace(LIMITS, unacknowledged_bytes_max=1))
    conversation.publish(backlog)
    _, first = other.read()
    assert isinstance(first, Publish)
    assert first.seq == 1
    conversation.step_over(6, 9)
    conversation.say_goodbye()
    assert other.read() == [
        Skip(from_seq=6, through_seq=9, events=0, reason="acknowledged_before"),
        Goodbye(),
    ]
