from __future__ import annotations

import pytest

from tallymark.protocol.messages import HealthReport, Reason
from tallymarkd.cli.output import NOTHING
from tests.fake_daemon import FakeDaemon
from tests.tallymark_command import Tallymark

REPORT = {
    "version": "9.9",
    "pid": 4711,
    "started_at": "2026-05-04T12:00:00Z",
    "uptime_seconds": 7500,
    "socket": "/run/x\n.sock",
    "state_dir": "/var/x",
    "durable_lsn": 1234567,
    "rss_bytes": 30 * 1024 * 1024,
    "disk_free_bytes": 5 * 1024**3,
    "connections": 3,
    "projects": 2,
    "ledger": {"stored": 1000, "duplicate": 20, "rejected": {"a": 3, "b": 4}, "lost": 5},
}


def test_running_is_0_with_everything_on_one_screen(tallymark: Tallymark) -> None:
    reason = Reason(code="save_late", message="10 s behind", remedy="look at the disk")
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.health = HealthReport(id=0, status="degraded", reasons=[reason], report=REPORT)
        done = tallymark("status")
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0] == "tallymarkd 9.9 is running"
    shown = dict(line.strip().split("  ", 1) for line in lines[1:-2])
    shown = {name: value.strip() for name, value in shown.items()}
    assert shown["health"] == "degraded"
    assert shown["since"].endswith("(2 h 5 min)")
    assert shown["pid"] == "4711"
    assert shown["socket"] == "/run/x\\n.sock"
    assert shown["state"] == "/var/x"
    assert shown["durable LSN"] == "1,234,567"
    assert shown["events"] == "1,000 stored, 20 duplicate, 7 rejected, 5 lost"
    assert shown["memory"] == "30.0 MiB"
    assert shown["disk free"] == "5.0 GiB"
    assert shown["connections"] == "3"
    assert lines[-2:] == ["  save_late: 10 s behind", "    look at the disk"]


@pytest.mark.parametrize(("waiting", "shown"), [(0, None), (1, "1 spool"), (3, "3 spools")])
def test_spools_that_wait_are_shown(tallymark: Tallymark, waiting: int, shown: str | None) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.health = HealthReport(
            id=0, status="ok", report={**REPORT, "spools_waiting": waiting}
        )
        done = tallymark("status")
    if shown is None:
        assert "waiting" not in done.out
    else:
        assert f"  waiting      {shown} that this daemon cannot take; see its log\n" in done.out


def test_as_json_it_has_the_whole_report(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.health = HealthReport(id=0, status="ok", report=REPORT)
        done = tallymark("status", "--json")
    assert done.code == 0
    assert done.json == {"running": True, "status": "ok", "reasons": [], **REPORT}


def test_a_report_that_says_little_is_shown_too(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket):
        done = tallymark("status")
    assert done.code == 0
    assert "0 stored" in done.out


def test_a_disk_that_cannot_be_reached_has_no_free_space_to_show(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.health = HealthReport(id=0, status="failing", report={"disk_free_bytes": None})
        done = tallymark("status")
    assert done.code == 0
    assert f"disk free    {NOTHING}\n" in done.out


def test_not_running_is_1(tallymark: Tallymark) -> None:
    done = tallymark("status")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("tallymark: cannot reach tallymarkd at ")
    first, second, remedy = done.err.splitlines()
    assert first.endswith("it is not running")
    assert second.startswith("  nor at ")
    assert "tallymark service install" in remedy
    done = tallymark("status", "--json")
    assert done.code == 1
    assert done.json["running"] is False
    assert "it is not running" in done.json["cause"]
