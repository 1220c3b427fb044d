from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tallymarkd.health.vitals import OVERLOAD_SHARE
from tests.daemon_parts import MIB, Bench
from tests.patient import PLENTY, Patient


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with Bench() as bench:
        yield Patient(bench, tmp_path)


def test_free_bytes_are_none_for_a_directory_that_is_gone(patient: Patient) -> None:
    assert patient.vitals.free_bytes() == PLENTY

    patient.fs.free = None

    assert patient.vitals.free_bytes() is None


def test_the_queue_is_measured_against_its_limit(patient: Patient) -> None:
    patient.bench.engine.unacknowledged_bytes = 16 * MIB

    assert patient.vitals.queue_share == 0.25


def test_before_the_first_sync_a_commit_is_looked_at_all_the_same(patient: Patient) -> None:
    """One that has failed, on a disk that was full from the start."""
    assert not patient.bench.committer.stats.fsync_seconds
    patient.bench.engine.unacknowledged_bytes = int(OVERLOAD_SHARE * 64 * MIB) + 1

    patient.vitals.after_commit(0.25)
    patient.pass_time(2.0)

    assert patient.vitals.pulse.loop_lag_seconds == 0.25
    assert patient.vitals.look(patient.now) == (2.0, None)
