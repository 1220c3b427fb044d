from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tallymarkd.health import condition, status_line
from tallymarkd.health.files import DISK_FREE_BYTES_MIN
from tests.daemon_parts import Bench, run_end
from tests.patient import Patient


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with Bench() as bench:
        yield Patient(bench, tmp_path)


def test_when_all_is_well_there_is_no_reason(patient: Patient) -> None:
    found = patient.condition

    assert (found.status, found.reasons, found.taking) == ("ok", [], True)
    assert found.report["pid"] > 0


def test_a_probe_that_failed_is_the_worst(patient: Patient) -> None:
    patient.fs.free = DISK_FREE_BYTES_MIN - 1

    found = condition(patient.vitals, probe_failed="nothing was durable within 5 s")

    assert (found.status, found.taking) == ("failing", False)
    assert [reason.code for reason in found.reasons] == ["probe_failed", "disk_low"]
    assert "within 5 s" in found.reasons[0].message


def test_the_gravest_stands_first(patient: Patient) -> None:
    patient.problem = "cannot read it"
    patient.bench.committer.busy_since = patient.now - 6.0
    found = patient.condition
    assert found.status == "degraded"
    assert [reason.code for reason in found.reasons] == ["commit_stuck", "reload_refused"]

    patient.fs.free = None

    found = patient.condition
    assert found.status == "failing"
    assert [reason.code for reason in found.reasons] == [
        "state_dir_gone",
        "commit_stuck",
        "reload_refused",
    ]


def test_the_status_line_tells_how_much_there_is_or_what_is_wrong(patient: Patient) -> None:
    patient.bench.join().publish(1, *(run_end(number) for number in range(1, 1235)))
    patient.bench.settle()
    assert status_line(patient.vitals) == "7 connections, 1,234 events stored"
    patient.connections = 1
    assert status_line(patient.vitals) == "1 connection, 1,234 events stored"

    patient.fs.free = DISK_FREE_BYTES_MIN - 1
    patient.problem = "cannot read it"

    line = status_line(patient.vitals)
    assert line == "degraded (disk_low, reload_refused); tallymark health tells more"
