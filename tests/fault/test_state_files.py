from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.state_files import DESTROYED_MAX, FILES, WAYS, destructions, state_files


def test_samples_of_the_newest_generations_destroyed(tmp_path: Path) -> None:
    outcome = state_files(tmp_path, histories=2, stride=5)

    assert outcome.passed, outcome.lines()


def test_every_combination_is_among_them() -> None:
    ways = sum(len(WAYS) ** count for count in range(1, DESTROYED_MAX + 1))

    assert len(list(destructions())) == ways * (len(FILES) + 1) == 336


def test_all_four_generations_are_more_than_it_can_bear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ordeal must be able to fail."""
    everything = [(FILES, ("deleted",) * 4)]
    monkeypatch.setattr("tests.fault.state_files.destructions", lambda: iter(everything))
    outcome = state_files(tmp_path, histories=1)

    assert not outcome.passed
    assert outcome.lost > 0
