from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_parts import PRODUCERS, Bench, run_end
from tests.patient import Patient


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with Bench() as bench:
        yield Patient(bench, tmp_path)


def test_connections_are_told_before_the_last_is_taken(tmp_path: Path) -> None:
    with Bench() as bench:
        patient = Patient(bench, tmp_path, connections_max=20)
        patient.connections = 17
        assert patient.codes == []

        patient.connections = 18

        reason = patient.only
        assert (reason.code, reason.message) == (
            "connections_full",
            "18 of 20 connections are open",
        )
        assert reason.remedy
        patient.connections = 16
        assert patient.codes == ["connections_full"]
        patient.connections = 15
        assert patient.codes == []
        patient.connections = 17
        assert patient.codes == []


def test_fewer_connections_than_the_settings_say_are_told(tmp_path: Path) -> None:
    with Bench() as bench:
        patient = Patient(bench, tmp_path, connections_max=20)
        patient.room = 12

        patient.complains("connections_limited", "more than 12 connections")
        patient.connections = 11
        assert patient.reasons[0].message == "11 of 12 connections are open"


def test_no_room_for_another_project_or_producer(tmp_path: Path) -> None:
    with Bench(projects_max=2, producers_max=3) as bench:
        patient = Patient(bench, tmp_path, projects_max=2, producers_max=3)
        for number in range(3):
            project = f"project {number % 2}"
            bench.join(PRODUCERS[number], project).publish(1, run_end(number))
            if number == 1:
                bench.settle()
                assert patient.only.code == "projects_full"
        bench.settle()

        projects, producers = patient.reasons

        assert projects.code == "projects_full"
        assert "there are 2, and projects_max is 2" in projects.message
        assert producers.code == "producers_full"
        assert "3 are known, and producers_max is 3" in producers.message
        assert projects.remedy
        assert producers.remedy
        bench.books.server.running_seconds = 31 * 86_400.0
        assert patient.codes == ["projects_full"]


def test_a_reload_that_was_refused_is_told_until_one_was_not(patient: Patient) -> None:
    patient.problem = "cannot use log_level = 'loud' (…)"

    reason = patient.only

    assert reason.code == "reload_refused"
    assert reason.message.endswith("in force: cannot use log_level = 'loud' (…)")
    assert reason.remedy
    patient.problem = ""
    assert patient.codes == []
