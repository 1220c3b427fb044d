"""The first connection starts the daemon."""

from __future__ import annotations

from tests.systemd.services import Service


def test_the_first_connection_starts_it_and_is_answered(service: Service) -> None:
    assert service.active() == "inactive"
    report = service.health()
    assert report["status"] == "ok", report
    assert service.active() == "active"
    assert service.show("MainPID") == str(report["report"]["pid"])
