from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tallymarkd.core.checkpoint import SaveFailure
from tallymarkd.health.files import DISK_FREE_BYTES_MIN, DISK_FREE_BYTES_WELL
from tallymarkd.storage.state_file import Foreign
from tests.daemon_parts import Bench
from tests.patient import Patient


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with Bench() as bench:
        yield Patient(bench, tmp_path)


def disk_low(patient: Patient) -> None:
    patient.fs.free = DISK_FREE_BYTES_MIN - 1


def save_failed(patient: Patient) -> None:
    patient.checkpointer.failure = SaveFailure("/s/server.json", "Read-only file system", 1.0)


def save_late(patient: Patient) -> None:
    patient.checkpointer.oldest_dirty_seconds = 61.0


def history_held(patient: Patient) -> None:
    patient.checkpointer.holds = SimpleNamespace(seconds=3601.0)


def state_file_changed(patient: Patient) -> None:
    patient.checkpointer.foreign = Foreign(Path("/s/server.json"), Path("/s/q/server.json.1"))


def spool_damaged(patient: Patient) -> None:
    directory = patient.vitals.settings.spool_dir
    directory.mkdir()
    for name in ("0194.damaged", "0195.spool"):
        (directory / name).touch()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (disk_low, "255 MiB"),
        (save_failed, "/s/server.json: Read-only"),
        (save_late, "61 s"),
        (history_held, "60 minutes"),
        (state_file_changed, "/s/server.json; the daemon has saved its own state again, and "),
        (state_file_changed, "/s/q/server.json.1"),
        (spool_damaged, "cannot read 1 spool in"),
        (spool_damaged, "0194.damaged"),
    ],
)
def test_every_trouble_is_named_with_what_to_do(
    patient: Patient, make: Callable[[Patient], None], named: str
) -> None:
    make(patient)

    patient.complains(make.__name__, named)
    assert patient.condition.taking


def test_just_before_the_limits_all_is_well(patient: Patient) -> None:
    patient.fs.free = DISK_FREE_BYTES_MIN
    patient.checkpointer.oldest_dirty_seconds = 60.0
    patient.checkpointer.holds.seconds = 3600.0

    assert patient.codes == []


def test_a_disk_that_wavers_around_the_limit_is_told_once(patient: Patient) -> None:
    disk_low(patient)
    assert patient.codes == ["disk_low"]

    patient.fs.free = DISK_FREE_BYTES_WELL - 1
    assert patient.codes == ["disk_low"]

    patient.fs.free = DISK_FREE_BYTES_WELL
    assert patient.codes == []
    patient.fs.free = DISK_FREE_BYTES_WELL - 1
    assert patient.codes == []


def test_a_state_file_that_somebody_removed_is_told(patient: Patient) -> None:
    patient.checkpointer.foreign = Foreign(Path("/s/server.json"), None)

    assert patient.only.message.startswith("another program has removed /s/server.json;")


def test_a_failed_save_says_more_than_a_late_one(patient: Patient) -> None:
    save_late(patient)
    save_failed(patient)

    assert patient.codes == ["save_failed"]


def test_a_state_directory_that_is_gone_is_told_and_no_reason_to_break(patient: Patient) -> None:
    patient.fs.free = None

    condition = patient.condition

    assert (condition.status, condition.taking) == ("failing", False)
    assert patient.codes == ["state_dir_gone"]
    assert condition.report["disk_free_bytes"] is None


@pytest.mark.parametrize("what", ["", "journal"])
def test_a_directory_in_which_nothing_can_be_made_is_failing(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    directory = patient.vitals.settings.state_dir / what
    # Root may write anywhere, so this is what the system says of a read-only mount.
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda at, mode: at != directory and allowed(at, mode))

    condition = patient.condition

    assert (condition.status, condition.taking) == ("failing", False)
    (reason,) = condition.reasons
    assert (reason.code, reason.message) == (
        "state_dir_unwritable",
        f"cannot write to {directory}",
    )
    assert reason.remedy


def test_a_journal_that_somebody_has_removed_is_failing(patient: Patient) -> None:
    (patient.vitals.settings.state_dir / "journal").rmdir()

    assert patient.codes == ["state_dir_unwritable"]
