"""A disk that is really full: some of what ``make torture`` does in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault import enospc

pytestmark = pytest.mark.skipif(bool(enospc.cannot_fill()), reason=enospc.cannot_fill())


def test_a_full_disk_loses_nothing_and_is_gone_when_there_is_room(tmp_path: Path) -> None:
    outcome = enospc.ordeal(tmp_path, step=9, calls=[])
    assert outcome.passed, outcome.lines()
    assert outcome.tried == 7


@pytest.mark.parametrize("call", ["pwrite64", "fallocate"])
def test_writes_that_find_no_room_lose_nothing(tmp_path: Path, call: str) -> None:
    outcome = enospc.ordeal(tmp_path, step=8, levels=0, calls=[call])
    assert outcome.passed, outcome.lines()
    assert outcome.tried >= 1
