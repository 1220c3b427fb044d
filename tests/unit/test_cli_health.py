from __future__ import annotations

import time
from pathlib import Path

import pytest

from tallymark import transport
from tallymark.names import ASK_TIMEOUT_SECONDS
from tallymark.protocol.messages import HealthReport, Reason
from tallymark.transport.unreachable import NOT_LET_IN
from tallymarkd.answers import PROBE_SECONDS
from tallymarkd.cli.asking import (
    DEEP_TIMEOUT_SECONDS,
    HEALTH_TIMEOUT_SECONDS,
    PATIENT_TIMEOUT_SECONDS,
)
from tests.fake_daemon import DEADLINE_SECONDS, FakeDaemon
from tests.speed import Times, quick
from tests.tallymark_command import Done, Tallymark

DEGRADED = HealthReport(
    id=0,
    status="degraded",
    reasons=[Reason(code="disk_low", message="only 3 MiB\nfree", remedy="free space")],
    report={"version": "9.9", "durable_lsn": 7},
)


@pytest.fixture
def patient(tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch) -> Tallymark:
    """For answers, which come when this machine has time for them."""
    monkeypatch.setattr("tallymarkd.cli.health.HEALTH_TIMEOUT_SECONDS", DEADLINE_SECONDS)
    monkeypatch.setattr("tallymarkd.cli.asking.DEEP_TIMEOUT_SECONDS", DEADLINE_SECONDS)
    return tallymark


def test_ok_is_0(patient: Tallymark) -> None:
    with FakeDaemon(patient.socket):
        done = patient("health")
    assert (done.code, done.out, done.err) == (0, "ok\n", "")


def test_degraded_is_1_with_each_reason_and_its_remedy(patient: Tallymark) -> None:
    with FakeDaemon(patient.socket) as daemon:
        daemon.health = DEGRADED
        done = patient("health")
        as_json = patient("health", "--json")
    assert done.code == as_json.code == 1
    assert done.out == "degraded\n  disk_low: only 3 MiB\\nfree\n    free space\n"
    assert as_json.json["status"] == "degraded"
    assert as_json.json["reasons"][0]["code"] == "disk_low"
    assert as_json.json["durable_lsn"] == 7


def test_failing_is_2(patient: Tallymark) -> None:
    with FakeDaemon(patient.socket) as daemon:
        daemon.health = HealthReport(id=0, status="failing")
        assert patient("health").code == 2


def test_deep_asks_for_a_probe(patient: Tallymark, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def ask(paths: list[Path], questions: list[object], *args: float, **kwargs: str) -> object:
        asked.extend(question.deep for question in questions)  # type: ignore[attr-defined]
        return transport.ask(paths, questions, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("tallymarkd.cli.asking.ask", ask)
    with FakeDaemon(patient.socket):
        assert patient("health", "--deep").code == 0
    assert asked == [False, True]


def test_deep_waits_longer_than_the_daemon_for_its_probe() -> None:
    """Else the daemon's own words about a probe that failed would come too late."""
    assert DEEP_TIMEOUT_SECONDS > PROBE_SECONDS + 1
    assert ASK_TIMEOUT_SECONDS >= PROBE_SECONDS + 1


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("gone", "it is not running"),
        ("file", "not a socket"),
        ("stopped", "it is stopped or busy"),
        ("foreign", "not tallymarkd"),
        ("closing", "closed the connection"),
    ],
)
@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_unreachable_is_2_in_time_and_says_how(
    tallymark: Tallymark, what: str, told: str, deep: list[str]
) -> None:
    """Within a second; a silent one is given longer with --deep."""
    daemon = FakeDaemon(tallymark.socket)
    daemon.first_words = {"foreign": b"220 mail.example ESMTP\r\n", "closing": b""}.get(what)
    daemon.welcomes = what != "stopped"
    if what == "file":
        tallymark.socket.parent.mkdir(parents=True)
        tallymark.socket.write_text("not a socket")
    elif what != "gone":
        daemon.start()
    try:

        def attempt() -> tuple[Times, Done]:
            began = time.monotonic()
            done = tallymark("health", *deep)
            return {"health": time.monotonic() - began}, done

        # Whoever says anything at all is known before the time of those who do not is over.
        silent = PATIENT_TIMEOUT_SECONDS + 0.4 if deep else 0.9
        limit = silent if what == "stopped" else HEALTH_TIMEOUT_SECONDS
        done = quick({"health": limit}, attempt)
        as_json = tallymark("health", "--json", *deep)
    finally:
        if what not in ("gone", "file"):
            daemon.stop()
    assert done.code == as_json.code == 2
    if what == "stopped":
        # One that is only now being started may need all of it.
        assert (
            f"within {PATIENT_TIMEOUT_SECONDS if deep else HEALTH_TIMEOUT_SECONDS:g} s" in done.out
        )
    assert done.out.startswith("failing\n  unreachable: cannot reach tallymarkd at ")
    assert str(tallymark.socket) in done.out
    assert told in done.out
    assert as_json.json["status"] == "failing"
    assert as_json.json["reasons"][0]["code"] == "unreachable"


def test_who_is_not_let_in_is_not_told_to_start_what_runs(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.first_words = b"cannot serve uid 1: this daemon serves uid 0 and root\n"
        (reason,) = tallymark("health", "--json").json["reasons"]
        told = tallymark("health").out.splitlines()
        status = tallymark("status").err
        spooled = tallymark("emit", "--type", "usage", "--agent", "a").err
    assert reason["message"].endswith("this daemon serves uid 0 and root")
    assert reason["remedy"] == NOT_LET_IN
    assert told[2:] == [f"    {NOT_LET_IN}"]
    assert status.endswith(f"\n  {NOT_LET_IN}\n")
    assert "to be delivered when tallymarkd can be reached" in spooled
    assert spooled.endswith(f"; {NOT_LET_IN}\n")
