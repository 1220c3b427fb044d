"""The ordeal of crash states: how many there were, how recovery came out, what was lost."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fault.account import Found
from tests.fault.crash_states import Crashes, State
from tests.fault.outcome import Outcome, quiet
from tests.fault.recovered import Examiner, half_saved
from tests.fault.workload import Tape, record

STATES_MIN = 2_000
OUTCOMES_MIN = 1_000
TOLD_MAX = 5
"""Faults that are told one by one."""

MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Effort:
    """How much is tried: a workload for each of ``seeds``, and of its states every
    ``beside``-th in other ways as well, every ``again``-th with its recovery crashed
    at each step; the sync of the journal fails at each of ``failing``."""

    seeds: tuple[int, ...] = (1, 2)
    steps: int = 40
    throws_max: int = 3
    stride: int = 1
    beside: int = 8
    again: int = 50
    failing: tuple[int, ...] = tuple(range(0, 36, 3))


QUICK = Effort(
    seeds=(1,), steps=24, throws_max=2, stride=4, beside=8, again=60, failing=(3, 9, 16)
)  # fmt: skip


@dataclass
class Tally:
    """What came of it."""

    states: int = 0
    recoveries: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    outcomes: set[bytes] = field(default_factory=set)
    histogram: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def add(self, found: Found, where: str) -> None:
        """Count one recovery."""
        self.recoveries += 1
        if found.well:
            return
        self.lost += found.lost
        self.doubled += found.doubled
        self.wrong += not (found.lost or found.doubled)
        if len(self.told) < TOLD_MAX:
            self.told.append(f"{where}: {'; '.join(found.wrong[:2])}"[:400])


def crash_states(directory: Path, effort: Effort | None = None) -> Outcome:
    """Every state in which a crash may leave the disk, recovered and held.

    In full at least 2,000 states that differ in their bytes, and 1,000 outcomes.
    """
    tally = tally_of(directory, effort or Effort())
    wrong = tally.wrong
    if effort is None:
        wrong += (tally.states < STATES_MIN) + (len(tally.outcomes) < OUTCOMES_MIN)
    cuts = ", ".join(f"{what} {count}" for what, count in tally.histogram.most_common())
    return Outcome(
        "crash states, distinct by content",
        tally.states,
        tally.lost,
        tally.doubled,
        wrong,
        (
            f"{len(tally.outcomes)} distinct outcomes of {tally.recoveries} recoveries",
            f"cut in: {cuts}",
            *tally.told,
        ),
    )


def tally_of(directory: Path, effort: Effort) -> Tally:
    """Record workloads, and examine their crash states."""
    tally = Tally()
    with quiet(), in_memory(directory) as place:
        for seed in effort.seeds:
            home = place / f"seed-{seed}"
            tape = record(home / "state", seed=seed, steps=effort.steps)
            _examine(tape, home, seed, effort, tally)
        for number in effort.failing:
            home = place / f"failing-{number}"
            tape = record(home / "state", seed=number, steps=effort.steps // 2, fail_sync=number)
            _examine_end(tape, home, tally, f"sync {number} failed")
    return tally


def _examine(tape: Tape, home: Path, seed: int, effort: Effort, tally: Tally) -> None:
    examiner = Examiner(tape, home / "state", home / "crashed")
    crashes = Crashes(tape, seed, effort.throws_max, effort.stride)
    choice = random.Random(seed)
    for number, state in enumerate(crashes.states()):
        where = f"seed {seed}, after operation {state.number}, cut in {state.cut_in}"
        recovery = examiner.examine(state)
        tally.states += 1
        tally.outcomes.add(recovery.outcome)
        tally.add(recovery.found, where)
        if half_saved(state.disk):
            tally.add(examiner.go_on(state, choice), f"{where}, then on, then another")
        if number % effort.beside == 0:
            for what, found in _beside(examiner, state, choice):
                tally.add(found, f"{where}, {what}")
        if number % effort.again == 0:
            for step, found in enumerate(examiner.crash_again(state, choice)):
                tally.add(found, f"{where}, recovery cut at step {step}")
    tally.histogram.update(crashes.histogram)


def _beside(
    examiner: Examiner, state: State, choice: random.Random
) -> Iterator[tuple[str, Found]]:  # fmt: skip
    """What may come beside the crash, or after it."""
    yield "then on, then another", examiner.go_on(state, choice)
    yield "newest state file destroyed", examiner.destroy(state, 1, choice)
    yield "newest two state files destroyed", examiner.destroy(state, 2, choice)
    yield "index damaged", examiner.forget_index(state)


def _examine_end(tape: Tape, home: Path, tally: Tally, what: str) -> None:
    """The states after the last operation: the daemon had to end itself there."""
    examiner = Examiner(tape, home / "state", home / "crashed")
    last = len(tape.operations)
    for state in Crashes(tape, 1, 4, stride=max(1, last)).states():
        if state.number == last:
            tally.add(examiner.examine(state).found, what)
    if not tape.died:
        tally.add(Found(wrong=["the daemon went on"]), what)
    after = [each.kind for each in tape.operations].count("sync_data")
    failed = [each.failed for each in tape.operations if each.kind == "sync_data"]
    if True in failed and failed.index(True) != after - 1:
        tally.add(Found(wrong=["the sync was tried again"]), what)


@contextmanager
def in_memory(directory: Path) -> Iterator[Path]:
    """A directory in memory where there is one; syncs there cost nothing."""
    if not MEMORY.is_dir():
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="tallymark-", dir=MEMORY) as name:
        yield Path(name)
