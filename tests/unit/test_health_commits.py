from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon_parts import MIB, Bench, run_end
from tests.patient import Patient


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with Bench() as bench:
        yield Patient(bench, tmp_path)


def disk_full(patient: Patient) -> None:
    patient.bench.log.full = True
    alice = patient.bench.join()
    alice.publish(1, run_end(1))
    patient.bench.pump()


def commit_stuck(patient: Patient) -> None:
    patient.bench.committer.busy_since = patient.now - 6.0


def watchdog_late(patient: Patient) -> None:
    patient.late = 21.4


def commit_slow(patient: Patient) -> None:
    for seconds in (1.5, 3.25, 1.25):
        patient.commit(sync_seconds=seconds)


def loop_late(patient: Patient) -> None:
    for seconds in (1.5, 3.25, 1.25):
        patient.commit(lag_seconds=seconds)


def overloaded(patient: Patient) -> None:
    patient.bench.engine.unacknowledged_bytes = 60 * MIB
    patient.commit()
    patient.pass_time(5.0)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (disk_full, "No space left"),
        (commit_stuck, "6 s"),
        (watchdog_late, "21 s late"),
        (commit_slow, "longer than 1 s more than once within 60 s, up to 3.2 s"),
        (loop_late, "longer than 1 s to be answered more than once within 60 s, up to 3.2 s"),
        (overloaded, "for 5 s the queue to the disk has been full: 60.0 of 64 MiB wait"),
    ],
)
def test_every_trouble_is_named_with_what_to_do(
    patient: Patient, make: Callable[[Patient], None], named: str
) -> None:
    make(patient)

    patient.complains(make.__name__, named)


@pytest.mark.parametrize("make", [disk_full, commit_stuck, watchdog_late])
def test_while_nothing_becomes_durable_no_events_are_taken(
    patient: Patient, make: Callable[[Patient], None]
) -> None:
    assert patient.condition.taking

    make(patient)

    assert not patient.condition.taking


@pytest.mark.parametrize("make", [commit_slow, loop_late, overloaded])
def test_what_is_slow_takes_events_all_the_same(
    patient: Patient, make: Callable[[Patient], None]
) -> None:
    make(patient)

    assert patient.condition.taking


def test_just_before_the_limits_all_is_well(patient: Patient) -> None:
    for _ in range(10):
        patient.commit(lag_seconds=1.0, sync_seconds=1.0)
    for seconds in (2.0, 3.0):
        patient.commit(lag_seconds=seconds, sync_seconds=seconds)
    patient.bench.engine.unacknowledged_bytes = 60 * MIB
    patient.commit()
    patient.pass_time(4.9)
    patient.bench.committer.busy_since = patient.now - 5.0
    patient.late = 1.9

    assert patient.codes == []


@pytest.mark.parametrize("make", [commit_slow, loop_late])
def test_what_was_late_is_over_after_a_quiet_minute(
    patient: Patient, make: Callable[[Patient], None]
) -> None:
    make(patient)
    patient.pass_time(60.0)
    assert patient.codes == [make.__name__]

    patient.pass_time(0.1)

    assert patient.codes == []


def test_a_full_disk_is_over_when_something_was_kept(patient: Patient) -> None:
    disk_full(patient)
    assert patient.codes == ["disk_full"]

    patient.bench.log.full = False
    patient.bench.settle()

    assert patient.codes == []


def test_a_full_disk_is_told_by_its_cause_and_not_by_what_came_of_it(patient: Patient) -> None:
    patient.bench.log.full = True
    alice = patient.bench.join()
    alice.publish(1, run_end(1))
    first = patient.bench.results.get(timeout=60.0)
    alice.publish(2, run_end(2))
    patient.bench.engine.committed(first)
    (behind,) = patient.bench.pump()

    assert "cannot keep what was sent after" in str(behind.failed)
    assert "No space left" in patient.only.message


def test_a_queue_that_is_emptied_in_between_is_not_overloaded(patient: Patient) -> None:
    patient.bench.engine.unacknowledged_bytes = 60 * MIB
    patient.commit()
    patient.pass_time(4.0)
    patient.bench.engine.unacknowledged_bytes = 50 * MIB
    patient.commit()
    patient.pass_time(1.0)
    patient.bench.engine.unacknowledged_bytes = 64 * MIB
    patient.commit()
    patient.pass_time(4.0)

    assert patient.codes == []

    patient.pass_time(1.0)

    assert "reading is paused" in patient.only.message


def test_what_a_stuck_disk_makes_of_it(tmp_path: Path) -> None:
    """The real committer, whose sync does not come back."""
    with Bench(unacknowledged_total_bytes_max=2 * MIB) as bench:
        patient = Patient(bench, tmp_path, unacknowledged_total_bytes_max=2 * MIB)
        bench.log.may_sync.clear()
        alice = bench.join()
        seq = 0
        while not bench.engine.overloaded:
            seq += 1
            alice.publish(seq, *(run_end(n, error_message="x" * 4000) for n in range(50)))
        assert bench.log.syncing.wait(60.0)
        began = bench.committer.busy_since
        assert began is not None
        patient.now = began
        assert patient.codes == []

        patient.pass_time(5.5)

        assert patient.codes == ["commit_stuck", "overloaded"]
        assert "reading is paused" in patient.reasons[1].message

        bench.log.may_sync.set()
        bench.settle()
        assert patient.codes == []
