"""Every state in which a crash may leave the disk, and what recovery makes of it.

A tape (workload.py) is replayed onto a disk in memory (tests/power.py). After each
of its operations the power may go, or the process alone: for that moment the
states are built in a real directory, the real recovery runs there, and what it
gives is held against what had been acknowledged by then.
"""

from __future__ import annotations

import itertools
import math
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from tests.fault.account import Standing
from tests.fault.workload import IndexState, Tape, index_file
from tests.faulty_fs import Operation
from tests.memory_fs import MemoryFs
from tests.power import File


class Replay:
    """Does on a disk in memory what was recorded."""

    def __init__(self, memory: MemoryFs) -> None:
        self.memory = memory
        self._files: dict[int, File] = {}

    def do(self, operation: Operation) -> None:
        """One operation; a failed sync has lost what it was to make durable."""
        if not operation.failed:
            getattr(self, f"_{operation.kind}")(operation)
        elif operation.kind in ("sync", "sync_data"):
            self._file(operation).changes.clear()

    def _create(self, operation: Operation) -> None:
        self.memory.close(self.memory.create(operation.path))
        self._files[operation.file] = self.memory.file_at(operation.path)

    def _write(self, operation: Operation) -> None:
        self._file(operation).write(operation.offset, operation.data)

    def _allocate(self, operation: Operation) -> None:
        file, end = self._file(operation), operation.offset + operation.length
        if end > len(file.live):
            file.resize(end)

    def _truncate(self, operation: Operation) -> None:
        self._file(operation).resize(operation.offset)

    def _sync(self, operation: Operation) -> None:
        self._file(operation).sync()

    _sync_data = _sync

    def _sync_dir(self, operation: Operation) -> None:
        self.memory.sync_dir(operation.path)

    def _replace(self, operation: Operation) -> None:
        self._file(operation)
        assert operation.target is not None
        self.memory.replace(operation.path, operation.target)

    def _link(self, operation: Operation) -> None:
        self._file(operation)
        assert operation.target is not None
        self.memory.link(operation.path, operation.target)

    def _unlink(self, operation: Operation) -> None:
        self.memory.unlink(operation.path)

    def _mkdir(self, operation: Operation) -> None:
        self.memory.mkdir(operation.path)

    def _file(self, operation: Operation) -> File:
        """The file that an operation names, which keeps its identity over renames."""
        if operation.file not in self._files:
            self._files[operation.file] = self.memory.file_at(operation.path)
        return self._files[operation.file]


@dataclass(frozen=True)
class State:
    """One disk after a crash.

    ``before`` is the disk with what it had not made durable, where only the
    process died: what the next one sees may still be lost. None after a power cut.
    """

    number: int
    disk: MemoryFs
    before: MemoryFs | None
    standing: Standing
    index: IndexState | None
    cut_in: str

    def digest(self) -> bytes:
        """What tells it from other states: the bytes that are on the disk."""
        found = blake2b(repr(self.index).encode(), digest_size=16)
        for path, data in sorted(self.disk.contents().items()):
            found.update(str(path).encode() + b"\0" + blake2b(data).digest())
        return found.digest()


@dataclass
class Crashes:
    """Goes through a tape. At most ``throws_max`` power cuts are tried at each moment
    in addition to the two that are extreme; ``stride`` leaves moments out."""

    tape: Tape
    seed: int
    throws_max: int
    stride: int = 1
    histogram: Counter[str] = field(default_factory=Counter)
    _seen: set[bytes] = field(default_factory=set)

    def states(self) -> Iterator[State]:
        """Every state, each once."""
        replay = Replay(MemoryFs())
        tape, choice = self.tape, random.Random(self.seed)
        yield from self._after(replay, 0, choice)
        for number, operation in enumerate(tape.operations, 1):
            replay.do(operation)
            if number % self.stride == 0 or number == len(tape.operations):
                yield from self._after(replay, number, choice)

    def _after(self, replay: Replay, number: int, choice: random.Random) -> Iterator[State]:
        tape, memory = self.tape, replay.memory
        following = tape.operations[number] if number < len(tape.operations) else None
        cut_in = describe(following)
        after_kill = memory.after_kill()
        candidates: list[tuple[MemoryFs, MemoryFs | None, IndexState | None]] = [
            (after_kill, after_kill, tape.index_states[tape.indexes[number]])
        ]
        candidates.extend(
            (memory.left(throw), None, index_left(tape, number, choice))
            for throw in throws(memory, choice, self.throws_max)
        )
        for disk, before, index in candidates:
            state = State(number, disk, before, tape.standings[number], index, cut_in)
            digest = state.digest()
            if digest not in self._seen:
                self._seen.add(digest)
                self.histogram[cut_in] += 1
                yield state


def index_left(tape: Tape, number: int, choice: random.Random) -> IndexState | None:
    """What a power cut may leave of ``index.sqlite``: any of its former states, or none."""
    now = tape.indexes[number]
    index = choice.choice([now, now, now, max(0, now - 1), 0, None])
    return None if index is None else tape.index_states[index]


def throws(memory: MemoryFs, choice: random.Random, most: int) -> Iterator[Sequence[int]]:
    """Answers to what a power cut asks: all of them where they are few; else nothing,
    everything, and some by chance."""
    answers = [die.answers for die in memory.dice()]
    if math.prod(answers) <= most + 2:
        yield from itertools.product(*map(range, answers))
        return
    yield [0] * len(answers)
    yield [count - 1 for count in answers]
    for _ in range(most):
        share = choice.choice((0.1, 0.5, 0.9))
        yield [
            choice.randint(1, count - 1) if choice.random() < share else 0 for count in answers
        ]  # fmt: skip


def describe(operation: Operation | None) -> str:
    """What was being done, for the histogram."""
    if operation is None:
        return "the end"
    name = (operation.target or operation.path).name
    if name[:1].isdigit():
        what = "segment"
    elif name == "spare":
        what = "spare"
    elif ".bak" in name:
        what = "backup"
    elif ".json" in name:
        what = "state file"
    else:
        what = "directory"
    return f"{operation.kind} of a {what}"


class Place:
    """A real directory in which states are built, one after the other."""

    def __init__(self, origin: Path, root: Path) -> None:
        self._origin = origin
        self.root = root
        self._indexes: dict[IndexState, bytes] = {}

    def build(self, disk: MemoryFs, index: IndexState | None) -> Path:
        """Make the directory what the disk is."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.parent.mkdir(exist_ok=True)
        for directory in sorted(disk.directories):
            if directory == self._origin or self._origin in directory.parents:
                self.here(directory).mkdir(mode=0o700)
        self._write_files(disk)
        self.root.mkdir(exist_ok=True)
        if index is not None:
            (self.root / "index.sqlite").write_bytes(self._index_bytes(index))
        return self.root

    def _write_files(self, disk: MemoryFs) -> None:
        """Every file under each of its names."""
        first: dict[File, Path] = {}
        for path in disk.contents():
            if self._origin in path.parents:
                file = disk.file_at(path)
                if file in first:
                    self.here(path).hardlink_to(first[file])
                else:
                    first[file] = self.here(path)
                    first[file].write_bytes(file.live)

    def here(self, path: Path) -> Path:
        """Where a path of the tape stands here."""
        return self.root.parent / path.relative_to(self._origin.parent)

    def there(self, path: Path) -> Path:
        """Where a path here stands on the tape; the directory above has one, too."""
        return self._origin.parent / path.relative_to(self.root.parent)

    def _index_bytes(self, state: IndexState) -> bytes:
        if state not in self._indexes:
            path = self.root.with_name(f"index-{len(self._indexes)}.sqlite")
            index_file(path, state)
            self._indexes[state] = path.read_bytes()
        return self._indexes[state]
