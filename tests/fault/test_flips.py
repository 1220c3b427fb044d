from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fault.flips import Damage, Tally, flips, flips_after_kill, try_one
from tests.small_state import SmallState, judge, read_files, start, stopped

STRIDE = 397
"""A prime, so that the samples fall at other places of each sector and record."""


def test_samples_of_every_byte(tmp_path: Path) -> None:
    outcome = flips(tmp_path, stride=STRIDE, offset=17, workers=1)

    assert outcome.passed, outcome.lines()
    assert "with everything named" in outcome.notes[0]


def test_samples_after_a_kill(tmp_path: Path) -> None:
    outcome = flips_after_kill(tmp_path, stride=STRIDE, offset=71, workers=1)

    assert outcome.passed, outcome.lines()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_byte(tmp_path: Path) -> None:
    outcome = flips(tmp_path)

    assert outcome.passed, outcome.lines()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> SmallState:
    return stopped(tmp_path_factory.mktemp("small"))


def test_the_same_is_made_each_time(state: SmallState, tmp_path: Path) -> None:
    # SQLite writes its own version number into the file, and nothing else that changes.
    assert stopped(tmp_path).files == state.files
    assert len([name for name in state.files if name.endswith(".seg")]) == 3
    assert len(state.acknowledged) == 12


def test_what_is_whole_is_taken_for_whole(state: SmallState, tmp_path: Path) -> None:
    root = tmp_path / "state"
    state.write(root)
    assert read_files(root) == state.files
    core = start(root)
    judged = judge(state, core)
    core.crash()

    assert (judged.lost, judged.doubled, judged.wrong, judged.named) == (0, 0, (), 0)


def test_what_is_gone_without_a_word_is_seen(state: SmallState, tmp_path: Path) -> None:
    """The judge must be able to fail: one more batch had been acknowledged."""
    last = state.acknowledged[-1]
    more = replace(last, lsn=last.lsn + 100, seq=last.seq + 1, run_ids=("run-77",))
    claimed = replace(state, acknowledged=[*state.acknowledged, more])
    state.write(tmp_path / "state")
    core = start(tmp_path / "state")
    judged = judge(claimed, core)
    core.crash()

    assert judged.lost == last.count
    assert judged.missing == (more,)


def test_what_is_there_twice_is_seen(state: SmallState, tmp_path: Path) -> None:
    state.write(tmp_path / "state")
    core = start(tmp_path / "state")
    project = core.books.projects["spotter"]
    project.runs.append(project.runs[0])
    judged = judge(state, core)
    core.crash()

    assert judged.doubled == 1
    assert "the state of spotter is another" in judged.wrong


def test_what_recovery_raises_is_wrong(
    state: SmallState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **more: object) -> None:
        raise OSError("it does not start")

    monkeypatch.setattr("tests.fault.flips.start", fails)
    tally = Tally()
    damage = Damage("flipped", "server.json", 3, 4)
    try_one(state, tmp_path / "state", damage, tally, again=False, lenient=False)

    assert (tally.tried, tally.wrong) == (1, 1)
    assert "it does not start" in tally.faults[0]
