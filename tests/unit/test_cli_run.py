from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tallymarkd.cli.child import Child, exit_code_of, signal_name
from tests.fake_daemon import FakeDaemon
from tests.tallymark_command import Tallymark

HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


@pytest.fixture
def tallymark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Tallymark:
    # Long enough for a busy machine; where there is no daemon a test says less.
    monkeypatch.setattr("tallymarkd.cli.run.HANDOVER_SECONDS_MAX", 60.0)
    return Tallymark(tmp_path, monkeypatch, capfd)


@pytest.fixture
def daemon(tallymark: Tallymark) -> Iterator[FakeDaemon]:
    with FakeDaemon(tallymark.socket) as running:
        yield running
        assert running.wrong == []


def test_a_command_is_a_run_in_a_session_of_its_own(
    tallymark: Tallymark, daemon: FakeDaemon
) -> None:
    done = tallymark(
        "run", "--agent", "tests", "--ticket", "AI-1", "--model", "m", "--project", "demo",
        "--", "sh", "-c", "echo out; echo err >&2",
    )  # fmt: skip
    assert (done.code, done.out, done.err) == (0, "out\n", "err\n")
    kinds = [event["type"] for event in daemon.events]
    assert kinds == ["session.start", "run.start", "run.end", "session.end"]
    _, start, end, _ = daemon.events
    assert {event["session_id"] for event in daemon.events} == {end["session_id"]}
    assert start["run_id"] == end["event_id"]
    assert (end["agent_name"], end["ticket_key"], end["model_used"]) == ("tests", "AI-1", "m")
    assert "status" not in end  # success is the default
    assert end["source"] == "tallymark run"
    assert end["duration_seconds"] > 0
    assert daemon.hellos[0].project == "demo"


def test_an_agent_without_a_name_has_that_of_the_command(
    tallymark: Tallymark, daemon: FakeDaemon
) -> None:
    assert tallymark("run", "/bin/true").code == 0
    assert daemon.events[2]["agent_name"] == "true"


@pytest.mark.parametrize(
    ("script", "code", "status", "message"),
    [
        ("exit 3", 3, "error", "exit code 3"),
        ("exit 124", 124, "timeout", "exit code 124"),
        ("exit 255", 255, "error", "exit code 255"),
        ("kill -KILL $$", 137, "error", "ended by SIGKILL"),
        ("kill -TERM $$", 143, "error", "ended by SIGTERM"),
    ],
)
def test_the_exit_code_is_passed_on_and_tells_the_status(
    tallymark: Tallymark, daemon: FakeDaemon, script: str, code: int, status: str, message: str
) -> None:
    done = tallymark("run", "--", "sh", "-c", script)
    assert (done.code, done.err) == (code, "")
    end = daemon.events[2]
    assert (end["status"], end["error_message"]) == (status, message)


def test_a_command_that_cannot_be_run_is_a_failed_run(
    tallymark: Tallymark, daemon: FakeDaemon, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no program")
    done = tallymark("run", "no-such-command")
    assert (done.code, done.out) == (127, "")
    assert done.err == "tallymark: cannot run no-such-command: No such file or directory\n"
    done = tallymark("run", str(tmp_path / "text"))
    assert done.code == 126
    assert done.err == f"tallymark: cannot run {tmp_path / 'text'}: Permission denied\n"
    ends = [event for event in daemon.events if event["type"] == "run.end"]
    assert [end["status"] for end in ends] == ["error", "error"]
    assert ends[0]["error_message"] == "cannot run no-such-command: No such file or directory"


def test_the_environment_is_handed_down(tallymark: Tallymark, daemon: FakeDaemon) -> None:
    names = "PROJECT SESSION_ID PARENT_RUN_ID SOCKET".split()
    script = "; ".join(f'echo "$TALLYMARK_{name}"' for name in names)
    done = tallymark(
        "--socket", str(daemon.path), "run", "--project", "demo", "--session-id", "s-1",
        "sh", "-c", script,
    )  # fmt: skip
    run_id = daemon.events[-1]["event_id"]
    assert done.out.splitlines() == ["demo", "s-1", run_id, str(daemon.path)]
    # The session is somebody else's to begin and to end.
    assert [event["type"] for event in daemon.events] == ["run.start", "run.end"]


def test_it_belongs_to_the_run_that_it_was_started_by(
    tallymark: Tallymark, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYMARK_SESSION_ID", "s-9")
    monkeypatch.setenv("TALLYMARK_PARENT_RUN_ID", "r-9")
    assert tallymark("run", "true").code == 0
    end = daemon.events[-1]
    assert (end["session_id"], end["parent_run_id"]) == ("s-9", "r-9")


def test_what_follows_the_command_is_its_own(tallymark: Tallymark, daemon: FakeDaemon) -> None:
    done = tallymark("run", "echo", "--agent", "x", "--", "--help")
    assert done.out == "--agent x -- --help\n"


def test_without_a_daemon_the_command_runs_all_the_same(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallymarkd.cli.run.HANDOVER_SECONDS_MAX", 0.1)
    done = tallymark("run", "--", "sh", "-c", "echo out; echo last words >&2; exit 5")
    assert (done.code, done.out) == (5, "out\n")
    assert done.err.startswith("last words\n")


def test_what_the_library_warns_of_is_told_when_the_command_has_ended(
    tallymark: Tallymark, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Child.run
    log = logging.getLogger("tallymark")
    before = log.propagate, list(log.handlers)

    def warn_and_run(child: Child, *args: Any) -> int:
        log.warning("something is amiss")
        return run(child, *args)

    monkeypatch.setattr(Child, "run", warn_and_run)
    done = tallymark("run", "--", "sh", "-c", "echo last words >&2")
    assert done.err == "last words\ntallymark: something is amiss\n"
    assert (log.propagate, log.handlers) == before


def test_disabled_it_only_runs_the_command(
    tallymark: Tallymark, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYMARK_DISABLED", "1")
    assert tallymark("run", "--", "sh", "-c", "exit 4").code == 4
    assert daemon.hellos == []


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["run"], "COMMAND"),
        (["run", "--nonsense", "true"], "--nonsense"),
        (["run", "--"], "COMMAND"),
    ],
)
def test_wrong_usage_is_2_and_runs_nothing(
    tallymark: Tallymark, args: list[str], told: str
) -> None:
    done = tallymark(*args)
    assert done.code == 2
    assert told in done.err


def test_a_wrong_setting_is_2_and_runs_nothing(tallymark: Tallymark, tmp_path: Path) -> None:
    done = tallymark("run", "--project", "a\nb", "--", "touch", str(tmp_path / "ran"))
    assert (done.code, (tmp_path / "ran").exists()) == (2, False)


# The child itself.


def test_signals_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in HANDLED]
    with Child() as child:
        assert signal.getsignal(signal.SIGTERM) not in before
        assert child.run(["true"], os.environ) == 0
        # Nobody is there to have it any more; it ends nobody.
        os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.getsignal(number) for number in HANDLED] == before


def test_what_was_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Child() as child:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert child.run(["sh", "-c", "kill -HUP $$; exit 6"], os.environ) == 6
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_came_before_the_child_is_passed_on() -> None:
    with Child() as child:
        os.kill(os.getpid(), signal.SIGTERM)
        assert child.run(["sleep", "60"], os.environ) == -signal.SIGTERM


@pytest.mark.parametrize(("foreground", "ends_by"), [(True, "SIGTERM"), (False, "SIGINT")])
def test_what_the_terminal_sends_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, foreground: bool, ends_by: str
) -> None:
    monkeypatch.setattr("tallymarkd.cli.child.is_in_foreground", lambda: foreground)
    with Child() as child:
        # As long as the child cannot take them, the first to be passed on ends it.
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal_name(-child.run(["sleep", "60"], os.environ)) == ends_by


@pytest.mark.parametrize(("returncode", "code"), [(0, 0), (7, 7), (-9, 137), (-15, 143)])
def test_the_exit_code_a_shell_would_give(returncode: int, code: int) -> None:
    assert exit_code_of(returncode) == code


def test_names_of_signals() -> None:
    assert (signal_name(15), signal_name(40)) == ("SIGTERM", "signal 40")


def test_only_the_main_thread_gets_the_commands_signals(tmp_path: Path) -> None:
    """In another thread one would not end the wait for the command: it would be lost."""
    program = (
        "import signal, sys; print(*signal.pthread_sigmask(signal.SIG_BLOCK, []), file=sys.stderr)"
    )
    masks: list[set[int]] = []

    def look() -> None:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Child() as child:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        with (tmp_path / "mask").open("wb") as told:
            command = [
                "/bin/sh",
                "-c",
                'exec "$@" 2>"$0"',
                told.name,
                sys.executable,
                "-c",
                program,
            ]
            assert child.run(command, os.environ) == 0
        look()
    assert masks[0] >= set(HANDLED)
    assert masks[1] == set(before)
    assert (tmp_path / "mask").read_text().split() == [str(int(number)) for number in before]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
