"""Crash states, scaled down; ``make torture ARGS=crash-states`` tries all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.crashes import QUICK, crash_states, tally_of


@pytest.mark.timeout(300)
def test_no_crash_loses_or_doubles_anything(tmp_path: Path) -> None:
    tally = tally_of(tmp_path, QUICK)
    assert tally.told == []
    assert (tally.lost, tally.doubled, tally.wrong) == (0, 0, 0)
    assert tally.states > 200
    assert len(tally.outcomes) > 150


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_crash_states_in_full(tmp_path: Path) -> None:
    outcome = crash_states(tmp_path)
    assert outcome.passed, "\n".join(outcome.lines())
