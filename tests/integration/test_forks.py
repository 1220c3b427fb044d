"""Parent and child record through the same client: two producers, and everything once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon import DEADLINE_SECONDS, Daemon, running
from tests.fault.spooling import Tally, adopt, ids, journaled
from tests.integration import forking
from tests.integration.forking import EVENTS, WAYS, WORKERS

NAMES = {
    "prefork": {"parent": EVENTS // 2, **{f"worker{n}": EVENTS for n in range(WORKERS)}},
}
TWO = {"parent": EVENTS, "child": EVENTS}


def run(how: str, socket: Path, spools: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(forking.PATH), how, str(socket), str(spools)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def check(state_dir: Path, how: str) -> None:
    found = journaled(state_dir)
    names = NAMES.get(how, TWO)
    tally = Tally()
    tally.hold(found.stored, ["first", *(key for name, n in names.items() for key in ids(name, n))])
    assert tally == Tally()
    assert len(found.producers) == len(names)


@pytest.mark.parametrize("how", WAYS)
def test_parent_and_child_are_two_producers(daemon: Daemon, tmp_path: Path, how: str) -> None:
    spools = tmp_path / "spool"
    run(how, daemon.socket, spools)
    # What did not arrive within the time of an exit was spooled.
    if spools.exists():
        adopt(spools, daemon.socket)
    assert daemon.stop() == 0
    check(daemon.state_dir, how)


@pytest.mark.parametrize("how", WAYS)
def test_without_a_daemon_each_has_its_spool(tmp_path: Path, how: str) -> None:
    spools = tmp_path / "spool"
    daemon = Daemon(tmp_path / "state", "--spool-dir", str(tmp_path / "none"))
    run(how, daemon.socket, spools)
    assert len(os.listdir(spools)) == len(NAMES.get(how, TWO))
    with running(daemon.state_dir, *daemon.options) as daemon:
        assert adopt(spools, daemon.socket).left == {}
        assert daemon.stop() == 0
    assert os.listdir(spools) == []
    check(daemon.state_dir, how)
