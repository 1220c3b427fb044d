"""Races of daemons: some of what ``make torture`` does in full."""

from __future__ import annotations

from pathlib import Path

from tests.fault import races


def test_of_those_who_race_for_a_directory_one_has_it(tmp_path: Path) -> None:
    outcome = races.ordeal(tmp_path, rounds=60, process_rounds=2)
    assert outcome.passed, outcome.lines()
    assert outcome.tried == 62
