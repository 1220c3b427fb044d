"""What the log says to a person when the daemon is ready."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tallymark.paths import SYSTEM_SOCKET
from tallymarkd.next_steps import next_steps

ENV = {"HOME": "/home/ada"}
USUAL = Path("/home/ada/.local/state/tallymark/run/tallymark.sock")


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in the working directory, with the command."""
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "tallymark").touch()
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    monkeypatch.chdir(tmp_path)
    return binaries


def test_at_the_usual_socket_nothing_has_to_be_said_of_it() -> None:
    assert next_steps(USUAL, ENV) == ["to see what is recorded: .venv/bin/tallymark"]


def test_the_systems_is_found_as_well() -> None:
    (line,) = next_steps(SYSTEM_SOCKET, ENV)
    assert line.endswith(f"tallymark --socket {SYSTEM_SOCKET}")


def test_at_another_both_are_told_how_to_find_it() -> None:
    command, agents = next_steps(Path("/data/run/tallymark.sock"), ENV)
    assert command.endswith(".venv/bin/tallymark --socket /data/run/tallymark.sock")
    assert agents == "agents find it with TALLYMARK_SOCKET=/data/run/tallymark.sock"


def test_the_daemons_own_variables_are_not_those_of_an_agent() -> None:
    variables = {"TALLYMARK_STATE_DIR": "/data", "TALLYMARK_SOCKET": "/data/run/tallymark.sock"}
    lines = next_steps(Path("/data/run/tallymark.sock"), ENV | variables)
    assert lines[1:] == ["agents find it with TALLYMARK_SOCKET=/data/run/tallymark.sock"]


def test_what_is_told_can_be_pasted_into_a_shell() -> None:
    command, agents = next_steps(Path("/my data/t.sock"), ENV)
    assert command.endswith("--socket '/my data/t.sock'")
    assert agents.endswith("TALLYMARK_SOCKET='/my data/t.sock'")


def test_a_command_that_is_elsewhere(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert next_steps(USUAL, ENV) == [f"to see what is recorded: {installed / 'tallymark'}"]
    (installed / "tallymark").unlink()
    assert next_steps(USUAL, ENV) == ["to see what is recorded: tallymark"]
