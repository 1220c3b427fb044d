"""Nonsense at the real daemon's socket: each gets its refusal, and nobody else is harmed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tallymark import Client
from tallymark.events import Usage
from tallymark.protocol import messages
from tallymark.protocol.framing import FrameDecoder
from tallymark.protocol.messages import Ack, Refused, ServerMessage
from tests.daemon import DEADLINE_SECONDS, Daemon, running, wait_for
from tests.nonsense import TONGUES, Nonsense, noise
from tests.nonsense_frames import EVENTS, FRAMES, MESSAGES, STATES, hello, of_producer
from tests.nonsense_http import BODIES, HIDDEN, REQUESTS

CORPUS = [*TONGUES, *noise(), *FRAMES, *MESSAGES, *STATES, *EVENTS, *REQUESTS, *BODIES]

TIMEOUT_SECONDS = 0.2
EVENTS_BETWEEN = 20


def connect(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(DEADLINE_SECONDS)
    sock.connect(str(daemon.socket))
    return sock


def read_to_the_end(sock: socket.socket) -> bytes:
    """Everything that is said until the other side closes."""
    said = b""
    try:
        while data := sock.recv(65536):
            said += data
    except ConnectionResetError:
        # It closed with bytes of ours unread; what it had said came before.
        pass
    return said


def talk(daemon: Daemon, sends: bytes, *, hang_up: bool) -> bytes:
    """Send it all, and hear what is said to it. Fails when the daemon does not close."""
    with connect(daemon) as sock:
        try:
            sock.sendall(sends)
            if hang_up:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            # It has refused us before all was sent.
            pass
        return read_to_the_end(sock)


def decode(said: bytes) -> list[ServerMessage]:
    frames = FrameDecoder()
    found = [messages.decode_server(payload) for payload in frames.feed(said)]
    assert frames.buffered_bytes == 0, "a message is cut short"
    return found


def check(nonsense: Nonsense, said: bytes) -> None:
    if nonsense.line is not None:
        assert said == nonsense.line
    elif nonsense.silent:
        assert said == b""
    elif nonsense.http is not None:
        status, told = nonsense.http
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode()), said
        assert told in body.decode()
        assert body.count(b"HTTP/1.1 ") == 0, "a hidden request was answered"
    elif nonsense.refused is not None:
        last = decode(said)[-1]
        assert isinstance(last, Refused)
        assert (last.code, last.message) == nonsense.refused
    else:
        assert nonsense.ack is not None
        last = decode(said)[-1]
        assert isinstance(last, Ack)
        assert {"stored": last.stored, **last.reasons} == {"stored": 0, **nonsense.ack}
        assert last.rejected == sum(last.reasons.values())


def ends_itself(nonsense: Nonsense) -> bool:
    """Whether we hang up: the daemon has no reason to."""
    return nonsense.silent or nonsense.ack is not None


def give(daemon: Daemon, nonsense: Nonsense, number: int) -> None:
    sends = of_producer(nonsense.sends, number)
    check(nonsense, talk(daemon, sends, hang_up=ends_itself(nonsense)))


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the whole corpus, as it would be."""
    with running(tmp_path_factory.mktemp("nonsense") / "state") as daemon:
        yield daemon


def test_the_hidden_request_would_be_taken(standing: Daemon) -> None:
    """Else it would not show that it is not found."""
    said = talk(standing, HIDDEN, hang_up=True)
    assert said.startswith(b"HTTP/1.1 200 OK")


def test_every_nonsense_has_a_name_of_its_own() -> None:
    names = [nonsense.name for nonsense in CORPUS]
    assert len(set(names)) == len(names) > 150


@pytest.mark.parametrize("number", range(len(CORPUS)), ids=lambda number: CORPUS[number].name)
def test_it_gets_its_refusal(standing: Daemon, number: int) -> None:
    give(standing, CORPUS[number], number + 1)
    assert standing.health().status == "ok"


def test_others_go_on_unharmed(daemon: Daemon) -> None:
    """A client delivers all the time; no descriptor is left behind, and nothing is logged."""
    wait_for("its first words", lambda: "agents find it" in daemon.log())
    quiet = open_files(daemon)
    lines = len(daemon.log().splitlines())
    emitted = 0
    with Client("good", socket=daemon.socket, linger_seconds=0) as client:
        client.emit(Usage(agent_name="good", input_tokens=1), durable=True)
        for number, nonsense in enumerate(CORPUS, 1):
            for _ in range(EVENTS_BETWEEN):
                emitted += client.emit(Usage(agent_name="good", input_tokens=1))
            give(daemon, nonsense, number)
        client.flush(DEADLINE_SECONDS)
        stats = client.stats()
        assert client.dump().agents["good"].total_tokens == emitted + 1
    assert stats.acknowledged == emitted + 1 == EVENTS_BETWEEN * len(CORPUS) + 1
    assert (stats.dropped, stats.rejected, stats.duplicate) == ({}, {}, 0)
    stored = sum(nonsense.stored for nonsense in CORPUS)
    assert daemon.ledger["stored"] == stats.acknowledged + stored
    wait_for("no descriptor more than before", lambda: open_files(daemon) <= quiet)
    assert daemon.log().splitlines()[lines:] == []
    assert daemon.health().status == "ok"


def open_files(daemon: Daemon) -> int:
    assert daemon.process is not None
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def test_all_at_once_and_never_read(daemon: Daemon) -> None:
    """Nobody waits for his answer, and half of them never hang up."""
    quiet = open_files(daemon)
    socks: list[socket.socket] = []

    def pour(part: list[tuple[int, Nonsense]]) -> None:
        for number, nonsense in part:
            sock = socket.socket(socket.AF_UNIX)
            socks.append(sock)
            sock.connect(str(daemon.socket))
            sock.setblocking(False)
            try:
                sock.send(of_producer(nonsense.sends, number))
            except OSError:
                continue

    numbered = list(enumerate(CORPUS, 1))
    threads = [threading.Thread(target=pour, args=(numbered[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Client("good", socket=daemon.socket) as client:
        for _ in range(100):
            client.emit(Usage(agent_name="good", input_tokens=1), durable=True)
    for sock in socks:
        sock.close()
    wait_for("no descriptor more than before", lambda: open_files(daemon) <= quiet)
    assert "Traceback" not in daemon.log()
    assert daemon.health().status == "ok"


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Daemon]:
    """One that waits a short time only."""
    seconds = str(TIMEOUT_SECONDS)
    options = ("--first-byte-timeout-seconds", seconds, "--frame-timeout-seconds", seconds)
    with running(tmp_path / "state", *options) as daemon:
        yield daemon


LATE = f"cannot wait longer: a frame was not finished within {TIMEOUT_SECONDS:g} s"


@pytest.mark.parametrize(
    ("sends", "told"),
    [
        (b"", ""),
        (b"P", ""),
        (b"GET /v1/health HTTP/1.1\r\n", ""),
        (b"\xc1", LATE),
        (hello()[:4], LATE),
        (hello()[:-1], LATE),
        (hello()[:4] + b"\0\0\x10\0" + bytes(1000), LATE),
    ],
    ids=["nothing", "a letter", "half a head", "C1", "a preface", "half a frame", "a large frame"],
)
def test_half_of_it_is_not_waited_for_for_ever(impatient: Daemon, sends: bytes, told: str) -> None:
    said = talk(impatient, sends, hang_up=False)
    if not told:
        assert said == b""
        return
    (refused,) = decode(said)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.message) == ("protocol_error", told)
