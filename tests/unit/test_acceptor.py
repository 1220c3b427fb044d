from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tallymarkd.server import acceptor as acceptor_module
from tallymarkd.server.acceptor import EPISODE_SECONDS, Acceptor
from tests.daemon_parts import until


class Listening(socket.socket):
    """A socket whose ``accept`` fails as the test says."""

    failures: Iterator[int] = iter(())

    def accept(self) -> tuple[socket.socket, Any]:
        number = next(self.failures, 0)
        if number:
            raise OSError(number, "as the test says")
        return super().accept()


class Guest(asyncio.Protocol):
    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.scene.guests.append(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.scene.acceptor.closed()


class Scene:
    """An acceptor on a real socket with room for so many; what the loop was told."""

    def __init__(self, path: Path, stack: ExitStack, room: int) -> None:
        self.path = path
        self.stack = stack
        self.room = room
        self.now = 0.0
        self.guests: list[Any] = []
        self.errors: list[dict[str, Any]] = []
        self.sock = Listening(socket.AF_UNIX)
        stack.callback(self.sock.close)
        self.sock.bind(str(path))
        self.sock.listen(100)
        self.sock.setblocking(False)
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.errors.append(context)
        )
        self.acceptor = Acceptor(
            self.sock, lambda: Guest(self), lambda: self.room, lambda: self.now
        )
        self.acceptor.start()

    def connect(self) -> socket.socket:
        client = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        client.connect(str(self.path))
        return client

    async def come(self, count: int) -> None:
        await until(lambda: len(self.guests) == count, f"{count} guests")


def play(
    tmp_path: Path, test: Callable[[Scene], Coroutine[Any, Any, None]], room: int = 100
) -> None:
    async def main() -> None:
        with ExitStack() as stack:
            scene = Scene(tmp_path / "s", stack, room)
            await test(scene)
            await scene.acceptor.stop()
            assert scene.errors == []

    asyncio.run(main())


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get
)
def test_what_the_machine_lacks_is_told_once_and_ends_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    monkeypatch.setattr(acceptor_module, "RETRY_SECONDS", 0.001)

    async def test(scene: Scene) -> None:
        scene.sock.failures = iter([number] * 3)
        scene.connect()
        await scene.come(1)
        assert caplog.text.count("cannot accept connections: as the test says") == 1
        scene.now += EPISODE_SECONDS - 1
        scene.sock.failures = iter([number])
        scene.connect()
        await scene.come(2)
        assert caplog.text.count("cannot accept connections") == 1
        scene.now += EPISODE_SECONDS
        scene.sock.failures = iter([number])
        scene.connect()
        await scene.come(3)
        assert caplog.text.count("cannot accept connections") == 2

    play(tmp_path, test)


def test_a_fault_of_the_socket_is_not_taken_for_a_lack(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.sock.failures = iter([errno.EINVAL])
        scene.connect()
        await until(lambda: bool(scene.errors), "the error")
        assert scene.errors.pop()["exception"].errno == errno.EINVAL

    play(tmp_path, test)


def test_who_has_gone_again_is_no_trouble(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.sock.failures = iter([errno.ECONNABORTED])
        scene.connect()
        await scene.come(1)

    play(tmp_path, test)


def test_nobody_is_accepted_for_whom_there_is_no_room(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        clients = [scene.connect() for _ in range(5)]
        await scene.come(2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(scene.guests) == scene.acceptor.open == 2

        clients[0].close()
        await scene.come(3)
        assert scene.acceptor.open == 2
        clients[1].close()
        await scene.come(4)

    play(tmp_path, test, room=2)


def test_room_that_comes_without_a_close_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a reload."""
    monkeypatch.setattr(acceptor_module, "RETRY_SECONDS", 0.001)

    async def test(scene: Scene) -> None:
        for _ in range(3):
            scene.connect()
        await scene.come(1)
        scene.room = 2
        await scene.come(2)
        assert scene.acceptor.open == 2

    play(tmp_path, test, room=1)


@pytest.mark.parametrize("lacking", [True, False])
def test_after_the_stop_nothing_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: bool
) -> None:
    monkeypatch.setattr(acceptor_module, "RETRY_SECONDS", 0.001)

    async def test(scene: Scene) -> None:
        scene.sock.failures = iter([errno.EMFILE] * (1000 if lacking else 0))
        scene.connect()
        if not lacking:
            await scene.come(1)
        else:
            await until(lambda: next(scene.sock.failures, 0) > 0, "a failure")
        await scene.acceptor.stop()
        assert scene.sock.fileno() == -1
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, done.set)  # later than the next try
        await done.wait()
        await scene.acceptor.stop()

    play(tmp_path, test)


def test_who_was_accepted_when_it_stops_is_seen_in(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        for _ in range(10):
            scene.connect()
        await until(lambda: scene.acceptor.open == 10, "ten accepted")
        await scene.acceptor.stop()
        assert len(scene.guests) == 10

    play(tmp_path, test)


def test_a_connection_that_never_comes_to_its_protocol_leaves_its_room(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.acceptor._make = lambda: 1 / 0  # type: ignore[assignment, return-value]  # a fault
        scene.connect()
        await until(lambda: bool(scene.errors), "the fault")
        assert isinstance(scene.errors.pop()["exception"], ZeroDivisionError)
        assert scene.acceptor.open == 0

    play(tmp_path, test)
