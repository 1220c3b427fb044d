"""A file system in memory that knows what a power cut may take away.

Each file has what programs see and what is durable, with the changes in
between; each directory likewise. ``MemoryFs.after_power_cut`` builds a file
system of what a disk may hold then, by these rules:

- what was synced is there;
- of every write that was not, each sector of 512 bytes is there or is not, each
  by itself; where the file grew and the sector did not come, there are zeros;
- of a changed length that was not synced, either may be there;
- of the changed names of a directory that was not synced, the first few are there.

``MemoryFs.after_kill`` is what a process finds when only the one before it died.
"""

from __future__ import annotations

import errno
import random
import zlib
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from tallymark.fs import Stamp

SECTOR_BYTES = 512


@dataclass
class File:
    """One file, whatever its names are."""

    live: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Since the last sync: (offset, bytes written), or (new length, None)."""

    def write(self, offset: int, data: bytes) -> None:
        self.changes.append((offset, data))
        put(self.live, offset, data)

    def resize(self, length: int) -> None:
        self.changes.append((length, None))
        fit(self.live, length)

    def sync(self) -> None:
        data = bytearray(self.durable)
        for offset, written in self.changes:
            if written is None:
                fit(data, offset)
            else:
                put(data, offset, written)
        self.durable = bytes(data)
        self.changes.clear()

    def survivor(self, choice: random.Random) -> File:
        """What may be left of it."""
        data = bytearray(self.durable)
        for offset, written in self.changes:
            if written is None:
                if choice.random() < 0.5:
                    fit(data, offset)
                continue
            share = choice.choice((0.0, 0.5, 0.9, 1.0))
            for start, piece in sectors(offset, written):
                if choice.random() < share:
                    put(data, start, piece)
        return File(data, bytes(data))


def sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """A write, cut where the sectors of the disk begin."""
    pieces = []
    end = offset + len(data)
    at = offset
    while at < end:
        stop = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        pieces.append((at, data[at - offset : stop - offset]))
        at = stop
    return pieces


def put(data: bytearray, offset: int, piece: bytes) -> None:
    """Write into a file's bytes; a hole before them is zeros."""
    if offset > len(data):
        fit(data, offset)
    data[offset : offset + len(piece)] = piece


def fit(data: bytearray, length: int) -> None:
    """Cut or extend a file's bytes."""
    del data[length:]
    data.extend(bytes(length - len(data)))


@dataclass
class Directory:
    """Names in one directory. A change is a set of names that change at once."""

    live: dict[str, File] = field(default_factory=dict)
    durable: dict[str, File] = field(default_factory=dict)
    changes: list[dict[str, File | None]] = field(default_factory=list)

    def change(self, names: dict[str, File | None]) -> None:
        self.changes.append(names)
        apply(self.live, names)

    def sync(self) -> None:
        self.durable = dict(self.live)
        self.changes.clear()

    def survivors(self, choice: random.Random) -> dict[str, File]:
        left = dict(self.durable)
        for names in self.changes[: choice.randint(0, len(self.changes))]:
            apply(left, names)
        return left


def apply(names: dict[str, File], changed: dict[str, File | None]) -> None:
    """Carry out one change of names."""
    for name, file in changed.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


class MemoryFs:
    """Implements ``tallymark.fs.FileSystem``. Paths are absolute; not thread-safe."""

    def __init__(self) -> None:
        self.directories: dict[Path, Directory] = {Path("/"): Directory()}
        self._open: dict[int, File] = {}
        self._next_fd = 100

    # What tests ask of it.

    def after_kill(self) -> MemoryFs:
        """As the next process finds it: all that was written, durable or not."""
        other = deepcopy(self)
        other._open = {}
        return other

    def after_power_cut(self, choice: random.Random) -> MemoryFs:
        """One of the states in which the disk may be found."""
        other = MemoryFs()
        survivors: dict[int, File] = {}
        for path, directory in self.directories.items():
            names = {}
            for name, file in directory.survivors(choice).items():
                if id(file) not in survivors:
                    survivors[id(file)] = file.survivor(choice)
                names[name] = survivors[id(file)]
            other.directories[path] = Directory(names, dict(names))
        return other

    def content(self, path: Path) -> bytes:
        """The bytes that programs see."""
        return bytes(self._file(path).live)

    def overwrite(self, path: Path, data: bytes) -> None:
        """Change a file behind everybody's back, durably."""
        file = self._file(path)
        file.live, file.durable = bytearray(data), data
        file.changes.clear()

    def lose_pages(self, path: Path) -> None:
        """What a failed sync does: the pages still show what was written, and no
        later sync writes them."""
        self._file(path).changes.clear()

    def contents(self) -> dict[Path, bytes]:
        """Every file that programs see."""
        return {
            path / name: bytes(file.live)
            for path, directory in self.directories.items()
            for name, file in directory.live.items()
        }

    # FileSystem.

    def open_read(self, path: Path) -> int:
        return self._opened(self._file(path))

    def open_write(self, path: Path) -> int:
        return self._opened(self._file(path))

    def create(self, path: Path) -> int:
        if self.exists(path):
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        file = File()
        self._directory(path.parent).change({path.name: file})
        return self._opened(file)

    def close(self, fd: int) -> None:
        del self._open[fd]

    def read(self, fd: int, count: int, offset: int) -> bytes:
        return bytes(self._open[fd].live[offset : offset + count])

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._open[fd].write(offset, bytes(data))

    def allocate(self, fd: int, offset: int, length: int) -> None:
        if length < 1:
            raise OSError(errno.EINVAL, "Invalid argument")
        file = self._open[fd]
        if offset + length > len(file.live):
            file.resize(offset + length)

    def truncate(self, fd: int, length: int) -> None:
        self._open[fd].resize(length)

    def size(self, fd: int) -> int:
        return len(self._open[fd].live)

    def sync_data(self, fd: int) -> None:
        self._open[fd].sync()

    def sync(self, fd: int) -> None:
        self._open[fd].sync()

    def sync_dir(self, path: Path) -> None:
        self._directory(path).sync()

    def replace(self, source: Path, target: Path) -> None:
        file = self._file(source)
        if source.parent == target.parent:
            self._directory(target.parent).change({source.name: None, target.name: file})
        else:
            self._directory(target.parent).change({target.name: file})
            self._directory(source.parent).change({source.name: None})

    def link(self, source: Path, target: Path) -> None:
        if self.exists(target):
            raise FileExistsError(errno.EEXIST, "File exists", str(target))
        self._directory(target.parent).change({target.name: self._file(source)})

    def unlink(self, path: Path) -> None:
        if self.exists(path):
            self._directory(path.parent).change({path.name: None})

    def mkdir(self, path: Path) -> None:
        for each in (path, *path.parents):
            self.directories.setdefault(each, Directory())

    def names(self, path: Path) -> list[str]:
        directory = self.directories.get(path)
        return sorted(directory.live) if directory else []

    def exists(self, path: Path) -> bool:
        directory = self.directories.get(path.parent)
        return path in self.directories or (directory is not None and path.name in directory.live)

    def stamp(self, path: Path) -> Stamp | None:
        if not self.exists(path) or path in self.directories:
            return None
        file = self._file(path)
        return Stamp(id(file), len(file.live), zlib.crc32(file.live))

    def free_bytes(self, path: Path) -> int:
        return 2**40

    def lock(self, path: Path) -> int:
        if not self.exists(path):
            return self.create(path)
        if self._file(path) in self._open.values():
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return self.open_write(path)

    def _directory(self, path: Path) -> Directory:
        try:
            return self.directories[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such directory", str(path)) from None

    def _file(self, path: Path) -> File:
        try:
            return self._directory(path.parent).live[path.name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path)) from None

    def _opened(self, file: File) -> int:
        self._next_fd += 1
        self._open[self._next_fd] = file
        return self._next_fd
