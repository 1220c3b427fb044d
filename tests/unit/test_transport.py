"""Sockets: what is said when no daemon can be reached, partial sends, wake-ups, questions."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tallymark.errors import ConnectError, DeliveryError, RefusedError, ReplyTimeout
from tallymark.paths import SOCKET_PATH_BYTES_MAX
from tallymark.protocol.messages import Health, HealthReport, Query, Reply
from tallymark.transport import READABLE, WOKEN, WRITABLE, Asking, Poller, Transport, ask
from tallymark.transport.unreachable import NOT_LET_IN
from tests.fake_daemon import FakeDaemon, until
from tests.speed import with_enough_time

SHORT_SECONDS = 0.05


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


@pytest.fixture
def daemon(path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(path) as running:
        yield running


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(1)
        yield sock


@pytest.fixture
def pair(path: Path, listener: socket.socket) -> Iterator[tuple[Transport, socket.socket]]:
    transport = Transport.connect([path])
    other, _ = listener.accept()
    with other:
        yield transport, other
    transport.close()


def why(paths: list[Path], timeout_seconds: float = SHORT_SECONDS) -> str:
    with pytest.raises(ConnectError) as told:
        ask(paths, [Health(id=1)], timeout_seconds)
    text = str(told.value)
    assert "\n" not in text
    return text


# Why nobody can be reached.


def test_no_socket_there(path: Path) -> None:
    assert why([path]) == (f"cannot reach tallymarkd at {path}: no socket there; it is not running")


def test_nobody_listens(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    assert why([path]) == (
        f"cannot reach tallymarkd at {path}: connection refused: nobody listens; it is not running"
    )


def test_what_is_there_is_a_file(path: Path) -> None:
    path.write_text("")
    assert "what is there is not a socket" in why([path])


def test_a_path_that_is_too_long() -> None:
    path = Path("/" + "x" * SOCKET_PATH_BYTES_MAX)
    assert f"the limit is {SOCKET_PATH_BYTES_MAX}" in why([path])


def test_permission_denied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(13, "Permission denied")

    # Root is refused nothing, so the system is not asked.
    monkeypatch.setattr(socket.socket, "connect", refuse)
    denied = f"cannot reach tallymarkd at {path}: permission denied: it belongs to another user"
    assert why([path]) == f"{denied}; {NOT_LET_IN}"
    # Said once, behind everything that was tried.
    other = path.with_name("2.sock")
    assert why([path, other]) == (
        f"{denied}; nor at {other}: permission denied: it belongs to another user; {NOT_LET_IN}"
    )


def test_a_daemon_of_another_user_that_answers(daemon: FakeDaemon, path: Path) -> None:
    daemon.first_words = b"cannot serve uid 1: this daemon serves uid 0 and root\n"
    assert why([path], 5).endswith(f"serves uid 0 and root; {NOT_LET_IN}")


def test_each_of_several_sockets_is_told_of(tmp_path: Path) -> None:
    first, second = tmp_path / "1.sock", tmp_path / "2.sock"
    assert why([first, second]) == (
        f"cannot reach tallymarkd at {first}: no socket there; it is not running; "
        f"nor at {second}: no socket there; it is not running"
    )


def test_connected_but_no_welcome(daemon: FakeDaemon, path: Path) -> None:
    daemon.welcomes = False
    assert why([path]) == (
        f"cannot reach tallymarkd at {path}: connected, but no Welcome within 0.05 s; "
        "it is stopped or busy, or another program listens there"
    )


def test_nobody_accepts(path: Path, listener: socket.socket) -> None:
    assert "connected, but no Welcome" in why([path])


def test_a_full_backlog_is_tried_again_until_the_end(path: Path, listener: socket.socket) -> None:
    waiting: list[Transport] = []

    def fill() -> None:
        while True:
            waiting.append(Transport.connect([path]))

    with pytest.raises(ConnectError):
        fill()
    assert "connections waiting for it fill its queue; it is stopped or busy" in why([path])
    for transport in waiting:
        transport.close()


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\0\0\0hello"])
def test_another_program_that_answers(daemon: FakeDaemon, path: Path, words: bytes) -> None:
    daemon.first_words = words
    assert "what listens there is not tallymarkd: cannot" in why([path], 5)


def test_a_daemon_that_has_no_room_is_one(daemon: FakeDaemon, path: Path) -> None:
    daemon.first_words = b"cannot serve you now: 10 connections are open\n"
    told = why([path], 5)
    assert told.endswith(
        "it turned the connection away: cannot serve you now: 10 connections are open"
    )


def test_another_program_that_hangs_up(daemon: FakeDaemon, path: Path) -> None:
    daemon.first_words = b""
    told = why([path], 5)
    assert "is not tallymarkd" in told or "the connection broke" in told


def test_a_daemon_that_is_not_ready(daemon: FakeDaemon, path: Path) -> None:
    daemon.greeting_nack = ("warming_up", 1.0)
    assert "it is not ready: not yet (warming_up)" in why([path], 5)


def test_a_daemon_that_refuses(daemon: FakeDaemon, path: Path) -> None:
    daemon.refusal = "wrong_user"
    with pytest.raises(RefusedError, match=r"refused the conversation: not you") as told:
        ask([path], [Health(id=1)], 5)
    assert told.value.code == "wrong_user"


# Questions.


def test_answers_come_in_the_order_of_the_questions(daemon: FakeDaemon, path: Path) -> None:
    daemon.replies = {"projects": [b"[", b'"a"', b"]"], "state": [b"{}"]}
    answers = ask(
        [path],
        [Health(id=3), Query(id=2, what="projects"), Query(id=1, what="state", project="p")],
        5,
        client="me",
    )
    assert answers == [
        HealthReport(id=3, status="ok"),
        Reply(id=2, body=b'["a"]'),
        Reply(id=1, body=b"{}"),
    ]
    assert daemon.hellos[0].client == "me"
    assert not daemon.producers


def test_an_answer_larger_than_any_buffer(daemon: FakeDaemon, path: Path) -> None:
    daemon.replies = {"state": [b"x" * 900_000] * 5}
    (answer,) = ask([path], [Query(id=1, what="state")], 10)
    assert isinstance(answer, Reply)
    assert answer.body == b"x" * 4_500_000


def test_the_second_socket_serves_when_nobody_is_at_the_first(
    daemon: FakeDaemon, path: Path, tmp_path: Path
) -> None:
    assert ask([tmp_path / "none.sock", path], [Health(id=1)], 5)


def test_no_answer_in_time(daemon: FakeDaemon, path: Path) -> None:
    daemon.replies = {"projects": []}

    def attempt(seconds: float) -> tuple[DeliveryError, float]:
        with pytest.raises(DeliveryError) as told:
            ask([path], [Query(id=1, what="projects")], seconds)
        return told.value, seconds

    error, seconds = with_enough_time(attempt, lambda _: daemon.hellos)
    assert isinstance(error, ReplyTimeout)
    assert f"connected, but nothing within {seconds:g} s" in str(error)


def test_the_daemon_goes_away_before_it_answers(daemon: FakeDaemon, path: Path) -> None:
    daemon.replies = {"projects": []}

    def cut() -> None:
        until(lambda: daemon.hellos)
        daemon.cut()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(DeliveryError, match=r"closed the connection|broke"):
        ask([path], [Query(id=1, what="projects")], 10)
    cutter.join()


def test_a_conversation_can_stay_open_after_its_answers(daemon: FakeDaemon, path: Path) -> None:
    asking = Asking([path], [Health(id=1)], 10, time.monotonic)
    try:
        assert asking.version == ""
        asking.run("me")
        assert (asking.path, asking.version) == (path, "0.0.9")
        assert asking.goes_on()
        assert asking.goes_on()

        daemon.say_goodbye()
        until(lambda: not asking.goes_on())
    finally:
        asking.close()
    until(lambda: not daemon._connections)


def test_one_that_was_cut_does_not_go_on(daemon: FakeDaemon, path: Path) -> None:
    asking = Asking([path], [Health(id=1)], 10, time.monotonic)
    try:
        asking.run("me")
        daemon.cut()
        until(lambda: not asking.goes_on())
    finally:
        asking.close()


def test_asking_leaves_nothing_open(daemon: FakeDaemon, path: Path) -> None:
    # Unclosed sockets would be ResourceWarnings, which are errors here.
    for _ in range(3):
        ask([path], [Health(id=1)], 5)
    until(lambda: not daemon._connections)


# One connection.


def test_what_the_system_does_not_take_is_kept_and_sent_later(
    pair: tuple[Transport, socket.socket],
) -> None:
    transport, other = pair
    first, second = b"a" * 3_000_000, b"b" * 10
    transport.send(first)
    transport.send(second)
    assert transport.unsent
    received = bytearray()
    while len(received) < len(first) + len(second):
        received += other.recv(1 << 20)
        transport.resume()
    assert received == first + second
    assert not transport.unsent


def test_pieces_arrive_in_their_order_however_few_the_system_takes(
    pair: tuple[Transport, socket.socket],
) -> None:
    transport, other = pair
    pieces = [bytes([number]) * 30_000 for number in range(200)]
    transport.send(*pieces[:150])
    transport.send(*pieces[150:])
    received = bytearray()
    while transport.unsent or len(received) < 200 * 30_000:
        received += other.recv(100_000)
        transport.resume()
    assert received == b"".join(pieces)


def test_retract_keeps_the_rest_of_a_piece_that_has_begun(
    pair: tuple[Transport, socket.socket],
) -> None:
    transport, other = pair
    first = b"a" * 3_000_000
    transport.send(first)
    transport.send(b"b" * 10)
    transport.retract()
    received = bytearray()
    while transport.unsent or len(received) < len(first):
        received += other.recv(1 << 20)
        transport.resume()
    transport.send(b"c")
    received += other.recv(10)
    assert received == first + b"c"


def test_retract_of_nothing_begun_leaves_nothing(pair: tuple[Transport, socket.socket]) -> None:
    transport, other = pair
    while not transport.unsent:
        # Small enough that the system takes a piece whole or not at all.
        transport.send(b"a" * 100)
    transport.send(b"b")
    transport.retract()
    assert not transport.unsent
    transport.send(b"end")
    received = b""
    while not received.endswith(b"end"):
        received += other.recv(1 << 20)
        transport.resume()
    assert set(received[:-3]) == {ord("a")}


def test_receive_tells_nothing_yet_from_the_end(pair: tuple[Transport, socket.socket]) -> None:
    transport, other = pair
    assert transport.receive() is None
    other.sendall(b"hello")
    assert transport.receive() == b"hello"
    other.close()
    assert transport.receive() == b""


def test_sending_to_nobody_is_an_os_error(pair: tuple[Transport, socket.socket]) -> None:
    transport, other = pair
    other.close()
    with pytest.raises(OSError, match="pipe"):
        transport.send(b"x")


# Waiting.


@pytest.fixture
def poller() -> Iterator[Poller]:
    made = Poller()
    yield made
    made.close()


def test_a_wait_ends_with_its_time(poller: Poller) -> None:
    assert poller.wait(0) == 0
    assert poller.wait(0.001) == 0


def test_a_wake_up_ends_a_wait_and_stays_until_cleared(poller: Poller) -> None:
    waker = threading.Thread(target=poller.wake)
    waker.start()
    assert poller.wait(10) == WOKEN
    waker.join()
    poller.wake()
    assert poller.wait(10) == WOKEN
    poller.clear()
    assert poller.wait(0) == 0
    poller.wake()
    assert poller.wait(10) == WOKEN


def test_a_thousand_wake_ups_are_one(poller: Poller) -> None:
    for _ in range(100_000):
        poller.wake()
    poller.clear()
    assert poller.wait(0) == 0


def test_waking_after_the_end_does_nothing(poller: Poller) -> None:
    poller.close()
    poller.wake()


def test_readable_and_writable(poller: Poller, pair: tuple[Transport, socket.socket]) -> None:
    transport, other = pair
    poller.watch(transport)
    assert poller.wait(0) == 0
    other.sendall(b"x")
    assert poller.wait(10) == READABLE
    assert transport.receive() == b"x"
    transport.send(b"a" * 3_000_000)
    assert poller.wait(0) == 0
    other.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while other.recv(1 << 20):
            pass
    assert poller.wait(10) == WRITABLE
    poller.watch(None)
    other.close()
    assert poller.wait(0) == 0


def test_the_end_of_a_connection_is_readable(
    poller: Poller, pair: tuple[Transport, socket.socket]
) -> None:
    transport, other = pair
    poller.watch(transport)
    other.close()
    assert poller.wait(10) == READABLE
