"""A file system that records what is done to it, fails on demand, and dies on demand.

It wraps another one: the real one, or ``tests.memory_fs``. The record names
files by an identity that follows renames and links, so that the states in which
a crash may leave a disk can be built from it.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from tallymark.fs import FileSystem, OsFileSystem, Stamp

CHANGES = frozenset(
    "create write allocate truncate sync_data sync sync_dir replace link unlink mkdir rmdir"
    " lock".split()
)
"""Operations after which the disk, or what is durable of it, may be another."""

Result = TypeVar("Result")


class Killed(BaseException):
    """The process is dead: nothing may clean up after this."""


@dataclass(frozen=True)
class Operation:
    """One operation, as it was asked for.

    ``file`` is the identity of the file concerned, 0 where it is a directory.
    ``data`` are the bytes written, ``offset`` where; for ``truncate`` the offset
    is the new length, for ``allocate`` ``length`` bytes are reserved from it.
    ``failed`` when it raised, and nothing of it was carried out.
    """

    kind: str
    path: Path
    file: int = 0
    target: Path | None = None
    offset: int = 0
    length: int = 0
    data: bytes = b""
    failed: bool = False

    @property
    def changes(self) -> bool:
        return self.kind in CHANGES


@dataclass
class Fault:
    """What goes wrong: ``times`` operations of a kind fail, after ``skip`` that do not.

    A write hands ``written`` bytes on before it fails. With ``done`` the
    operation is carried out, and only its result is lost.
    """

    kind: str
    error: BaseException
    skip: int = 0
    times: float = 1
    written: int = 0
    done: bool = False
    name: str = ""

    def strikes(self, operation: Operation) -> bool:
        """Whether it happens now; counts."""
        names = (operation.path.name, operation.target.name if operation.target else "")
        if self.kind not in (operation.kind, "any") or (
            self.kind == "any" and not operation.changes
        ):
            return False
        if (self.name and self.name not in names) or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass
class _Opened:
    path: Path
    file: int


@dataclass
class FaultyFs:
    """Implements ``tallymark.fs.FileSystem``. Not thread-safe.

    After a kill every operation raises ``Killed`` again, but ``close``: whatever
    a program would still do then, a dead one does not.
    """

    inner: FileSystem = field(default_factory=OsFileSystem)
    operations: list[Operation] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    dead: bool = False
    before: Callable[[Operation], object] | None = None
    """Called before each operation; what it does itself comes first in the record."""
    _files: dict[Path, int] = field(default_factory=dict)
    _fds: dict[int, _Opened] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # What tests ask of it.

    def fail(
        self,
        kind: str,
        code: int = errno.EIO,
        *,
        skip: int = 0,
        times: float = 1,
        written: int = 0,
        done: bool = False,
        name: str = "",
    ) -> None:
        """Have operations of this kind (on a file of this name) fail with an errno."""
        error = OSError(code, os.strerror(code))
        self.faults.append(Fault(kind, error, skip, times, written, done, name))

    def kill(self, skip: int, *, kind: str = "any", written: int = 0, done: bool = False) -> None:
        """Die at a changing operation (of this kind), after ``skip`` that succeed."""
        self.faults.append(Fault(kind, Killed(), skip, 1, written, done))

    def heal(self) -> None:
        """No more faults."""
        self.faults.clear()

    def kinds(self) -> list[str]:
        """The kinds of the changing operations so far."""
        return [operation.kind for operation in self.operations if operation.changes]

    def count(self, kind: str) -> int:
        """How many operations of a kind were asked for so far."""
        return sum(operation.kind == kind for operation in self.operations)

    # FileSystem.

    def open_read(self, path: Path) -> int:
        return self._open(Operation("open_read", path), self.inner.open_read)

    def open_write(self, path: Path) -> int:
        return self._open(Operation("open_write", path), self.inner.open_write)

    def create(self, path: Path) -> int:
        return self._open(Operation("create", path, next(self._ids)), self.inner.create)

    def close(self, fd: int) -> None:
        self._fds.pop(fd, None)
        self.inner.close(fd)

    def read(self, fd: int, count: int, offset: int) -> bytes:
        operation = self._of("read", fd, offset=offset, length=count)
        return self._do(operation, lambda: self.inner.read(fd, count, offset))

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        whole = bytes(data)
        operation = self._of("write", fd, offset=offset, data=whole)
        self._do(
            operation,
            lambda: self.inner.write(fd, whole, offset),
            lambda count: self.inner.write(fd, whole[:count], offset),
        )

    def allocate(self, fd: int, offset: int, length: int) -> None:
        operation = self._of("allocate", fd, offset=offset, length=length)
        self._do(operation, lambda: self.inner.allocate(fd, offset, length))

    def truncate(self, fd: int, length: int) -> None:
        operation = self._of("truncate", fd, offset=length)
        self._do(operation, lambda: self.inner.truncate(fd, length))

    def size(self, fd: int) -> int:
        return self._do(self._of("size", fd), lambda: self.inner.size(fd))

    def sync_data(self, fd: int) -> None:
        self._do(self._of("sync_data", fd), lambda: self.inner.sync_data(fd))

    def sync(self, fd: int) -> None:
        self._do(self._of("sync", fd), lambda: self.inner.sync(fd))

    def sync_dir(self, path: Path) -> None:
        self._do(Operation("sync_dir", path), lambda: self.inner.sync_dir(path))

    def replace(self, source: Path, target: Path) -> None:
        operation = Operation("replace", source, self._id(source), target)
        self._do(operation, lambda: self.inner.replace(source, target))
        self._files[target] = self._files.pop(source)

    def link(self, source: Path, target: Path) -> None:
        operation = Operation("link", source, self._id(source), target)
        self._do(operation, lambda: self.inner.link(source, target))
        self._files[target] = self._id(source)

    def unlink(self, path: Path) -> None:
        operation = Operation("unlink", path, self._files.get(path, 0))
        self._do(operation, lambda: self.inner.unlink(path))
        self._files.pop(path, None)

    def mkdir(self, path: Path) -> None:
        self._do(Operation("mkdir", path), lambda: self.inner.mkdir(path))

    def rmdir(self, path: Path) -> None:
        self._do(Operation("rmdir", path), lambda: self.inner.rmdir(path))

    def names(self, path: Path) -> list[str]:
        return self._do(Operation("names", path), lambda: self.inner.names(path))

    def exists(self, path: Path) -> bool:
        return self._do(Operation("exists", path), lambda: self.inner.exists(path))

    def stamp(self, path: Path) -> Stamp | None:
        return self._do(Operation("stamp", path), lambda: self.inner.stamp(path))

    def free_bytes(self, path: Path) -> int:
        return self._do(Operation("free_bytes", path), lambda: self.inner.free_bytes(path))

    def lock(self, path: Path) -> int:
        return self._open(Operation("lock", path), self.inner.lock)

    def lock_existing(self, path: Path) -> int:
        return self._open(Operation("lock_existing", path), self.inner.lock_existing)

    def _open(self, operation: Operation, opening: Callable[[Path], int]) -> int:
        fd = self._do(operation, lambda: opening(operation.path))
        if operation.file:
            self._files[operation.path] = operation.file
        self._fds[fd] = _Opened(operation.path, self._id(operation.path))
        return fd

    def _id(self, path: Path) -> int:
        if path not in self._files:
            self._files[path] = next(self._ids)
        return self._files[path]

    def _of(
        self, kind: str, fd: int, *, offset: int = 0, length: int = 0, data: bytes = b""
    ) -> Operation:
        opened = self._fds[fd]
        return Operation(kind, opened.path, opened.file, offset=offset, length=length, data=data)

    def _do(
        self,
        operation: Operation,
        act: Callable[[], Result],
        part: Callable[[int], object] | None = None,
    ) -> Result:
        if self.before is not None:
            self.before(operation)
        if self.dead:
            raise Killed
        place = len(self.operations)
        self.operations.append(operation)
        fault = next((fault for fault in self.faults if fault.strikes(operation)), None)
        try:
            if fault is None:
                return act()
            if fault.done:
                act()
            elif fault.written and part is not None:
                part(fault.written)
        except OSError:
            self.operations[place] = replace(operation, failed=True)
            raise
        if fault.written and not fault.done:
            self.operations[place] = replace(operation, data=operation.data[: fault.written])
        elif not fault.done:
            self.operations[place] = replace(operation, failed=True)
        self.dead = isinstance(fault.error, Killed)
        raise fault.error
