from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tallymark import fs as module
from tallymark.fs import FileSystem, OsFileSystem, is_locked, is_socket, read_file, write_file
from tests.faulty_fs import FaultyFs, Killed
from tests.memory_fs import MemoryFs

Place = tuple[FileSystem, Path]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=["real", "memory", "faulty"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Every implementation keeps the same contract, so that a test can trust its own."""
    made: dict[str, Callable[[], FileSystem]] = {
        "real": OsFileSystem,
        "memory": MemoryFs,
        "faulty": FaultyFs,
    }
    fs = made[request.param]()
    fs.mkdir(tmp_path / "a" / "b")
    return fs, tmp_path / "a" / "b"


def test_what_is_written_is_read(place: Place) -> None:
    fs, folder = place
    fd = fs.create(folder / "file")
    fs.write(fd, b"hello", 3)
    fs.write(fd, memoryview(b"J"), 3)
    assert (fs.size(fd), fs.read(fd, 100, 0), fs.read(fd, 2, 4), fs.read(fd, 5, 9)) == (
        8,
        b"\0\0\0Jello",
        b"el",
        b"",
    )
    fs.sync_data(fd)
    fs.sync(fd)
    fs.sync_dir(folder)
    fs.close(fd)
    fd = fs.open_write(folder / "file")
    fs.truncate(fd, 4)
    fs.truncate(fd, 6)
    fs.close(fd)
    assert read_file(fs, folder / "file") == b"\0\0\0J\0\0"


def test_allocated_blocks_are_zeros_and_harm_nothing(place: Place) -> None:
    fs, folder = place
    fd = fs.create(folder / "file")
    fs.write(fd, b"abc", 0)
    fs.allocate(fd, 3, 5)
    assert (fs.size(fd), fs.read(fd, 100, 0)) == (8, b"abc" + bytes(5))
    with pytest.raises(OSError, match="Invalid argument"):
        fs.allocate(fd, 3, 0)
    fs.close(fd)


def test_names(place: Place) -> None:
    fs, folder = place
    write_file(fs, folder / "one", b"1")
    write_file(fs, folder / "two", b"2")
    assert fs.names(folder) == ["one", "two"]
    with pytest.raises(FileExistsError):
        fs.create(folder / "one")
    with pytest.raises(FileExistsError):
        fs.link(folder / "two", folder / "one")
    fs.link(folder / "one", folder / "other")
    fs.replace(folder / "two", folder / "one")
    assert fs.names(folder) == ["one", "other"]
    assert [read_file(fs, folder / name) for name in fs.names(folder)] == [b"2", b"1"]
    fs.unlink(folder / "one")
    fs.unlink(folder / "one")
    assert [fs.exists(folder / name) for name in ("one", "other")] == [False, True]
    assert fs.names(folder / "absent") == []
    for absent in (fs.open_read, fs.open_write):
        with pytest.raises(FileNotFoundError):
            absent(folder / "one")
    with pytest.raises(FileNotFoundError):
        fs.replace(folder / "one", folder / "two")


def test_only_an_empty_directory_is_removed(tmp_path: Path) -> None:
    fs = OsFileSystem()
    fs.mkdir(tmp_path / "a" / "b")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(tmp_path / "a")

    fs.rmdir(tmp_path / "a" / "b")
    fs.rmdir(tmp_path / "a")

    assert not (tmp_path / "a").exists()


def test_a_directory_that_is_there_is_no_error(place: Place) -> None:
    fs, folder = place
    fs.mkdir(folder)
    assert fs.exists(folder)


def test_a_lock_is_held_until_it_is_closed(place: Place) -> None:
    fs, folder = place
    held = fs.lock(folder / "lock")
    with pytest.raises(BlockingIOError):
        fs.lock(folder / "lock")
    fs.close(held)
    fs.close(fs.lock(folder / "lock"))
    assert fs.names(folder) == ["lock"]


def test_free_bytes(place: Place) -> None:
    fs, folder = place
    assert fs.free_bytes(folder) > 0


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    fs = OsFileSystem()
    before = os.umask(0)
    try:
        fs.mkdir(tmp_path / "x" / "y")
        fds = [fs.create(tmp_path / "x" / "file"), fs.lock(tmp_path / "x" / "lock")]
    finally:
        os.umask(before)
    assert [mode(tmp_path / "x" / name) for name in ("", "y", "file", "lock")] == [
        0o700,
        0o700,
        0o600,
        0o600,
    ]
    fds.append(fs.open_read(tmp_path / "x" / "file"))
    fds.append(fs.open_write(tmp_path / "x" / "file"))
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in fds:
        fs.close(fd)


def test_no_symlink_is_followed(tmp_path: Path) -> None:
    fs = OsFileSystem()
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("absent")
    for opening in (fs.open_read, fs.open_write, fs.lock):
        with pytest.raises(OSError) as caught:
            opening(tmp_path / "link")
        assert caught.value.errno == errno.ELOOP
    with pytest.raises(FileExistsError):
        fs.create(tmp_path / "dangling")
    assert fs.exists(tmp_path / "dangling")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    fs = OsFileSystem()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    before = len(os.listdir("/dev/fd"))
    for path in (tmp_path / "fifo", tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file"):
            read_file(fs, path)
    assert len(os.listdir("/dev/fd")) == before


def test_a_file_in_the_way_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(OSError):
            OsFileSystem().mkdir(path)


def test_short_reads_and_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, 3), at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:3], at))
    fs = OsFileSystem()
    for data in (b"0123456789", bytearray(b"abcdefg"), memoryview(b"ABCDEFGHI")):
        write_file(fs, tmp_path / "file", bytes(data))
        assert read_file(fs, tmp_path / "file") == bytes(data)
        fd = fs.open_write(tmp_path / "file")
        fs.write(fd, data, 0)
        assert fs.read(fd, 100, 0) == bytes(data)
        fs.close(fd)


def test_a_write_without_progress_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    with pytest.raises(OSError, match="no progress"):
        write_file(OsFileSystem(), tmp_path / "file", b"data")


def test_where_blocks_cannot_be_reserved_zeros_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    fs = OsFileSystem()
    monkeypatch.setattr(module, "READ_CHUNK_BYTES", 4)
    write_file(fs, tmp_path / "file", b"abc")
    fd = fs.open_write(tmp_path / "file")
    for missing in (False, True):
        if missing:
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
        else:
            monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
        fs.truncate(fd, 3)
        fs.allocate(fd, 3, 10)
        assert fs.read(fd, 100, 0) == b"abc" + bytes(10)
    fs.close(fd)


def test_no_room_for_blocks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    fs = OsFileSystem()
    write_file(fs, tmp_path / "file", b"")
    fd = fs.open_write(tmp_path / "file")
    with pytest.raises(OSError, match="full"):
        fs.allocate(fd, 0, 10)
    fs.close(fd)


def test_what_is_synced_reaches_the_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, str]] = []

    def note(kind: str) -> Callable[[int], None]:
        return lambda fd: synced.append((kind, Path(os.readlink(f"/proc/self/fd/{fd}")).name))

    if not sys.platform.startswith("linux"):
        pytest.skip("not on this platform: names of descriptors come from /proc")
    monkeypatch.setattr(os, "fsync", note("fsync"))
    monkeypatch.setattr(os, "fdatasync", note("fdatasync"))
    fs = OsFileSystem()
    fs.mkdir(tmp_path / "a" / "b")
    fs.mkdir(tmp_path / "a" / "b")
    assert synced == [("fsync", tmp_path.name), ("fsync", "a")]
    synced.clear()
    write_file(fs, tmp_path / "file", b"")
    write_file(fs, tmp_path / "file", b"", sync=fs.sync_data)
    fs.sync_dir(tmp_path)
    assert synced == [("fsync", "file"), ("fdatasync", "file"), ("fsync", tmp_path.name)]


@pytest.mark.skipif(sys.platform != "darwin", reason="not on this platform: F_FULLFSYNC is macOS's")
def test_on_macos_the_drives_cache_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, what: asked.append(what))
    write_file(OsFileSystem(), tmp_path / "file", b"", sync=OsFileSystem().sync_data)
    assert asked == [51]


def test_write_file_removes_what_is_left_over(place: Place) -> None:
    fs, folder = place
    write_file(fs, folder / "file", b"a longer one")
    fs.link(folder / "file", folder / "other")
    write_file(fs, folder / "file", b"short")
    assert read_file(fs, folder / "file") == b"short"
    assert read_file(fs, folder / "other") == b"a longer one"


def test_sockets_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        assert is_socket(Path("s"))
    (tmp_path / "file").write_bytes(b"")
    assert not is_socket(tmp_path / "file")
    assert not is_socket(tmp_path / "absent")


# The file systems that other tests rely on.


def test_a_fault_happens_when_it_was_asked_for() -> None:
    fs = FaultyFs(MemoryFs())
    fs.fail("write", errno.ENOSPC, skip=1, times=2, written=2, name="b")
    fds = {name: fs.create(Path("/") / name) for name in "ab"}
    outcomes = []
    for name in "abbbb":
        try:
            fs.write(fds[name], b"12345", 0)
            outcomes.append(0)
        except OSError as error:
            outcomes.append(error.errno or 0)
        if len(outcomes) == 3:
            assert fs.size(fds["b"]) == 5
    assert outcomes == [0, 0, errno.ENOSPC, errno.ENOSPC, 0]
    assert fs.kinds() == ["create", "create", *["write"] * 5]


def test_a_write_can_come_short() -> None:
    fs = FaultyFs(MemoryFs())
    fs.fail("write", errno.ENOSPC, written=2)
    fd = fs.create(Path("/a"))
    with pytest.raises(OSError, match="No space left"):
        fs.write(fd, b"12345", 0)
    assert fs.read(fd, 10, 0) == b"12"


@pytest.mark.parametrize(("done", "left"), [(False, b""), (True, b"12345")])
def test_after_a_kill_nothing_happens_any_more(done: bool, left: bytes) -> None:
    disk = MemoryFs()
    fs = FaultyFs(disk)
    fd = fs.create(Path("/a"))
    fs.kill(0, done=done)
    fs.size(fd)
    with pytest.raises(Killed):
        fs.write(fd, b"12345", 0)
    for act in (lambda: fs.unlink(Path("/a")), lambda: fs.names(Path("/"))):
        with pytest.raises(Killed):
            act()
    fs.close(fd)
    assert disk.content(Path("/a")) == left


def test_the_record_follows_a_file_through_its_names() -> None:
    fs = FaultyFs(MemoryFs())
    write_file(fs, Path("/a"), b"1")
    fs.link(Path("/a"), Path("/b"))
    fs.replace(Path("/a"), Path("/c"))
    write_file(fs, Path("/a"), b"2")
    for name in "abc":
        fs.close(fs.open_write(Path("/") / name))
        fd = fs.open_write(Path("/") / name)
        fs.write(fd, b"x", 0)
        fs.close(fd)
    files = [each.file for each in fs.operations if each.kind == "write"]
    assert files == [files[0], files[1], files[1], files[0], files[0]]
    assert files[0] != files[1]


def test_a_lock_on_what_must_be_there(tmp_path: Path) -> None:
    fs = OsFileSystem()
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        fs.lock_existing(path)
    assert not path.exists()
    fs.close(fs.create(path))
    held = fs.lock_existing(path)
    with pytest.raises(BlockingIOError):
        fs.lock_existing(path)
    fs.close(held)
    fs.close(fs.lock_existing(path))
    path.with_name("link").symlink_to(path)
    path.with_name("folder").mkdir()
    for name in ("link", "folder"):
        with pytest.raises(OSError, match="symbolic|directory|regular"):
            fs.lock_existing(path.with_name(name))


def test_another_users_file_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = OsFileSystem()
    path = tmp_path / "file"
    fs.close(fs.create(path))
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(PermissionError, match="another user"):
        fs.lock_existing(path)


def test_a_file_that_its_owner_removed_meanwhile_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the owner removed it, locked after the owner let go."""
    fs = OsFileSystem()
    path = tmp_path / "file"
    fs.close(fs.create(path))
    flock = fcntl.flock

    def removed_first(fd: int, how: int) -> None:
        path.unlink()
        path.touch()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with pytest.raises(FileNotFoundError):
        fs.lock_existing(path)


def survivors(fs: MemoryFs, path: Path) -> set[bytes]:
    found = set()
    for seed in range(300):
        left = fs.after_power_cut(random.Random(seed))
        found.add(left.content(path) if left.exists(path) else b"no name")
    return found


def test_a_power_cut_takes_only_what_was_not_synced() -> None:
    fs = MemoryFs()
    path = Path("/a")
    fd = fs.create(path)
    fs.write(fd, b"11", 0)
    assert survivors(fs, path) == {b"no name", b"", bytes(2), b"11"}
    fs.sync_dir(Path("/"))
    assert survivors(fs, path) == {b"", bytes(2), b"11"}
    fs.sync_data(fd)
    assert survivors(fs, path) == {b"11"}
    fs.write(fd, b"22", 511)
    first, second = (b"11" + bytes(509) + b"2", b"11" + bytes(510)), (b"2", b"\0")
    torn = {b"11"} | {head[:512] + tail for head in first for tail in second}
    assert survivors(fs, path) == torn
    fs.truncate(fd, 1)
    cut = survivors(fs, path)
    assert {b"1", b"1\0"} | torn <= cut
    assert {len(each) for each in cut} == {1, 2, 513}
    fs.sync(fd)
    fs.replace(path, Path("/b"))
    assert survivors(fs, path) == {b"1", b"no name"}
    assert survivors(fs, Path("/b")) == {b"1", b"no name"}
    fs.sync_dir(Path("/"))
    assert survivors(fs, path) == {b"no name"}


def test_a_kill_takes_nothing_that_was_written() -> None:
    fs = MemoryFs()
    fd = fs.create(Path("/a"))
    fs.write(fd, b"11", 0)
    left = fs.after_kill()
    assert left.contents() == {Path("/a"): b"11"}
    fs.write(fd, b"22", 0)
    assert left.content(Path("/a")) == b"11"
    assert survivors(left, Path("/a")) == {b"no name", b"", bytes(2), b"11"}


def test_a_name_has_no_change_without_those_before() -> None:
    fs = MemoryFs()
    for name in "ab":
        write_file(fs, Path("/") / name, name.encode())
    fs.sync_dir(Path("/"))
    fs.replace(Path("/a"), Path("/old"))
    fs.link(Path("/b"), Path("/a"))
    found = set()
    for seed in range(100):
        left = fs.after_power_cut(random.Random(seed))
        found.add(tuple(sorted((path.name, body) for path, body in left.contents().items())))
    assert found == {
        (("a", b"a"), ("b", b"b")),
        (("b", b"b"), ("old", b"a")),
        (("a", b"b"), ("b", b"b"), ("old", b"a")),
    }


def test_the_names_of_one_call_change_together() -> None:
    fs = MemoryFs()
    old, new = Path("/a/x"), Path("/b/x")
    for path in (old, new):
        fs.mkdir(path.parent)
    fs.close(fs.create(old))
    fs.sync_dir(old.parent)
    fs.replace(old, new)
    fs.link(new, Path("/b/y"))
    found = set()
    for seed in range(100):
        left = fs.after_power_cut(random.Random(seed))
        found.add((left.exists(old), left.exists(new), left.exists(Path("/b/y"))))
    assert found == {
        (True, False, False), (True, False, True), (False, True, False), (False, True, True),
    }  # fmt: skip
    fs.sync_dir(new.parent)
    assert {die.kind for die in fs.dice()} == {"name"}
    assert [fs.left([answer]).exists(old) for answer in (0, 1)] == [True, False]
    assert fs.left([0]).exists(new)


def test_a_stamp_follows_the_file_and_changes_with_its_content(tmp_path: Path) -> None:
    fs = OsFileSystem()
    first, second = tmp_path / "a", tmp_path / "b"
    assert fs.stamp(first) is None
    first.write_bytes(b"1")
    stamp = fs.stamp(first)
    fs.link(first, second)
    fs.replace(first, tmp_path / "c")
    assert fs.stamp(second) == fs.stamp(tmp_path / "c") == stamp
    second.write_bytes(b"12")
    assert fs.stamp(second) != stamp


def test_a_lock_is_seen_without_being_made(tmp_path: Path) -> None:
    fs, path = OsFileSystem(), tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    lock = fs.lock(path)
    assert is_locked(path)
    fs.close(lock)
    assert not is_locked(path)
    # Looking has left nothing behind that would keep a daemon from starting.
    fs.close(fs.lock(path))
