from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tallymark.protocol.messages import HealthReport
from tallymarkd.service.machine import NOT_FOUND, Ran, runner, this_machine, with_runtime_dir


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_command_and_what_it_left() -> None:
    run = runner({"WORD": "hello", "PATH": os.defpath})
    program = "import os, sys; print(os.environ['WORD']); sys.stderr.write('no\\n'); sys.exit(3)"
    assert run(python(program)) == Ran(3, "hello\n", "no\n")
    # Nobody is asked for a password, and nothing waits in a pager.
    assert run(python("import sys; print(repr(sys.stdin.read()))")).out == "''\n"
    assert run(python("import os; print(repr(os.environ['SYSTEMD_PAGER']))")).out == "''\n"


def test_a_command_that_is_not_there() -> None:
    ran = runner({})(["/nowhere/systemctl", "--user"])
    assert (ran.code, ran.cause) == (NOT_FOUND, "/nowhere/systemctl: No such file or directory")


def test_a_command_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallymarkd.service.machine.COMMAND_SECONDS", 0.05)
    ran = runner({})(python("import signal; signal.pause()"))
    assert (ran.code, ran.cause) == (1, "it took longer than 0.05 s")


@pytest.mark.parametrize(
    ("ran", "cause"),
    [
        (Ran(1, "out\n", "warning\nFailed to connect\n"), "Failed to connect"),
        (Ran(1, "no\n", "\n"), "no"),
        (Ran(5), "exit code 5"),
    ],
)
def test_the_cause_is_the_last_line(ran: Ran, cause: str) -> None:
    assert ran.cause == cause


def test_the_users_runtime_directory_is_found_without_being_told(tmp_path: Path) -> None:
    uid = os.geteuid()
    env = {"XDG_RUNTIME_DIR": "/run/user/12345", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/else"}
    assert with_runtime_dir(env, uid, tmp_path) == env
    (tmp_path / str(uid)).mkdir()
    ours = tmp_path / str(uid)
    found = {"XDG_RUNTIME_DIR": f"{ours}", "DBUS_SESSION_BUS_ADDRESS": f"unix:path={ours}/bus"}
    assert with_runtime_dir(env, uid, tmp_path) == found
    # One that is somebody else's is none.
    (tmp_path / "4711").mkdir()
    assert with_runtime_dir(env, 4711, tmp_path) == env


def test_this_machine() -> None:
    def ask(socket: Path) -> HealthReport:
        raise AssertionError(socket)

    machine = this_machine({"HOME": "/home/x"}, ask)
    assert (machine.platform, machine.uid) == (sys.platform, os.geteuid())
    assert machine.user
    assert machine.home == Path("/home/x")
    assert machine.run(python("print(1)")).out == "1\n"
