from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tallymark.fs import OsFileSystem
from tallymark.protocol.messages import HealthReport, encode
from tallymark.state import EVENTS_MAX
from tallymarkd.config import Settings
from tallymarkd.core.checkpoint import Checkpointer, SaveFailure
from tallymarkd.core.ledger import Loss
from tallymarkd.core.restore import RecoveryReport
from tallymarkd.health import DAMAGE_SHOWN_MAX, DISK_FREE_BYTES_MIN, Vitals
from tallymarkd.storage.journal import Journal
from tallymarkd.storage.state_file import Foreign
from tallymarkd.storage.survey import Damage
from tests.daemon_parts import PRODUCERS, SERVER_ID, UID, Bench, run_end

PLENTY = 100 * DISK_FREE_BYTES_MIN


class DiskFs(OsFileSystem):
    """A disk with as much room as the test says; None for one that is gone."""

    def __init__(self) -> None:
        self.free: int | None = PLENTY

    def free_bytes(self, path: Path) -> int:
        if self.free is None:
            raise FileNotFoundError(2, "No such file or directory")
        return self.free


class Patient:
    """Vitals over an engine that works, and what the test makes of the rest."""

    def __init__(self, bench: Bench, root: Path) -> None:
        self.bench = bench
        self.fs = DiskFs()
        self.now = 100.0
        self.checkpointer = SimpleNamespace(failure=None, foreign=None, oldest_dirty_seconds=0.0)
        self.journal = SimpleNamespace(durable_lsn=42, size_bytes=lambda: 123_456)
        self.recovery = RecoveryReport()
        self.vitals = Vitals(
            Settings(state_dir=root, socket=root / "run" / "t.sock", spool_dir=root / "spool"),
            self.fs,
            bench.engine,
            bench.committer,
            cast(Checkpointer, self.checkpointer),
            cast(Journal, self.journal),
            self.recovery,
            connections=lambda: 7,
            clock=lambda: self.now,
            started=1_767_355_200.0,
        )

    @property
    def status(self) -> str:
        return self.vitals.condition().status

    @property
    def codes(self) -> list[str]:
        return [reason.code for reason in self.vitals.condition().reasons]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with Bench() as bench:
        yield Patient(bench, tmp_path)


def test_when_all_is_well_there_is_no_reason(patient: Patient) -> None:
    condition = patient.vitals.condition()

    assert (condition.status, condition.reasons) == ("ok", [])


def test_the_report_has_every_figure(patient: Patient) -> None:
    alice = patient.bench.join()
    alice.publish(1, run_end(1), run_end(2), {"type": "usage", "input_tokens": -1})
    patient.bench.settle()
    patient.vitals.loop_lag_seconds = 0.0025

    report = patient.vitals.report()

    assert report["server_id"] == SERVER_ID
    assert report["pid"] == os.getpid()
    assert report["started_at"] == "2026-01-02T12:00:00.000Z"
    assert report["uptime_seconds"] > 0
    assert report["durable_lsn"] == 42
    assert report["applied_lsn"] == patient.bench.books.server.applied_lsn
    assert report["queue_bytes"] == 0
    assert report["commits"] == patient.bench.committer.stats.commits >= 1
    assert report["events_per_commit"] == round(4 / report["commits"], 1)
    assert 0 <= report["fsync_p50_ms"] <= report["fsync_p99_ms"]
    assert report["loop_lag_ms"] == 2.5
    assert report["disk_free_bytes"] == PLENTY
    assert report["history_bytes"] == 123_456
    assert 0 < report["rss_bytes"] <= report["rss_peak_bytes"] * 1.2
    assert report["open_files"] > 0
    assert (report["connections"], report["projects"], report["producers"]) == (7, 1, 1)
    assert report["ledger"]["stored"] == 2
    assert report["ledger"]["rejected"] == {"invalid_field": 1}
    assert report["recovery"]["clean"] is True


def test_before_the_first_commit_there_are_no_durations(patient: Patient) -> None:
    report = patient.vitals.report()

    assert (report["fsync_p50_ms"], report["fsync_p99_ms"]) == (None, None)
    assert (report["commits"], report["events_per_commit"]) == (0, 0)


def test_percentiles(patient: Patient) -> None:
    patient.bench.committer.stats.fsync_seconds.extend(n / 1000 for n in range(100, 0, -1))

    report = patient.vitals.report()

    assert (report["fsync_p50_ms"], report["fsync_p99_ms"]) == (50.5, 100.0)


def test_the_report_can_be_sent_in_both_tongues(patient: Patient) -> None:
    patient.recovery.damage = [a_damage(number) for number in range(500)]
    condition = patient.vitals.condition()

    message = HealthReport(
        id=1, status=condition.status, reasons=condition.reasons, report=condition.report
    )

    assert len(encode(message)) < 1024 * 1024
    found = json.loads(msgspec.json.encode(condition.report))
    assert len(found["recovery"]["damage"]) == DAMAGE_SHOWN_MAX
    assert found["recovery"]["damage"][0]["reason"] == "damaged 0"


def a_damage(number: int) -> Damage:
    return Damage(
        segment=1,
        start=number,
        end=number + 1,
        from_lsn=1,
        through_lsn=1,
        torn=False,
        reason=f"damaged {number}",
        producer=b"\xff" * 16,
    )


def disk_low(patient: Patient) -> None:
    patient.fs.free = DISK_FREE_BYTES_MIN - 1


def disk_full(patient: Patient) -> None:
    patient.bench.log.full = True
    alice = patient.bench.join()
    alice.publish(1, run_end(1))
    patient.bench.pump()


def save_failed(patient: Patient) -> None:
    patient.checkpointer.failure = SaveFailure("/s/server.json", "Read-only file system", 1.0)


def save_late(patient: Patient) -> None:
    patient.checkpointer.oldest_dirty_seconds = 61.0


def commit_stuck(patient: Patient) -> None:
    patient.bench.committer.busy_since = 94.0


def events_lost(patient: Patient) -> None:
    patient.recovery.new_losses = 7
    patient.recovery.losses = [
        Loss(reason="rot", producer=PRODUCERS[0], from_seq=3, through_seq=4, events=number)
        for number in range(1, 8)
    ]


def journal_damaged(patient: Patient) -> None:
    patient.recovery.new_damage = 2


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
        (disk_full, "No space left"),
        (save_failed, "/s/server.json: Read-only"),
        (save_late, "61 s"),
        (commit_stuck, "6 s"),
        (events_lost, f"1 event of producer {PRODUCERS[0]} (seq 3 to 4): rot; 2 events of"),
        (events_lost, "and 2 more"),
        (journal_damaged, "2 corrupt places"),
        (state_file_changed, "/s/server.json; the daemon has saved its own state again, and "),
        (state_file_changed, "/s/q/server.json.1"),
        (spool_damaged, "1 spools in"),
        (spool_damaged, "0194.damaged"),
    ],
)
def test_every_trouble_is_named_with_what_to_do(
    patient: Patient, make: Callable[[Patient], None], named: str
) -> None:
    make(patient)

    condition = patient.vitals.condition()

    assert condition.status == "degraded"
    (reason,) = condition.reasons
    assert reason.code == make.__name__
    assert named in reason.message
    assert reason.remedy


def test_a_state_file_that_somebody_removed_is_told(patient: Patient) -> None:
    patient.checkpointer.foreign = Foreign(Path("/s/server.json"), None)

    (reason,) = patient.vitals.condition().reasons

    assert reason.message.startswith("another program has removed /s/server.json;")


def test_just_before_the_limits_all_is_well(patient: Patient) -> None:
    patient.fs.free = DISK_FREE_BYTES_MIN
    patient.checkpointer.oldest_dirty_seconds = 60.0
    patient.bench.committer.busy_since = 95.0

    assert patient.status == "ok"


def test_a_ledger_that_does_not_add_up_is_told(patient: Patient) -> None:
    patient.bench.books.server.ledger.stored += 1
    assert (patient.status, patient.codes) == ("degraded", ["ledger_differs"])


def test_the_ledger_of_each_producer_and_what_left_the_live_state(patient: Patient) -> None:
    client = patient.bench.join()
    runs = [run_end(number) for number in range(EVENTS_MAX + 3)]
    client.publish(1, *runs)
    client.skip(2, 2, events=4)
    patient.bench.settle()
    ledger = patient.vitals.report()["ledger"]
    assert (ledger["stored"], ledger["evicted"], ledger["skips"]) == (503, 3, {"full": 4})
    (producer,) = ledger["producers"]
    assert producer == {
        "producer": PRODUCERS[0], "seq": 2, "project": "spotter", "uid": UID,
        "contact_seconds": 0.0, "received": 503, "stored": 503, "duplicate": 0, "rejected": 0,
        "skipped": 4,
    }  # fmt: skip


def test_a_failed_save_says_more_than_a_late_one(patient: Patient) -> None:
    save_late(patient)
    save_failed(patient)

    assert patient.codes == ["save_failed"]


def test_a_full_disk_is_over_when_something_was_kept(patient: Patient) -> None:
    disk_full(patient)
    assert patient.status == "degraded"

    patient.bench.log.full = False
    patient.bench.settle()

    assert patient.status == "ok"


def test_a_probe_that_failed_is_the_worst(patient: Patient) -> None:
    disk_low(patient)

    condition = patient.vitals.condition(probe_failed="nothing was durable within 5 s")

    assert condition.status == "failing"
    assert [reason.code for reason in condition.reasons] == ["probe_failed", "disk_low"]
    assert "within 5 s" in condition.reasons[0].message


def test_a_state_directory_that_is_gone_is_told_and_no_reason_to_break(patient: Patient) -> None:
    patient.fs.free = None

    condition = patient.vitals.condition()

    assert condition.status == "failing"
    assert [reason.code for reason in condition.reasons] == ["state_dir_gone"]
    report: dict[str, Any] = condition.report
    assert report["disk_free_bytes"] is None
