from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tallymark.state import AgentProfile, DashboardState
from tallymarkd.cli.output import local
from tallymarkd.core.overview import overview
from tests.fake_daemon import FakeDaemon
from tests.tallymark_command import Tallymark

SAVED_AT = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def make_state(name: str = "demo", tokens: int = 10) -> DashboardState:
    return DashboardState(
        project_name=name,
        created_at=SAVED_AT,
        updated_at=SAVED_AT,
        total_tokens=tokens,
        agents={"coding": AgentProfile(agent_name="coding", total_tokens=tokens)},
    )


def save(tallymark: Tallymark, state: DashboardState) -> Path:
    path = tallymark.save(state)
    os.utime(path, (SAVED_AT.timestamp(), SAVED_AT.timestamp()))
    return path


def test_dump_gives_the_daemons_state_as_it_is(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = {"state": [b'{"version":1,', b'"newer_field":[1]}']}
        done = tallymark("dump", "--project", "demo")
    assert (done.code, done.err) == (0, "")
    assert done.json == {"version": 1, "newer_field": [1]}


def test_dump_of_an_unknown_project_is_1(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.reply_error = "cannot show project 'x': nothing is known of it"
        done = tallymark("dump", "--project", "x")
    assert (done.code, done.out) == (1, "")
    assert done.err == "tallymark: cannot show project 'x': nothing is known of it\n"


def test_without_a_daemon_the_saved_state_is_shown_and_labelled(tallymark: Tallymark) -> None:
    state = make_state()
    save(tallymark, state)
    label = (
        f"tallymarkd is not running: showing the last durable state of {local(SAVED_AT)}, "
        f"in {tallymark.state_dir}\n"
    )
    done = tallymark("dump", "--project", "demo")
    assert (done.code, done.err) == (0, label)
    assert msgspec.convert(done.json, DashboardState) == state
    done = tallymark("--json")
    assert (done.code, done.err) == (0, label)
    assert done.json == [overview(state)]
    assert "coding" in tallymark().out


def test_a_daemon_that_does_not_answer_is_said_to_be_there(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallymarkd.cli.asking.PATIENT_TIMEOUT_SECONDS", 0.05)
    save(tallymark, make_state())
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.welcomes = False
        done = tallymark("--json")
    assert done.code == 0
    first, second = done.err.splitlines()
    assert "it is stopped or busy" in first
    assert second.startswith("tallymarkd does not answer: showing the last durable state of ")


def test_without_a_daemon_and_without_files_it_is_1(tallymark: Tallymark) -> None:
    for args, what in (
        ((), "any state"),
        (("dump", "--project", "demo"), "the state of project 'demo'"),
    ):
        done = tallymark(*args)
        assert (done.code, done.out) == (1, "")
        first, reached, system, saved, remedy = done.err.splitlines()
        assert first == f"tallymark: cannot show {what}"
        assert reached == (
            f"  cannot reach tallymarkd at {tallymark.socket}: no socket there; it is not running"
        )
        assert system.startswith("  nor at /run/tallymark/tallymark.sock: ")
        assert saved.startswith(f"  nothing of it is saved in {tallymark.state_dir} or ")
        assert "tallymarkd, or" in remedy
        assert "tallymark service install" in remedy
    save(tallymark, make_state("other"))
    done = tallymark("dump", "--project", "demo")
    assert done.code == 1
    assert "'demo'" in done.err


def test_a_damaged_file_is_told_and_its_backup_taken(tallymark: Tallymark) -> None:
    path = save(tallymark, make_state(tokens=5))
    path.rename(path.with_name(path.name + ".bak"))
    save(tallymark, make_state(tokens=7))
    path.write_bytes(path.read_bytes().replace(b"demo", b"DEMO", 1))
    done = tallymark("--json")
    assert done.code == 0
    assert done.json[0]["total_tokens"] == 5
    assert done.err.startswith(f"cannot use {path}: ")


def test_a_project_whose_every_file_is_damaged_does_not_hide_the_others(
    tallymark: Tallymark,
) -> None:
    save(tallymark, make_state("good"))
    save(tallymark, make_state("bad")).write_bytes(b"{}")
    done = tallymark("--json")
    assert [project["project"] for project in done.json] == ["good"]
    assert "cannot use" in done.err


def test_a_newer_file_is_refused(tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("tallymarkd.core.project_file.FORMAT", 99)
        path = save(tallymark, make_state())
    done = tallymark("--json")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"tallymark: cannot open {path}: ")
    assert "newer" in done.err


def test_the_project_is_that_of_the_directory_unless_named(
    tallymark: Tallymark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "variable", "option"):
        save(tallymark, make_state(name))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert tallymark("dump").json["project_name"] == "here"
    monkeypatch.setenv("TALLYMARK_PROJECT", "variable")
    assert tallymark("dump").json["project_name"] == "variable"
    assert tallymark("dump", "--project", "option").json["project_name"] == "option"
    monkeypatch.delenv("TALLYMARK_PROJECT")
    (tmp_path / "here").rmdir()
    assert "'unnamed'" in tallymark("dump").err
