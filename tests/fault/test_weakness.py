from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.weakness import TOTAL, run_together, through_daemon, through_store


@pytest.mark.timeout(600)
def test_four_processes_lose_no_update_of_a_store(tmp_path: Path) -> None:
    outcome = through_store(tmp_path)

    assert outcome.passed, outcome.lines()
    assert outcome.tried == TOTAL == 240
    assert outcome.notes == ("240 of 240",)


@pytest.mark.timeout(600)
def test_four_processes_lose_no_event_through_the_daemon(tmp_path: Path) -> None:
    outcome = through_daemon(tmp_path)

    assert outcome.passed, outcome.lines()
    assert outcome.notes == ("240 of 240",)


def test_a_process_that_fails_is_seen() -> None:
    assert run_together([["-c", "pass"], ["-c", "raise SystemExit(3)"]]) == 1
