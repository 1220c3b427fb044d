"""A forked child neither keeps its parent's spool locked, nor lets go of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tallymark.spool import SUFFIX
from tests.daemon import DEADLINE_SECONDS, running, wait_for
from tests.fault.spooling import adopt, journaled

AGENT = """
import os, sys, threading
from pathlib import Path
from tallymark import Client
from tallymark.adoption import Adopter
from tallymark.events import RunEnd
from tallymark.fs import OsFileSystem

call, socket, spool_dir, role = sys.argv[1:]
there, go = threading.Event(), threading.Event()
whole = getattr(OsFileSystem, call, None)

def stopped(*args):
    # In the middle of this the process forks.
    there.set()
    go.wait()
    return whole(*args)

if whole is not None:
    setattr(OsFileSystem, call, stopped)
if role == "client":
    client = Client("p", socket=socket, spool_dir=spool_dir)
    client.emit(RunEnd(event_id="e", agent_name="a"))
    act = client.flush
else:
    act = Adopter(OsFileSystem(), Path(spool_dir), [Path(socket)], client="t/1").run
thread = threading.Thread(target=act)
thread.start()
there.wait() if whole is not None else thread.join()
pid = os.fork()
if pid == 0:
    os.write(1, b"child\\n")
    sys.stdin.readline()
    os._exit(0)
go.set()
thread.join()
os.write(1, b"%d\\n" % pid)
os.waitpid(pid, 0)
os.write(1, b"alone\\n")
threading.Event().wait()
"""

IN_THE_MIDDLE = ["", "write", "sync", "replace", "sync_dir", "sync_data"]
"""Of which call the parent forks; of none, when its spool is there."""


@contextmanager
def agent(call: str, socket: Path, spools: Path, role: str) -> Iterator[subprocess.Popen[str]]:
    """A process with a child; both are gone after."""
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, call or "-", str(socket), str(spools), role],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            # The child reads the end of this, and ends.
            process.communicate()


def told(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


@pytest.mark.parametrize("call", IN_THE_MIDDLE)
def test_the_spool_of_a_dead_parent_is_delivered_while_its_child_lives(
    tmp_path: Path, call: str
) -> None:
    state_dir, spools = tmp_path / "state", tmp_path / "spool"
    socket = tmp_path / "s"
    with agent(call, socket, spools, "client") as process:
        told(process, 2)
        assert adopt(spools, socket).left == {}, "the parent lives"
        with running(state_dir, "--spool-dir", str(tmp_path / "none")) as daemon:
            socket.symlink_to(daemon.socket)
            process.kill()
            process.wait(DEADLINE_SECONDS)
            assert adopt(spools, socket).spools == 1
            assert daemon.stop() == 0
    assert journaled(state_dir).stored == {"e": 1}


def test_a_child_that_ends_does_not_let_go_of_its_parents_spool(tmp_path: Path) -> None:
    spools, socket = tmp_path / "spool", tmp_path / "s"
    with agent("", socket, spools, "client") as process:
        assert process.stdin is not None
        told(process, 2)
        process.stdin.write("end\n")
        process.stdin.flush()
        assert told(process, 1) == ["alone"]
        adopted = adopt(spools, socket)
        assert (adopted.spools, adopted.left) == (0, {})
        assert [path.suffix for path in spools.iterdir()] == [SUFFIX]


@pytest.mark.parametrize("call", ["read", "size"])
def test_the_child_of_an_adopter_keeps_nothing_locked(tmp_path: Path, call: str) -> None:
    spools, socket = tmp_path / "spool", tmp_path / "s"
    with agent("", socket, spools, "client") as first:
        told(first, 2)
    with agent(call, socket, spools, "adopter") as process:
        told(process, 2)
        process.kill()
        process.wait(DEADLINE_SECONDS)
        # Nobody listens: it is left for that, and not for its lock.
        wait_for("an unlocked spool", lambda: len(adopt(spools, socket).left) == 1, 5.0)
