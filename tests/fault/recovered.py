"""What the real recovery makes of one state of the disk, held against the account."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import msgspec

from tallymark.fs import OsFileSystem
from tallymarkd.core.entry import Verdict, decode_entry
from tallymarkd.core.keys import key_hash, unpack_keys
from tallymarkd.core.layout import PROJECT_FILE, SERVER_FILE, Layout
from tallymarkd.storage.damage import KINDS_WITH_EVENTS
from tallymarkd.storage.survey import survey
from tests.fault.account import Account, Found, Standing, Submission, hold, kept
from tests.fault.core import Core, come_back, image_bytes
from tests.fault.crash_states import Place, Replay, State, throws
from tests.fault.workload import HISTORY_BYTES_MAX, Tape
from tests.faulty_fs import FaultyFs, Operation
from tests.memory_fs import MemoryFs

LIFE = 1000
"""Seeds what a daemon takes as random after the crash."""


@dataclass
class Recovery:
    """One recovery: what it found wrong, what it did to the disk, how it came out."""

    found: Found
    operations: list[Operation]
    outcome: bytes = b""


class Examiner:
    """Recovers states of one tape, in one real directory."""

    def __init__(self, tape: Tape, origin: Path, directory: Path) -> None:
        self._tape = tape
        self._origin = origin
        self._place = Place(tape, origin, directory / "state")

    def examine(self, state: State) -> Recovery:
        """Recover, and hold what comes out against what had been acknowledged."""
        root = self._place.build(state.disk, state.index)
        with self._recovered(root) as (core, recovery):
            if core is not None:
                recovery.found.add(self._hold(core, root, state.standing))
                recovery.outcome = _outcome(core, root)
        return recovery

    def go_on(self, state: State) -> Found:
        """After the recovery agents come back, and then the power goes: everything
        is there, what the recovered daemon called durable included."""
        root = self._place.build(state.disk, state.index)
        with self._recovered(root) as (core, recovery):
            if core is None:
                return recovery.found
            account = Account.resumed(state.standing, self._tape.agents, core.books)
            core.account = account
            promised = account.standing(core.journal.next_lsn - 1)
            come_back(core, account.agents.values())
            standing = account.standing(core.journal.next_lsn - 1)
            found = recovery.found
            found.add(hold(standing, core.books))
            operations = self._operations()
            images = core.images
        moments = (self._recovered_at, promised), (len(operations), standing)
        for upto, expected in moments:
            disk = self._replayed(state, operations[:upto])
            left = disk.left([0] * len(disk.dice()))
            root = self._place.build(left, state.index)
            found.add(self._recover_there(root, expected, images))
        return found

    def crash_again(self, state: State, choice: random.Random) -> Iterator[Found]:
        """Crash the recovery after each of its operations; the next one must do."""
        recovery = self.examine(state)
        yield recovery.found
        for count in range(len(recovery.operations)):
            disk = self._replayed(state, recovery.operations[:count])
            possible = list(throws(disk, choice, 1))
            left = disk.left(choice.choice(possible))
            root = self._place.build(left, state.index)
            yield self._recover_there(root, state.standing)

    def destroy(self, state: State, newest: int, choice: random.Random) -> Found:
        """Lose the newest state files of a project, or the daemon's own, beside the crash."""
        root = self._place.build(state.disk, state.index)
        layout = Layout(root)
        homes = [
            (layout.root, SERVER_FILE),
            *((p, PROJECT_FILE) for p in layout.projects.glob("*")),
        ]
        directory, name = choice.choice(homes)
        paths = [p for p in (directory / f"{name}{end}" for end in ENDINGS) if p.exists()]
        # A save that was cut off may have left one generation under two names.
        inodes = {p.stat().st_ino for p in paths}
        if len({p.read_bytes() for p in paths}) <= newest or len(inodes) <= newest:
            return Found()
        for path in paths[:newest]:
            if choice.random() < 0.5:
                path.unlink()
            else:
                path.write_bytes(choice.randbytes(200))
        return self._recover_there(root, state.standing)

    def forget_index(self, state: State) -> Found:
        """Lose ``index.sqlite`` beside the crash, or find it damaged."""
        root = self._place.build(state.disk, None)
        (root / "index.sqlite").write_bytes(b"no index" * 1000)
        return self._recover_there(root, state.standing)

    # The parts.

    @contextmanager
    def _recovered(self, root: Path) -> Iterator[tuple[Core | None, Recovery]]:
        """A daemon after its recovery; None when that raised, which is wrong."""
        self._fs = FaultyFs(OsFileSystem())
        recovery = Recovery(Found(), [])
        try:
            core = Core(self._fs, root, Account(), seed=LIFE, history_bytes_max=HISTORY_BYTES_MAX)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            recovery.found.wrong.append(f"recovery raised {type(error).__name__}: {error}")
            yield None, recovery
            return
        recovery.operations = self._operations()
        self._recovered_at = len(recovery.operations)
        try:
            yield core, recovery
        finally:
            core.abandon()

    def _operations(self) -> list[Operation]:
        """What was done to the disk, under the names of the tape."""
        return [
            _moved(each, self._place.root, self._origin)
            for each in self._fs.operations
            if each.changes
        ]

    def _replayed(self, state: State, operations: list[Operation]) -> MemoryFs:
        replay = Replay((state.before or state.disk).after_kill())
        for operation in operations:
            replay.do(operation)
        return replay.memory

    def _recover_there(
        self, root: Path, standing: Standing, images: Mapping[int, bytes] | None = None
    ) -> Found:
        with self._recovered(root) as (core, recovery):
            if core is not None:
                recovery.found.add(self._hold(core, root, standing, images))
        return recovery.found

    def _hold(
        self, core: Core, root: Path, standing: Standing, images: Mapping[int, bytes] | None = None
    ) -> Found:
        """``images`` are the states there were, by their number; else those of the tape."""
        books, report = core.books, core.restored.report
        found = hold(standing, books)
        image = (self._tape.images if images is None else images).get(books.server.applied_lsn)
        if image is not None and image != image_bytes(books):
            found.wrong.append("the state is not the one that was")
        # Of numbers given after a clean stop there may be no trace: nobody has seen them.
        if report.next_lsn <= standing.given and not report.clean:
            found.wrong.append(f"{report.next_lsn} is next, and {standing.given} was given")
        corrupt = [each.reason for each in report.damage if not each.torn]
        if corrupt or report.new_losses:
            found.wrong.append(f"called corrupt: {corrupt}, {report.new_losses} losses")
        _hold_keys(core, root, kept(standing, books), standing, found)
        return found


ENDINGS = ("", ".bak", ".bak.2", ".bak.3")


def _moved(operation: Operation, here: Path, there: Path) -> Operation:
    def move(path: Path) -> Path:
        # The directory above is synced as well.
        return there.parent / path.relative_to(here.parent)

    target = operation.target
    return replace(operation, path=move(operation.path), target=target and move(target))


def _hold_keys(
    core: Core, root: Path, there: list[Submission], standing: Standing, found: Found
) -> None:
    """A key is known when its event is in the journal, and only when it is kept."""
    in_journal: set[int] = set()
    for record in survey(OsFileSystem(), Layout(root).journal).records(0):
        if record.kind in KINDS_WITH_EVENTS:
            in_journal.update(unpack_keys(decode_entry(record.payload).keys))
    unknown = in_journal - core.keys.known(in_journal)
    if unknown:
        found.wrong.append(f"{len(unknown)} keys are not known any more: they would count twice")
    stored = set(_hashes(there, lambda verdict: verdict != Verdict.STORED))
    others = set(_hashes(standing.log, lambda verdict: False)) - stored
    if early := core.keys.known(others):
        found.wrong.append(f"{len(early)} keys are known whose events are not kept: a silent loss")


def _hashes(
    submissions: Iterator[Submission] | list[Submission] | tuple[Submission, ...],
    leave_out: Callable[[Verdict], bool],
) -> Iterator[int]:
    for each in submissions:
        for event, verdict in zip(each.batch.events, each.verdicts, strict=True):
            key = event.get("dedupe_key") or ("" if each.batch.seq else event["event_id"])
            if key and not leave_out(verdict):
                yield key_hash(each.batch.project, key)


def _outcome(core: Core, root: Path) -> bytes:
    """What tells one outcome of a recovery from another."""
    report = msgspec.structs.replace(core.restored.report, seconds=0.0)
    names = sorted(
        (str(path.relative_to(root)), path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith("index.sqlite")
    )
    told = msgspec.msgpack.encode([image_bytes(core.books), report, names])
    return blake2b(told, digest_size=16).digest()
