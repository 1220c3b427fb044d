"""The newest generations of state files destroyed, after history was retired.

The checkpointer itself has saved and retired, at moments that a seed decides, as
far as its rules let it. Then the newest one, two or three generations of one file
or of all are gone, in every combination of ways, and recovery must come to exactly
the same.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tallymarkd.core.layout import PROJECT_FILE, SERVER_FILE, project_directory
from tests.daemon_parts import PRODUCERS, run_end, usage
from tests.fault.flips import Tally
from tests.fault.outcome import Outcome, quiet
from tests.small_state import PROJECTS, SmallState, judge, start, taken
from tests.state_dirs import SUFFIXES, Core

WAYS: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda content: None,
    "garbage": lambda content: b"\xa5" * len(content),
    "cut": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
}
DESTROYED_MAX = 3
"""Generations of one file: with the fourth of them gone as well, nothing is promised."""

HISTORIES = 6
BATCHES = 40
SEED = 20260102
FILES = [
    SERVER_FILE,
    *(f"projects/{project_directory(name)}/{PROJECT_FILE}" for name in PROJECTS),
]


def destructions() -> Iterator[tuple[list[str], tuple[str, ...]]]:
    """Which files, and what becomes of the newest generation, of the one before, …"""
    targets = [*([name] for name in FILES), FILES]
    for count in range(1, DESTROYED_MAX + 1):
        yield from itertools.product(targets, itertools.product(WAYS, repeat=count))


def a_history(root: Path, seed: int, *, clean: bool) -> tuple[SmallState, int]:
    """A daemon's life, and how many segments it has retired."""
    chance = random.Random(seed)
    core = start(root, seed=seed)
    for number in range(1, BATCHES + 1):
        # One project is quiet in the second half: it must pin nothing, and lose nothing.
        quiet = number > BATCHES // 2 and chance.random() < 0.9
        which = 0 if quiet else chance.randrange(2)
        core.put(
            run_end(number, session_id=f"s{number // 5}", input_tokens=number),
            usage(f"key-{number}"),
            usage(input_tokens=-1),
            project=PROJECTS[which],
            producer=PRODUCERS[which],
        )
        for _ in range(chance.randrange(4)):
            core.tick()
    sealed = core.journal.sealed()
    retired = (sealed[0].number if sealed else core.journal.active_number) - 1
    known = core.stop() if clean else core.crash()
    state = taken(root, [core], known)
    oldest = min((each.first_lsn for each in sealed), default=core.journal.next_lsn)
    return state.forgetting_keys_before(oldest), retired


def state_files(
    directory: Path, *, histories: int = HISTORIES, stride: int = 1, offset: int = 0
) -> Outcome:
    """Newest 1, 2, 3 generations destroyed: nothing lost, and the state exactly the same."""
    with quiet():
        return _state_files(directory, histories, stride, offset)


def _state_files(directory: Path, histories: int, stride: int, offset: int) -> Outcome:
    tally = Tally()
    segments_retired = 0
    for number in range(histories):
        clean = number % 2 == 0
        state, retired = a_history(directory / str(number), SEED + number, clean=clean)
        segments_retired += retired
        if not retired:
            tally.wrong += 1
            tally.tell(f"history {number} has retired nothing")
        for names, ways in itertools.islice(destructions(), offset, None, stride):
            _try(state, directory / "state", names, ways, tally)
    promised = histories * len(list(destructions())) // stride
    return Outcome(
        "Newest 1, 2, 3 state files destroyed",
        tally.tried,
        lost=tally.lost,
        doubled=tally.doubled,
        wrong=tally.wrong + (tally.tried < promised),
        notes=(f"{histories} histories, {segments_retired} segments retired", *tally.faults),
    )


def _try(
    state: SmallState, root: Path, names: list[str], ways: tuple[str, ...], tally: Tally
) -> None:
    changed: dict[str, bytes | None] = {}
    for name, (suffix, way) in itertools.product(names, zip(SUFFIXES, ways, strict=False)):
        changed[name + suffix] = WAYS[way](state.files[name + suffix])
    state.write(root, changed)
    what = f"{', '.join(names)}: {', '.join(ways)}"
    tally.tried += 1
    try:
        core = start(root)
    except Exception as error:  # noqa: BLE001 - a traceback is what must not be
        tally.wrong += 1
        tally.tell(f"{what}: {error!r}")
        return
    _judge(state, core, changed, what, tally)


def _judge(
    state: SmallState, core: Core, changed: dict[str, bytes | None], what: str, tally: Tally
) -> None:
    judged = judge(state, core)
    report = core.report
    core.crash()
    tally.lost += judged.lost + judged.named
    tally.doubled += judged.doubled
    faults = list(judged.wrong)
    if judged.lost or judged.named or judged.doubled:
        faults.append(f"{judged.lost + judged.named} lost, {judged.doubled} doubled")
    if report.damage or report.new_losses:
        faults.append(f"told of {report.damage} and {report.losses}")
    kept = sum(content is not None for content in changed.values())
    if len(report.quarantined) != kept:
        faults.append(f"{report.quarantined} are kept of {kept}")
    tally.wrong += len(faults)
    for fault in faults:
        tally.tell(f"{what}: {fault}")
