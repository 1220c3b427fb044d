"""Every byte of a small journal and of the state files: flipped, cut off, zeroed.

The real recovery runs on each damaged directory. The result is whole, or the report
and the ledger name what is gone; nothing is there twice; it starts, and starts again.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from tests.daemon_parts import PRODUCERS, run_end
from tests.fault.outcome import Outcome, quiet
from tests.small_state import Judged, SmallState, judge, marked, start, stopped
from tests.state_dirs import Core

SECTOR_BYTES = 512
TWICE_EVERY = 7
"""One in so many is started a second and a third time, with an event in between."""

MEMORY = Path("/dev/shm")
SEED = 20260101
WORKERS = 2
PROMISED = 60_000
PARTS = ("journal/0", "spotter", "server.json", "index.sqlite")
"""The journal, the newest generation of a project's file and of the server's, the index."""


@dataclass(frozen=True)
class Damage:
    """Bytes ``at`` to ``end`` of a file, and what became of them."""

    how: str
    name: str
    at: int
    end: int

    def of(self, content: bytes) -> bytes:
        """The file's bytes with this damage."""
        if self.how == "cut":
            return content[: self.at]
        if self.how == "zeroed":
            return content[: self.at] + bytes(self.end - self.at) + content[self.end :]
        turned = random.Random(f"{SEED} {self.name} {self.at}").randrange(1, 256)
        return content[: self.at] + bytes([content[self.at] ^ turned]) + content[self.at + 1 :]

    def __str__(self) -> str:
        return f"{self.name} {self.how} at {self.at}"


@dataclass
class Tally:
    """What became of them all."""

    tried: int = 0
    lost: int = 0
    doubled: int = 0
    named: int = 0
    whole: int = 0
    excused: int = 0
    wrong: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, damage: Damage, judged: Judged, excused: bool) -> None:
        """One more."""
        self.tried += 1
        self.doubled += judged.doubled
        self.wrong += len(judged.wrong)
        self.named += judged.named > 0
        if judged.missing and excused:
            self.excused += 1
        else:
            self.lost += judged.lost
        self.whole += not judged.named and not judged.missing
        if judged.wrong or judged.doubled or (judged.lost and not excused):
            self.tell(f"{damage}: {judged.lost} lost, {judged.doubled} doubled {judged.wrong}")

    def tell(self, fault: str) -> None:
        """Keep the first few."""
        if len(self.faults) < 10:
            self.faults.append(fault)

    def join(self, other: Tally) -> None:
        """Another worker's."""
        for name in ("tried", "lost", "doubled", "named", "whole", "excused", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for fault in other.faults:
            self.tell(fault)


def damages(state: SmallState, parts: tuple[str, ...]) -> Iterator[Damage]:
    """Every one there is, for the files whose names contain one of ``parts``."""
    names = [
        name for name in state.files if any(part in name for part in parts) and ".bak" not in name
    ]
    for name in names:
        size = len(state.files[name])
        for at in range(size):
            yield Damage("flipped", name, at, at + 1)
            yield Damage("cut", name, at, size)
        for at in range(0, size, SECTOR_BYTES):
            yield Damage("zeroed", name, at, min(size, at + SECTOR_BYTES))


def try_one(
    state: SmallState, root: Path, damage: Damage, tally: Tally, *, again: bool, lenient: bool
) -> None:
    """Break it, recover, judge. What recovery raises is wrong, whatever it is."""
    state.write(root, {damage.name: damage.of(state.files[damage.name])})
    try:
        core = start(root)
        try:
            judged = judge(state, core)
            tally.add(damage, judged, lenient and _unproven(state, damage, judged))
            if again:
                core.put(run_end(1000), producer=PRODUCERS[5])
        finally:
            core.crash()
        if again and not judged.missing:
            _start_again(state, root, damage, tally)
    except Exception as error:  # noqa: BLE001 - a traceback is what must not be
        tally.tried += 1
        tally.wrong += 1
        tally.tell(f"{damage}: {error!r}")


def _start_again(state: SmallState, root: Path, damage: Damage, tally: Tally) -> None:
    """Twice more: the event recorded meanwhile is there, and nothing has changed."""
    for seed in (10, 11):
        core = start(root, seed=seed)
        try:
            runs = [run.event_id for run in core.books.projects["spotter"].runs]
            if runs.count("run-1000") != 1:
                tally.lost += 1
                tally.tell(f"{damage}: what was recorded after it is there {runs.count} times")
            _forget_the_new_one(core)
            judged = judge(state, core, first=False)
            tally.lost += judged.lost
            tally.doubled += judged.doubled
            if judged.lost or judged.doubled:
                tally.tell(f"{damage}: at the second start {judged}")
        finally:
            core.crash()


def _forget_the_new_one(core: Core) -> None:
    project = core.books.projects["spotter"]
    project.runs[:] = [run for run in project.runs if run.event_id != "run-1000"]


def _unproven(state: SmallState, damage: Damage, judged: Judged) -> bool:
    """Whether the damage reaches from what is missing to the end of the journal.

    Then it took with it everything that could have proven it: like the last commit
    before a crash. docs/DURABILITY.md admits that second.
    """
    last = max(state.names("journal/0"))
    if damage.name != last:
        return False
    content = state.files[last]
    end = len(content.rstrip(b"\0"))
    newest = max(each.lsn for each in state.acknowledged)
    return damage.end >= end - 80 and any(each.lsn == newest for each in judged.missing)


def _work(
    state: SmallState, chosen: list[Damage], lenient: bool, place: Path | None = None
) -> Tally:
    """One worker's share, in a directory of its own: there, or in memory."""
    with quiet():
        return _work_quietly(state, chosen, lenient, place)


def _work_quietly(
    state: SmallState, chosen: list[Damage], lenient: bool, place: Path | None
) -> Tally:
    tally = Tally()
    root = Path(tempfile.mkdtemp(prefix="tallymark-flips-", dir=place or _memory()))
    try:
        for number, damage in enumerate(chosen):
            again = number % TWICE_EVERY == 0
            try_one(state, root / "state", damage, tally, again=again, lenient=lenient)
    finally:
        shutil.rmtree(root)
    return tally


def _memory() -> Path | None:
    return MEMORY if MEMORY.is_dir() else None


def _endure(
    directory: Path,
    make: Callable[[Path], SmallState],
    stride: int,
    workers: int,
    *,
    lenient: bool,
    offset: int = 0,
) -> Tally:
    state = make(directory / make.__name__)
    chosen = list(damages(state, PARTS))[offset::stride]
    if workers == 1:
        return _work(state, chosen, lenient, directory)
    tally = Tally()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        shares = [pool.submit(_work, state, chosen[n::workers], lenient) for n in range(workers)]
        for share in shares:
            tally.join(share.result())
    return tally


def flips(directory: Path, *, stride: int = 1, offset: int = 0, workers: int = WORKERS) -> Outcome:
    """After a clean stop: everything that was acknowledged is there or named."""
    tally = _endure(directory, stopped, stride, workers, lenient=False, offset=offset)
    return _outcome("Every byte flipped, cut off, zeroed", tally, PROMISED // stride)


def flips_after_kill(
    directory: Path, *, stride: int = 7, offset: int = 0, workers: int = WORKERS
) -> Outcome:
    """The same for a daemon that was killed after its idle mark."""
    tally = _endure(directory, marked, stride, workers, lenient=True, offset=offset)
    return _outcome("The same after a kill, with the mark written", tally, PROMISED // stride)


def _outcome(what: str, tally: Tally, promised: int) -> Outcome:
    notes = [f"{tally.whole} whole, {tally.named} with everything named that was gone"]
    if tally.excused:
        notes.append(
            f"{tally.excused} took the last commit and the mark behind it: told as a torn end"
        )
    if short := tally.tried < promised:
        notes.append(f"only {tally.tried} of at least {promised} were tried")
    return Outcome(
        what,
        tally.tried,
        lost=tally.lost,
        doubled=tally.doubled,
        wrong=tally.wrong + short,
        notes=(*notes, *tally.faults),
    )
