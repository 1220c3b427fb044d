"""How a process ends, and which level an event must have reached to survive that.

Each program flushes some events, and has others in its queue only when it ends: a
sender that lingers for an hour keeps them there. An orderly end hands them over, or
spools them; any other loses what was queued, and nothing else.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon import DEADLINE_SECONDS, Daemon, running
from tests.fault.spooling import adopt, journaled

PROGRAM = """
import atexit, os, signal, sys, threading
BEFORE
from tallymark import Client
from tallymark.events import RunEnd

name, socket, spool_dir = sys.argv[1:]
client = Client("p", socket=socket, spool_dir=spool_dir, linger_seconds=3600,
                spool_after_seconds=3600, exit_timeout_seconds=EXIT_SECONDS)

def record(level):
    for number in range(10):
        client.emit(RunEnd(event_id=f"{name}-{level}-{number}", agent_name="a"))

record("flushed")
client.flush(60)
"""

_names = itertools.count(1)


@dataclass(frozen=True)
class End:
    """What a program does after its flush; ``kept`` are the levels that must survive,
    ``lost`` those that must not, ``perhaps`` those of which nothing is said."""

    body: str
    code: int = 0
    kept: tuple[str, ...] = ("flushed", "queued")
    lost: tuple[str, ...] = ()
    perhaps: tuple[str, ...] = ()
    before: str = "pass"


QUEUED = 'record("queued")\n'
LOST = ("flushed",), ("queued",)

CHILD = """
pid = os.fork()
if pid == 0:
    record("child")
    {end}
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == {code}
"""

ENDS = {
    "the end of the program": End(QUEUED),
    "sys.exit": End(QUEUED + "sys.exit(3)", 3),
    "an uncaught exception": End(QUEUED + "raise ValueError('uncaught')", 1),
    "KeyboardInterrupt": End(
        QUEUED + "os.kill(os.getpid(), signal.SIGINT)\nthreading.Event().wait()", -signal.SIGINT
    ),
    "a thread that ends after main": End(
        "threading.Timer(0.1, record, ['queued']).start()",
    ),
    "a daemon thread that is cut off": End(
        QUEUED + "threading.Thread(target=threading.Event().wait, daemon=True).start()",
    ),
    "an exception in a thread": End(
        "def work():\n    record('queued')\n    raise ValueError('in a thread')\n"
        "thread = threading.Thread(target=work)\nthread.start()\nthread.join()",
    ),
    "atexit, registered after tallymark was imported": End("atexit.register(record, 'queued')"),
    "atexit, registered before": End(
        QUEUED, before="atexit.register(lambda: record('closed'))", lost=("closed",)
    ),
    "interpreter shutdown: a destructor": End(
        QUEUED + "class Late:\n    def __del__(self):\n        record('closed')\nlate = Late()",
        lost=("closed",),
    ),
    "SIGTERM with a handler that exits": End(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))\n" + QUEUED
        + "os.kill(os.getpid(), signal.SIGTERM)\nthreading.Event().wait()", 4,
    ),
    "SIGTERM by default": End(
        QUEUED + "os.kill(os.getpid(), signal.SIGTERM)\nthreading.Event().wait()",
        -signal.SIGTERM, *LOST,
    ),
    "SIGKILL": End(QUEUED + "os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, *LOST),
    "os.abort": End(QUEUED + "os.abort()", -signal.SIGABRT, *LOST),
    "os._exit": End(QUEUED + "os._exit(5)", 5, *LOST),
    "os.exec": End(QUEUED + "os.execv(sys.executable, [sys.executable, '-c', ''])", 0, *LOST),
    "a forked child that exits": End(
        QUEUED + CHILD.format(end="sys.exit(6)", code=6), kept=("flushed", "queued", "child")
    ),
    "a forked child by os._exit": End(
        # Its sender is new, and does not linger before the first batch.
        QUEUED + CHILD.format(end="os._exit(6)", code=6), perhaps=("child",)
    ),
    "a forked child by os._exit after a flush": End(
        QUEUED + CHILD.format(end="client.flush(60); os._exit(6)", code=6),
        kept=("flushed", "queued", "child"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("daemon")
    with running(directory / "state", "--spool-dir", str(directory / "none")) as found:
        yield found


@pytest.mark.parametrize("daemon_is", ["up", "down"])
@pytest.mark.parametrize("how", ENDS)
def test_what_survives(daemon: Daemon, tmp_path: Path, how: str, daemon_is: str) -> None:
    end = ENDS[how]
    name, socket, spools = f"p{next(_names)}", tmp_path / "s", tmp_path / "spool"
    if daemon_is == "up":
        socket.symlink_to(daemon.socket)
    # Long where a daemon is there: only a machine that does other things needs it.
    head = PROGRAM.replace("BEFORE", end.before).replace(
        "EXIT_SECONDS", "30" if daemon_is == "up" else "0.05"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + end.body, name, str(socket), str(spools)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == end.code, done.stderr
    if daemon_is == "up":
        assert not spools.exists() or not list(spools.iterdir())
    else:
        assert not journaled(daemon.state_dir).stored.keys() & ids(name, end.kept)
        socket.symlink_to(daemon.socket)
        assert adopt(spools, socket).left == {}
    stored = {
        key: count
        for key, count in journaled(daemon.state_dir).stored.items()
        if key.startswith(f"{name}-")
    }
    assert set(stored.values()) <= {1}
    assert stored.keys() - ids(name, end.perhaps) == ids(name, end.kept)
    if "closed" in end.lost:
        assert "Error" not in done.stderr


def ids(name: str, levels: tuple[str, ...]) -> set[str]:
    return {f"{name}-{level}-{number}" for level in levels for number in range(10)}


def test_importing_and_making_a_client_starts_and_opens_nothing(tmp_path: Path) -> None:
    program = (
        "import os, threading\nfrom tallymark import Client\n"
        "before = os.listdir('/proc/self/fd')\n"
        f"client = Client('p', socket={str(tmp_path / 's')!r}, spool_dir={str(tmp_path / 'd')!r})\n"
        "assert os.listdir('/proc/self/fd') == before\n"
        "assert threading.active_count() == 1\n"
    )
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("not on this platform: /proc")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "d").exists()
