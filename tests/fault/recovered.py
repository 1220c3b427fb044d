"""What the real recovery makes of one state of the disk, held against the account."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import msgspec

from tallymark.fs import OsFileSystem
from tallymarkd.core.checkpoint import GENERATIONS
from tallymarkd.core.entry import Verdict, decode_entry
from tallymarkd.core.keys import key_hash, unpack_keys
from tallymarkd.core.layout import PROJECT_FILE, SERVER_FILE, Layout
from tallymarkd.storage.damage import KINDS_WITH_EVENTS
from tallymarkd.storage.survey import survey
from tests.fault.account import Account, Found, Standing, Submission, hold, kept
from tests.fault.core import SAVE_SECONDS, Core, come_back, image_bytes
from tests.fault.crash_states import Place, Replay, State, index_left, throws
from tests.fault.workload import HISTORY_BYTES_MAX, Recorder, Tape
from tests.faulty_fs import FaultyFs, Operation
from tests.memory_fs import MemoryFs
from tests.power import File
from tests.state_dirs import reaches_in

SAVES = 4
"""How often files are saved after a recovery."""

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
        self._place = Place(origin, directory / "state")
        self._saves = _saves(tape)

    def examine(self, state: State) -> Recovery:
        """Recover, and hold what comes out against what had been acknowledged."""
        root = self._place.build(state.disk, state.index)
        with self._recovered(root) as (core, recovery):
            if core is not None:
                recovery.found.add(self._hold(core, root, state.standing))
                recovery.outcome = _outcome(core, root)
                _hold_files(core, recovery.found)
        self._hold_generations(state, recovery.found)
        return recovery

    def go_on(self, state: State, choice: random.Random) -> Found:
        """After the recovery agents come back and files are saved; then the power goes,
        at some moments and at the end. What the recovered daemon called durable is there,
        too: a duplicate, or the mark in a Welcome."""
        root = self._place.build(state.disk, state.index)
        recorder = Recorder(FaultyFs(OsFileSystem()), root)
        with self._recovered(root, recorder) as (core, recovery):
            found = recovery.found
            if core is None:
                return found
            begun = len(recovery.operations)
            account = recorder.account = Account.resumed(
                state.standing, self._tape.agents, core.books
            )
            core.account, recorder.core = account, core
            come_back(core, account.agents.values())
            for _ in range(SAVES):
                core.pass_time(SAVE_SECONDS)
                _hold_reaches(core, root, found)
            found.add(hold(account.standing(0), core.books))
            tape, images = recorder.finish(), core.images
        # Before the agents came back nothing new was promised to them.
        tape.standings[:begun] = [state.standing] * begun
        last = len(tape.operations)
        for moment in (begun, *choice.choices(range(last), k=2), last):
            found.add(self._cut(state, tape, moment, images, choice))
        return found

    def _cut(
        self, state: State, tape: Tape, moment: int, images: Mapping[int, bytes],
        choice: random.Random,
    ) -> Found:  # fmt: skip
        """A power cut in the life after a recovery."""
        disk = self._replayed(state, tape.operations[:moment])
        left = disk.left(choice.choice(list(throws(disk, choice, 1))))
        root = self._place.build(left, index_left(tape, moment, choice))
        return self._recover_there(root, tape.standings[moment], images)

    def crash_again(self, state: State, choice: random.Random) -> Iterator[Found]:
        """Crash the recovery after each of its operations; the next one must do."""
        recovery = self.examine(state)
        yield recovery.found
        for count in range(len(recovery.operations)):
            disk = self._replayed(state, recovery.operations[:count])
            left = disk.left(choice.choice(list(throws(disk, choice, 1))))
            root = self._place.build(left, state.index)
            yield self._recover_there(root, state.standing)

    def destroy(self, state: State, newest: int, choice: random.Random) -> Found:
        """Lose the newest state files of a project, or the daemon's own, beside the crash."""
        root = self._place.build(state.disk, state.index)
        homes = _homes(state.disk)
        generations = choice.choice(homes)[1] if homes else []
        # A save that was cut off may have left one generation under two names.
        files = list(dict.fromkeys(file for _, file in generations))
        if len(files) <= newest:
            return Found()
        for path in [path for path, file in generations if file in files[:newest]]:
            if choice.random() < 0.5:
                self._place.here(path).unlink()
            else:
                self._place.here(path).write_bytes(choice.randbytes(200))
        return self._recover_there(root, state.standing)

    def forget_index(self, state: State) -> Found:
        """Lose ``index.sqlite`` beside the crash, or find it damaged."""
        root = self._place.build(state.disk, None)
        (root / "index.sqlite").write_bytes(b"no index" * 1000)
        return self._recover_there(root, state.standing)

    # The parts.

    @contextmanager
    def _recovered(
        self, root: Path, recorder: Recorder | None = None
    ) -> Iterator[tuple[Core | None, Recovery]]:
        """A daemon after its recovery; None when that raised, which is wrong."""
        fs = recorder.fs if recorder else FaultyFs(OsFileSystem())
        recovery = Recovery(Found(), [])
        try:
            core = Core(fs, root, Account(), seed=LIFE, history_bytes_max=HISTORY_BYTES_MAX)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            recovery.found.wrong.append(f"recovery raised {type(error).__name__}: {error}")
            yield None, recovery
            return
        recovery.operations = [each for each in fs.operations if each.changes]
        try:
            yield core, recovery
        finally:
            core.abandon()

    def _replayed(self, state: State, operations: Iterable[Operation]) -> MemoryFs:
        """The state's disk after what was done here."""
        replay = Replay((state.before or state.disk).after_kill())
        for each in operations:
            target = each.target and self._place.there(each.target)
            replay.do(replace(each, path=self._place.there(each.path), target=target))
        return replay.memory

    def _hold_generations(self, state: State, found: Found) -> None:
        """Saves that were cut off push out no more than the oldest generation."""
        for path, generations in _homes(state.disk):
            if self._saves[state.number][path] > GENERATIONS:
                files = {id(file) for _, file in generations}
                if len(files) < GENERATIONS - 1:
                    found.wrong.append(f"only {len(files)} generations are left of {path.name}")

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


def _hold_files(core: Core, found: Found) -> None:
    """A crash alone tears the end of the journal, and damages no other file."""
    kept = [name for name in core.restored.report.quarantined if ".torn-" not in name]
    if kept:
        found.wrong.append(f"a crash alone has damaged {kept}")


def half_saved(disk: MemoryFs) -> bool:
    """Whether a save was cut off between its link and its rename: that shows later only."""
    return any(
        len({id(file) for _, file in generations}) < len(generations)
        for _, generations in _homes(disk)
    )


def _hold_reaches(core: Core, root: Path, found: Found) -> None:
    """No generation on disk is older than the daemon believes: it retires history by that."""
    layout = Layout(root)
    for name, held in core.checkpointer.reaches.items():
        oldest = min(reaches_in(layout.project(name) if name else root))
        if len(held) == GENERATIONS and min(held) > oldest:
            found.wrong.append(f"the oldest generation of {name or SERVER_FILE} is at {oldest}, "
                               f"and is taken to be at {min(held)}")  # fmt: skip


def _homes(disk: MemoryFs) -> list[tuple[Path, list[tuple[Path, File]]]]:
    """Every state file on a disk, with its generations, newest first."""
    found = []
    for directory, each in sorted(disk.directories.items()):
        for name in (SERVER_FILE, PROJECT_FILE):
            paths = [f"{name}{ending}" for ending in ("", ".bak", ".bak.2", ".bak.3")]
            generations = [(directory / p, each.live[p]) for p in paths if p in each.live]
            if generations:
                found.append((directory / name, generations))
    return found


def _saves(tape: Tape) -> list[Counter[Path]]:
    """After each operation: how often each state file had been saved."""
    now: Counter[Path] = Counter()
    saves = [now]
    for each in tape.operations:
        if (
            each.kind == "replace"
            and each.target
            and each.target.name in (SERVER_FILE, PROJECT_FILE)
        ):
            now = now + Counter({each.target: 1})
        saves.append(now)
    return saves


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
    report = msgspec.structs.replace(core.restored.report, at="", seconds=0.0)
    names = sorted(
        (str(path.relative_to(root)), path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(("index.sqlite", "recovery"))
    )
    told = msgspec.msgpack.encode([image_bytes(core.books), report, names])
    return blake2b(told, digest_size=16).digest()
