"""``tallymark run`` with real processes, signals and a terminal, against the daemon."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.daemon import DEADLINE_SECONDS, Daemon, tallymark, wait_for

TALLYMARK = [sys.executable, "-c", "from tallymarkd.cli import main; main()"]

COUNTS_INTERRUPTS = """
import signal, sys
count = 0
def take(*_):
    global count
    count += 1
    print("interrupted", count, flush=True)
signal.signal(signal.SIGINT, take)
print("ready", flush=True)
sys.stdin.readline()
print("had", count, flush=True)
"""


def command(daemon: Daemon, *args: str) -> list[str]:
    return [*TALLYMARK, "--socket", str(daemon.socket), "run", "--project", "p", *args]


@contextmanager
def started(args: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process group of its own, gone after."""
    process = subprocess.Popen(args, start_new_session=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def dump(daemon: Daemon) -> dict[str, Any]:
    done = tallymark("--socket", str(daemon.socket), "dump", "--project", "p")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_streams_are_the_commands(daemon: Daemon) -> None:
    data = bytes(range(256)) * 1000
    done = subprocess.run(
        command(daemon, "--", "sh", "-c", "cat; echo err >&2; exit 9"),
        input=data, capture_output=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (9, b"err\n")
    assert done.stdout == data
    (run,) = dump(daemon)["events"]
    assert (run["agent_name"], run["status"], run["error_message"]) == (
        "sh",
        "error",
        "exit code 9",
    )


def test_what_runs_within_is_linked_and_shares_the_session(daemon: Daemon) -> None:
    emit = ["emit", "--type", "run.end", "--agent", "innermost", "--output-tokens", "7"]
    inner = [*TALLYMARK, "run", "--agent", "inner", "--", *TALLYMARK, *emit]
    done = subprocess.run(
        command(daemon, "--agent", "outer", "--", *inner),
        capture_output=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    state = dump(daemon)
    runs = {run["agent_name"]: run for run in state["events"]}
    assert runs["innermost"]["parent_run_id"] == runs["inner"]["event_id"]
    assert runs["inner"]["parent_run_id"] == runs["outer"]["event_id"]
    (session,) = state["sessions"]
    assert {run["session_id"] for run in runs.values()} == {session["session_id"]}
    assert (session["status"], session["total_tokens"]) == ("complete", 7)


def test_a_signal_is_passed_on_and_the_commands_answer_comes_back(daemon: Daemon) -> None:
    script = "trap 'echo asked; exit 7' TERM INT; echo ready; while :; do sleep 0.01; done"
    for number in (signal.SIGTERM, signal.SIGINT):
        with started(command(daemon, "--", "sh", "-c", script), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.stdout.readline() == b"asked\n"
            assert process.wait(DEADLINE_SECONDS) == 7
    assert [run["error_message"] for run in dump(daemon)["events"]] == ["exit code 7"] * 2


def test_a_command_that_a_signal_ends_is_recorded(daemon: Daemon) -> None:
    with started(
        command(daemon, "sh", "-c", "echo ready; exec sleep 60"), stdout=subprocess.PIPE
    ) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == b"ready\n"
        p.terminate()
        assert p.wait(DEADLINE_SECONDS) == 128 + signal.SIGTERM
    (run,) = dump(daemon)["events"]
    assert (run["status"], run["error_message"]) == ("error", "ended by SIGTERM")


def take_terminal() -> None:
    """Make stdin's terminal the one that controls this new session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def on_terminal(args: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process in the foreground of a terminal of its own, and the terminal's other side."""
    ours, theirs = pty.openpty()
    try:
        with started(
            args, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal
        ) as process:
            yield process, ours
    finally:
        os.close(theirs)
        os.close(ours)


def test_an_interrupt_typed_at_the_terminal_reaches_the_command_once(
    daemon: Daemon, tmp_path: Path
) -> None:
    """The terminal gives it to both processes; passed on, it would be a second one."""
    program = tmp_path / "counts.py"
    program.write_text(COUNTS_INTERRUPTS)
    said = b""
    with on_terminal(command(daemon, "--", sys.executable, str(program))) as (process, terminal):

        def comes(words: bytes) -> bool:
            nonlocal said
            if select.select([terminal], [], [], 0)[0]:
                said += os.read(terminal, 4096)
            return words in said

        wait_for("ready", lambda: comes(b"ready"))
        os.write(terminal, b"\x03")
        wait_for("the interrupt", lambda: comes(b"interrupted 1"))
        os.write(terminal, b"\n")
        wait_for("the end", lambda: comes(b"had 1"))
        assert process.wait(DEADLINE_SECONDS) == 0
    assert dump(daemon)["events"][0]["status"] == "success"


def test_who_is_in_the_foreground_knows_it() -> None:
    asks = "from tallymarkd.cli.child import is_in_foreground as f; raise SystemExit(f())"
    with on_terminal([sys.executable, "-c", asks]) as (process, _):
        assert process.wait(DEADLINE_SECONDS) == 1
    with started([sys.executable, "-c", asks], stdin=subprocess.DEVNULL) as process:
        assert process.wait(DEADLINE_SECONDS) == 0


def test_without_a_daemon_the_command_is_none_the_worse(tmp_path: Path) -> None:
    done = subprocess.run(
        [*TALLYMARK, "--socket", f"{tmp_path}/none", "run", "sh", "-c", "echo out; exit 3"],
        capture_output=True, timeout=DEADLINE_SECONDS, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert b"Traceback" not in done.stderr
