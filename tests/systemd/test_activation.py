"""The first connection starts the daemon, and a stop drains it."""

from __future__ import annotations

import time

import pytest

from tests.systemd.programs import running
from tests.systemd.services import SERVICE, SOCKET, Service

DRAIN_SECONDS_MAX = 5.0

TALKERS = 6


def test_the_first_connection_starts_it_and_is_answered(service: Service) -> None:
    assert service.active() == "inactive"
    report = service.health()
    assert report["status"] == "ok", report
    assert service.active() == "active"
    assert service.show("MainPID") == str(report["pid"])
    assert report["uptime_seconds"] < DRAIN_SECONDS_MAX
    assert service.show("StatusText").startswith("ready: ")


def test_root_is_served_and_a_stranger_is_not(service: Service) -> None:
    """A user's daemon sees nobody but its user: root looks like any stranger there."""
    assert service.health("root")["status"] == "ok"
    with pytest.raises(AssertionError, match="Permission denied"):
        service.health("daemon")


def test_a_stop_drains_and_the_next_connection_starts_it_again(service: Service) -> None:
    arguments = (str(service.socket), f"{TALKERS}", "stop", "one")
    with running(service.machine, "tests.systemd.once", *arguments) as talkers:
        talkers.until("acknowledged events", "acked", 200)
        began = time.monotonic()
        service.systemctl("stop", SERVICE)
        took = time.monotonic() - began
        came = talkers.finish()
    assert came["ends"] == {"goodbye": TALKERS}, came["broken"]
    assert took <= DRAIN_SECONDS_MAX
    assert [service.active(unit) for unit in (SERVICE, SOCKET)] == ["inactive", "active"]
    assert service.show("Result") == "success"
    assert service.show("ExecMainStatus") == "0"
    service.hold(came["acked"])
    found = service.verify()
    assert (found["verdict"], found["journal"]["clean"]) == ("whole", True), found

    report = service.health()
    assert report["recovery"]["clean"] is True, report
    assert report["recovery"]["new_losses"] == 0
    assert service.active() == "active"
