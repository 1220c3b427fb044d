"""Forks and ends of processes: who delivers what, how fast, and what is said."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fake_daemon
from tests.fake_daemon import FakeDaemon
from tests.speed import Times, quick

EXIT_SECONDS_MAX = 0.5
PROGRAM_SECONDS = 120

HEAD = """
import os, sys, time
from tallymark import Client, Usage, current_run
client = Client("p", socket=sys.argv[1], exit_timeout_seconds=float(sys.argv[2]))
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "s.sock") as running:
        yield running
        assert not running.wrong


def run(
    path: Path, body: str, *, exit_timeout_seconds: float = 60.0, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """A program that uses the library, to its end."""
    done = subprocess.run(
        [
            sys.executable,
            *("-W", "ignore::DeprecationWarning"),
            *("-c", HEAD + textwrap.dedent(body)),
            *(str(path), str(exit_timeout_seconds)),
        ],
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def counts(daemon: FakeDaemon) -> Counter[str]:
    """Events by the name of their agent."""
    return Counter(event.get("agent_name", "") for event in daemon.events)


# The end of a process.

EMIT_MANY = """
for number in range(1000):
    client.emit(Usage(agent_name="a"))
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise SystemExit", 0),
        ("raise ValueError('uncaught')", 1),
        ("client.close()", 0),
        ("del client", 0),
    ],
)
def test_what_is_queued_is_delivered_at_the_end(daemon: FakeDaemon, end: str, code: int) -> None:
    done = run(daemon.path, EMIT_MANY + end, code=code)
    daemon.wait(lambda: daemon.producer.goodbye)
    assert counts(daemon) == {"a": 1000}
    assert "not delivered" not in done.stderr


def test_an_event_of_the_very_end(daemon: FakeDaemon) -> None:
    run(
        daemon.path,
        """
        import atexit
        atexit.register(lambda: client.emit(Usage(agent_name="last")))
        """,
    )
    daemon.wait(lambda: daemon.producer.goodbye)
    assert counts(daemon) == {"last": 1}


def test_sessions_end_with_the_process(daemon: FakeDaemon) -> None:
    run(daemon.path, "with client.track_agent('a'): pass")
    daemon.wait(lambda: daemon.producer.goodbye)
    assert [event["type"] for event in daemon.events][-1] == "session.end"


def test_a_client_that_nobody_uses_says_and_opens_nothing(daemon: FakeDaemon) -> None:
    done = run(
        daemon.path,
        """
        import threading
        print(threading.active_count(), sorted(os.listdir("/proc/self/fd")) if
              os.path.isdir("/proc/self/fd") else "")
        """,
    )
    threads, _, fds = done.stdout.partition(" ")
    assert threads == "1"
    # Standard input, output, error, and the listing's own.
    assert fds.strip() in ("", "['0', '1', '2', '3']")
    assert not daemon.hellos
    assert done.stderr == ""


EMIT_TWICE_THE_QUEUE = """
worst = []
for number in range(20_000):
    began = time.perf_counter()
    client.emit(Usage(agent_name="a"))
    worst.append(time.perf_counter() - began)
worst.sort()
print(worst[int(len(worst) * 0.99)])
"""

WAIT_FOR_TROUBLE = """
while not client._recorder.delivery.trouble:
    time.sleep(0.001)
"""

END = """
print(time.monotonic(), flush=True)
"""


def check_in_vain(path: Path, before_the_end: str = "") -> str:
    """Twice the queue to nobody: quick, quick to end, and counted. Gives the cause."""
    head = re.compile(
        r"20000 events were not delivered: (\d+) spooled in \S+, to be sent later"
        r"(?:, (\d+) dropped because the queue was full)?"
    )

    def attempt() -> tuple[Times, str]:
        program = EMIT_TWICE_THE_QUEUE + before_the_end + END
        done = run(path, program, exit_timeout_seconds=0.2)
        ended = time.monotonic()
        p99, began = (float(line) for line in done.stdout.split())
        lines = done.stderr.splitlines()
        told = head.match(lines[-1])
        assert told, done.stderr
        assert sum(int(count or 0) for count in told.groups()) == 20_000
        assert "Traceback" not in done.stderr
        return {"p99": p99, "end": ended - began}, lines[-1][told.end() :]

    return quick({"p99": 0.001, "end": EXIT_SECONDS_MAX}, attempt)


def test_in_vain_without_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    assert check_in_vain(path, WAIT_FOR_TROUBLE) == (
        f": cannot reach tallymarkd at {path}: no socket there; it is not running"
    )


def test_in_vain_with_a_socket_that_refuses(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s.sock"))
    assert "connection refused" in check_in_vain(tmp_path / "s.sock", WAIT_FOR_TROUBLE)


def test_in_vain_with_a_listener_that_never_accepts(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s.sock"))
        sock.listen()
        check_in_vain(tmp_path / "s.sock")


def test_in_vain_with_another_program(daemon: FakeDaemon) -> None:
    daemon.first_words = b"220 mail.example.org ESMTP ready\r\n"
    assert "cannot reach tallymarkd" in check_in_vain(daemon.path, WAIT_FOR_TROUBLE)


def test_in_vain_with_a_daemon_that_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    stopped = subprocess.Popen(
        [sys.executable, fake_daemon.__file__, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "ready\n"
        stopped.send_signal(signal.SIGSTOP)
        try:
            check_in_vain(path)
        finally:
            stopped.send_signal(signal.SIGCONT)
            stopped.kill()


@pytest.mark.parametrize("end", ["client.close()", "sys.exit()"])
def test_a_signal_that_ends_the_wait_loses_nothing(daemon: FakeDaemon, end: str) -> None:
    daemon.acks = False
    done = run(
        daemon.path,
        EMIT_MANY
        + f"""
import signal, threading
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
def interrupt():
    while not client._delivery.closed:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=interrupt, daemon=True).start()
{end}
""",
        code=3 if "close" in end else 0,
    )
    assert "1000 events were not delivered: 1000 spooled in " in done.stderr


# Forks.


def test_parent_and_child_are_two_producers(daemon: FakeDaemon) -> None:
    run(
        daemon.path,
        """
        for number in range(500):
            client.emit(Usage(agent_name="parent"))
        client.flush(60)
        client.emit(Usage(agent_name="parent"))
        pid = os.fork()
        name = "parent" if pid else "child"
        for number in range(1000):
            client.emit(Usage(agent_name=name))
        client.flush(60)
        if not pid:
            client.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        client.emit(Usage(agent_name="parent"))
        """,
    )
    daemon.wait(lambda: all(producer.goodbye for producer in daemon.producers.values()))
    assert counts(daemon) == {"parent": 1502, "child": 1000}
    by_producer = [{e["agent_name"] for e in p.events} for p in daemon.producers.values()]
    assert sorted(by_producer, key=str) == [{"child"}, {"parent"}]
    ids = [event["event_id"] for event in daemon.events]
    assert len(set(ids)) == len(ids)


def test_a_child_that_records_nothing_says_nothing(daemon: FakeDaemon) -> None:
    run(
        daemon.path,
        """
        client.emit(Usage(agent_name="parent"))
        client.flush(60)
        pid = os.fork()
        if not pid:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        client.emit(Usage(agent_name="parent"))
        client.flush(60)
        """,
    )
    # The child's end was no end of the parent's conversation.
    assert len(daemon.hellos) == 1
    assert counts(daemon) == {"parent": 2}


def test_a_child_holds_nothing_of_the_parents_connection(daemon: FakeDaemon) -> None:
    done = run(
        daemon.path,
        """
        client.emit(Usage(agent_name="parent"))
        client.flush(60)
        def count():
            found = 0
            for fd in os.listdir("/proc/self/fd"):
                try:
                    found += os.readlink(f"/proc/self/fd/{fd}").startswith("socket")
                except OSError:
                    pass
            return found
        print(count(), flush=True)
        pid = os.fork()
        if not pid:
            print(count(), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        """,
    )
    assert done.stdout.split() == ["3", "0"]


def test_a_run_that_was_open_at_the_fork_is_recorded_once(daemon: FakeDaemon) -> None:
    run(
        daemon.path,
        """
        with client.track_agent("outer") as run:
            pid = os.fork()
            if not pid:
                with client.track_agent("inner"):
                    pass
        if pid:
            os.waitpid(pid, 0)
        """,
    )
    daemon.wait(lambda: all(producer.goodbye for producer in daemon.producers.values()))
    ends = [event for event in daemon.events if event["type"] == "run.end"]
    assert sorted(end["agent_name"] for end in ends) == ["inner", "outer"]
    by_name = {end["agent_name"]: end for end in ends}
    assert by_name["inner"]["parent_run_id"] == by_name["outer"]["event_id"]
    assert by_name["inner"]["session_id"] == by_name["outer"]["session_id"]
    kinds = Counter(event["type"] for event in daemon.events)
    assert (kinds["session.start"], kinds["session.end"]) == (1, 1)
    pids = {event["pid"] for event in daemon.events if event["type"] == "run.start"}
    assert len(pids) == 2


def test_a_fork_while_many_threads_record(daemon: FakeDaemon) -> None:
    run(
        daemon.path,
        """
        import threading
        def record(count):
            for number in range(count):
                while not client.emit(Usage(agent_name="parent")):
                    time.sleep(0.001)
        threads = [threading.Thread(target=record, args=(2000,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        children = []
        for number in range(5):
            pid = os.fork()
            if not pid:
                for number in range(100):
                    client.emit(Usage(agent_name="child"))
                client.flush(60)
                os._exit(0)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        for thread in threads:
            thread.join()
        """,
    )
    daemon.wait(lambda: any(producer.goodbye for producer in daemon.producers.values()))
    assert counts(daemon) == {"parent": 8000, "child": 500}
    assert len(daemon.producers) == 6


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_deliver_at_their_end(
    daemon: FakeDaemon, tmp_path: Path, method: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys
            from tallymark import Client, Usage

            client = Client("p", socket=sys.argv[1], exit_timeout_seconds=60)

            def work(name):
                for _ in range(1000):
                    client.emit(Usage(agent_name=name))

            if __name__ == "__main__":
                context = multiprocessing.get_context(sys.argv[2])
                work("parent")
                processes = [context.Process(target=work, args=("child",)) for _ in range(2)]
                for process in processes:
                    process.start()
                for process in processes:
                    process.join()
                    assert process.exitcode == 0, process.exitcode
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", program, daemon.path, method],
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    daemon.wait(lambda: all(producer.goodbye for producer in daemon.producers.values()))
    assert counts(daemon) == {"parent": 1000, "child": 2000}
    assert len(daemon.producers) == 3
    assert "not delivered" not in done.stderr


def test_importing_starts_nothing_and_loads_nothing_heavy() -> None:
    program = """
import sys, threading
import tallymark
heavy = {"asyncio", "multiprocessing", "random", "ssl", "subprocess", "http", "sqlite3"}
print(threading.active_count(), sorted(heavy & set(sys.modules)))
tallymark.AsyncClient
print("asyncio" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["1 []", "True"]
