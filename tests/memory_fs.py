"""A file system in memory that knows what a power cut may take away (tests/power.py).

``MemoryFs.after_power_cut`` builds a file system of what a disk may hold then, by
chance; ``dice`` and ``left`` let a test try the possibilities one by one.
``MemoryFs.after_kill`` is what a process finds when only the one before it died.
"""

from __future__ import annotations

import errno
import random
import zlib
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from tallymark.fs import Stamp
from tests.power import Die, Directory, File, NameChange, Versions


class MemoryFs:
    """Implements ``tallymark.fs.FileSystem``. Paths are absolute; not thread-safe."""

    def __init__(self) -> None:
        self.directories: dict[Path, Directory] = {Path("/"): Directory()}
        self.name_changes: list[NameChange] = []
        self._open: dict[int, File] = {}
        self._next_fd = 100

    # What tests ask of it.

    def after_kill(self) -> MemoryFs:
        """As the next process finds it: all that was written, durable or not."""
        other = deepcopy(self)
        other._open = {}
        return other

    def dice(self) -> list[Die]:
        """Every question that a power cut would answer now."""
        return [die for _, dice in self._questions() for die in dice]

    def left(self, throw: Sequence[int]) -> MemoryFs:
        """The disk after a power cut, by one answer for each of ``dice``."""
        other = MemoryFs()
        rest = iter(throw)
        names = {path: dict(each.durable) for path, each in self.directories.items()}
        left_out: set[tuple[Path, str]] = set()
        for change in self.name_changes:
            if next(rest) and not change.keys() & left_out:
                _rename(names, change)
            else:
                left_out |= change.keys()
        files: dict[int, File] = {}
        for file, versions in self._doubtful():
            answers = [next(rest) for _ in versions.dice()]
            data = versions.left(file.durable, answers)
            files[id(file)] = File(bytearray(data), data)
        for path, found in names.items():
            kept = {}
            for name, file in found.items():
                if id(file) not in files:
                    files[id(file)] = File(bytearray(file.durable), file.durable)
                kept[name] = files[id(file)]
            other.directories[path] = Directory(kept, dict(kept))
        return other

    def after_power_cut(self, choice: random.Random) -> MemoryFs:
        """One of the states in which the disk may be found."""
        throw: list[int] = []
        for _, dice in self._questions():
            share = choice.choice((0.0, 0.5, 0.9, 1.0))
            for die in dice:
                most = die.answers - 1
                throw.append(choice.randint(1, most) if choice.random() < share else 0)
        return self.left(throw)

    def _questions(self) -> list[tuple[object, list[Die]]]:
        """The dice of the names, then those of each file that is not all durable."""
        names = [Die("name", 2)] * len(self.name_changes)
        return [(None, names), *((f, versions.dice()) for f, versions in self._doubtful())]

    def _doubtful(self) -> list[tuple[File, Versions]]:
        """Files with changes that were not synced and a name that may be there."""
        found: dict[int, File] = {}
        for _, directory in sorted(self.directories.items()):
            found.update((id(file), file) for file in directory.durable.values())
        for change in self.name_changes:
            found.update((id(file), file) for file in change.values() if file is not None)
        return [(file, file.versions()) for file in found.values() if file.changes]

    def content(self, path: Path) -> bytes:
        """The bytes that programs see."""
        return bytes(self.file_at(path).live)

    def overwrite(self, path: Path, data: bytes) -> None:
        """Change a file behind everybody's back, durably."""
        file = self.file_at(path)
        file.live, file.durable = bytearray(data), data
        file.changes.clear()

    def lose_pages(self, path: Path) -> None:
        """What a failed sync does: the pages still show what was written, and no
        later sync writes them."""
        self.file_at(path).changes.clear()

    def contents(self) -> dict[Path, bytes]:
        """Every file that programs see."""
        return {
            path / name: bytes(file.live)
            for path, directory in self.directories.items()
            for name, file in directory.live.items()
        }

    # FileSystem.

    def open_read(self, path: Path) -> int:
        return self._opened(self.file_at(path))

    def open_write(self, path: Path) -> int:
        return self._opened(self.file_at(path))

    def create(self, path: Path) -> int:
        if self.exists(path):
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        file = File()
        self._change({(path.parent, path.name): file})
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
        directory = self._directory(path)
        waiting: list[NameChange] = []
        for change in self.name_changes:
            here = {key: file for key, file in change.items() if key[0] == path}
            _rename({path: directory.durable}, here)
            elsewhere = {key: file for key, file in change.items() if key[0] != path}
            if elsewhere:
                waiting.append(elsewhere)
        self.name_changes = waiting

    def replace(self, source: Path, target: Path) -> None:
        file = self.file_at(source)
        if self._directory(target.parent).live.get(target.name) is file:
            return  # two names of one file: rename does nothing, says POSIX
        self._change({(source.parent, source.name): None, (target.parent, target.name): file})

    def link(self, source: Path, target: Path) -> None:
        if self.exists(target):
            raise FileExistsError(errno.EEXIST, "File exists", str(target))
        self._change({(target.parent, target.name): self.file_at(source)})

    def unlink(self, path: Path) -> None:
        if self.exists(path):
            self._change({(path.parent, path.name): None})

    def mkdir(self, path: Path) -> None:
        for each in (path, *path.parents):
            self.directories.setdefault(each, Directory())

    def rmdir(self, path: Path) -> None:
        if self._directory(path).live:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        del self.directories[path]

    def names(self, path: Path) -> list[str]:
        directory = self.directories.get(path)
        return sorted(directory.live) if directory else []

    def exists(self, path: Path) -> bool:
        directory = self.directories.get(path.parent)
        return path in self.directories or (directory is not None and path.name in directory.live)

    def stamp(self, path: Path) -> Stamp | None:
        if not self.exists(path) or path in self.directories:
            return None
        file = self.file_at(path)
        return Stamp(id(file), len(file.live), zlib.crc32(file.live))

    def free_bytes(self, path: Path) -> int:
        return 2**40

    def lock(self, path: Path) -> int:
        if not self.exists(path):
            return self.create(path)
        if self.file_at(path) in self._open.values():
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return self.open_write(path)

    def lock_existing(self, path: Path) -> int:
        self.file_at(path)
        return self.lock(path)

    def _change(self, change: NameChange) -> None:
        for path, _ in change:
            self._directory(path)
        self.name_changes.append(change)
        _rename({path: self.directories[path].live for path, _ in change}, change)

    def _directory(self, path: Path) -> Directory:
        try:
            return self.directories[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such directory", str(path)) from None

    def file_at(self, path: Path) -> File:
        """The file that has this name. Raises ``FileNotFoundError``."""
        try:
            return self._directory(path.parent).live[path.name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path)) from None

    def _opened(self, file: File) -> int:
        self._next_fd += 1
        self._open[self._next_fd] = file
        return self._next_fd


def _rename(names: dict[Path, dict[str, File]], change: NameChange) -> None:
    for (path, name), file in change.items():
        if file is None:
            names[path].pop(name, None)
        else:
            names[path][name] = file
