from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tallymark.errors import PathError, StorageError
from tallymark.fs import OsFileSystem
from tallymark.paths import SOCKET_PATH_BYTES_MAX
from tallymarkd.server.listener import Listener, listen

PROGRAM_ERRORS = (PathError, StorageError)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "t.sock"


@contextmanager
def listening(path: Path) -> Iterator[Listener]:
    listener = listen(OsFileSystem(), path)
    try:
        yield listener
    finally:
        listener.close()


def reaches(path: Path, listener: Listener) -> bool:
    """Whether who connects to the path comes out at this listener."""
    listener.sock.setblocking(True)
    listener.sock.settimeout(5.0)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        accepted, _ = listener.sock.accept()
        with accepted:
            client.sendall(b"x")
            return accepted.recv(1) == b"x"


def test_it_listens(path: Path) -> None:
    with listening(path) as listener:
        assert listener.path == path
        assert not listener.sock.getblocking()
        assert reaches(path, listener)


def test_socket_and_directory_are_private_from_the_first_moment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    before = os.umask(0)
    try:
        bind = socket.socket.bind

        def look(sock: socket.socket, address: str) -> None:
            bind(sock, address)
            modes.append(stat.S_IMODE(os.lstat(address).st_mode))

        monkeypatch.setattr(socket.socket, "bind", look)
        with listening(path):
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            # What the umask was is as it was.
            umask = os.umask(0)
    finally:
        os.umask(before)

    assert modes == [0o600]
    assert umask == 0


def test_the_name_is_gone_after_the_close(path: Path) -> None:
    with listening(path):
        pass

    assert not path.exists()
    with listening(path) as listener:
        assert reaches(path, listener)


def test_the_name_is_left_alone_when_it_is_not_ours_any_more(path: Path) -> None:
    listener = listen(OsFileSystem(), path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))

        listener.close()

        assert path.exists()


def test_a_close_after_the_name_was_removed(path: Path) -> None:
    listener = listen(OsFileSystem(), path)
    path.unlink()

    listener.close()

    with listening(path) as listener:
        assert reaches(path, listener)


def test_a_stale_socket_is_removed(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    with listening(path) as listener:
        assert reaches(path, listener)


def test_a_live_socket_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(5)

        with pytest.raises(StorageError, match=r"cannot listen on .*another program"):
            listen(OsFileSystem(), path)

        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            other.accept()[0].close()


def test_a_live_socket_with_a_full_backlog_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallymarkd.server.listener.PROBE_SECONDS", 0.01)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(5)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(str(path))

        with pytest.raises(StorageError, match="another program"):
            listen(OsFileSystem(), path)

        assert path.is_socket()
        for client in waiting:
            client.close()


def test_a_socket_of_another_kind_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))

        with pytest.raises(StorageError, match="cannot listen on"):
            listen(OsFileSystem(), path)

        assert path.is_socket()


def make_file(path: Path) -> None:
    path.write_text("mine")


def make_directory(path: Path) -> None:
    path.mkdir()


def make_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def make_link_to_a_socket(path: Path) -> None:
    other = path.with_name("other.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(other))
    path.symlink_to(other)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make", [make_file, make_directory, make_link, make_link_to_a_socket, make_pipe]
)
def test_what_is_no_socket_is_left_alone(path: Path, make: Callable[[Path], None]) -> None:
    path.parent.mkdir()
    make(path)
    before = os.lstat(path)

    with pytest.raises(PathError, match=r"cannot listen on .*no socket.*--socket"):
        listen(OsFileSystem(), path)

    assert os.lstat(path) == before


def test_a_path_that_is_too_long_is_refused_by_its_length(tmp_path: Path) -> None:
    room = SOCKET_PATH_BYTES_MAX - len(os.fsencode(tmp_path)) - 1
    with listening(tmp_path / ("s" * room)) as listener:
        assert reaches(tmp_path / ("s" * room), listener)

    with pytest.raises(PathError, match=str(SOCKET_PATH_BYTES_MAX)):
        listen(OsFileSystem(), tmp_path / ("s" * (room + 1)))


def test_two_listeners_on_one_path(path: Path) -> None:
    with listening(path) as first:
        with pytest.raises(StorageError, match="another tallymarkd"):
            listen(OsFileSystem(), path)
        assert reaches(path, first)

    with listening(path) as second:
        assert reaches(path, second)


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")

    with pytest.raises(PathError, match=r"cannot listen on .*Not a directory; .*--socket"):
        listen(OsFileSystem(), tmp_path / "run" / "t.sock")


def test_after_a_failure_the_path_can_be_used(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(PROGRAM_ERRORS):
        listen(OsFileSystem(), path)
    path.unlink()

    with listening(path) as listener:
        assert reaches(path, listener)
