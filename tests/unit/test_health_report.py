from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tallymark.protocol.messages import HealthReport, encode
from tallymark.state import EVENTS_MAX
from tallymarkd.health.report import DAMAGE_SHOWN_MAX
from tallymarkd.storage.survey import Damage
from tests.daemon_parts import PRODUCERS, SERVER_ID, UID, Bench, run_end
from tests.patient import PLENTY, Patient


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with Bench() as bench:
        yield Patient(bench, tmp_path)


def test_the_report_has_every_figure(patient: Patient) -> None:
    alice = patient.bench.join()
    alice.publish(1, run_end(1), run_end(2), {"type": "usage", "input_tokens": -1})
    patient.bench.settle()
    patient.vitals.pulse.loop_lag_seconds = 0.0025

    report = patient.condition.report

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
    assert report["spools_waiting"] == 5
    assert report["ledger"]["stored"] == 2
    assert report["ledger"]["rejected"] == {"invalid_field": 1}
    assert report["recovery"]["clean"] is True


def test_a_process_that_cannot_be_looked_at_is_no_reason_to_fail(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(patient.vitals.process, "num_fds", fail)

    report = patient.condition.report

    assert "open_files" not in report
    assert report["connections"] == 7


def test_before_the_first_commit_there_are_no_durations(patient: Patient) -> None:
    report = patient.condition.report

    assert (report["fsync_p50_ms"], report["fsync_p99_ms"]) == (None, None)
    assert (report["commits"], report["events_per_commit"]) == (0, 0)


def test_percentiles(patient: Patient) -> None:
    patient.bench.committer.stats.fsync_seconds.extend(n / 1000 for n in range(100, 0, -1))

    report = patient.condition.report

    assert (report["fsync_p50_ms"], report["fsync_p99_ms"]) == (50.5, 100.0)


def test_the_report_can_be_sent_in_both_tongues(patient: Patient) -> None:
    patient.recovery.damage = [a_damage(number) for number in range(500)]
    condition = patient.condition

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


def test_the_ledger_of_each_producer_and_what_left_the_live_state(patient: Patient) -> None:
    client = patient.bench.join()
    runs = [run_end(number) for number in range(EVENTS_MAX + 3)]
    client.publish(1, *runs)
    client.skip(2, 2, events=4)
    patient.bench.settle()
    ledger = patient.condition.report["ledger"]
    assert (ledger["stored"], ledger["evicted"], ledger["skips"]) == (503, 3, {"full": 4})
    (producer,) = ledger["producers"]
    assert producer == {
        "producer": PRODUCERS[0], "seq": 2, "project": "spotter", "uid": UID,
        "contact_seconds": 0.0, "received": 503, "stored": 503, "duplicate": 0, "rejected": 0,
        "skipped": 4,
    }  # fmt: skip
