"""Backups of a daemon under full load, with rolls and retirements while files are copied."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tallymark.fs import OsFileSystem
from tallymarkd.core.loading import read_only
from tallymarkd.core.project_state import snapshot
from tests.daemon import DEADLINE_SECONDS, Daemon, running, tallymark, wait_for
from tests.fault.accounts import Account
from tests.fault.agents import Crowd, crowd
from tests.fault.raw_agent import event_id, tokens_of
from tests.stored_ids import ids_in_journal

AGENTS = 4
OPTIONS = (
    "--save-interval-seconds", "0.05",
    "--segment-bytes-max", "64KiB",
    "--segment-chunk-bytes", "16KiB",
)  # fmt: skip
SHORT_HISTORY = ("--history-bytes-max", "512KiB")
BACKUP = [sys.executable, "-c", "from tallymarkd.cli import main; main()"]


def segments(state_dir: Path) -> list[int]:
    """The numbers of the segments that are there."""
    return sorted(int(path.stem) for path in (state_dir / "journal").glob("*.seg"))


@contextmanager
def under_load(tmp_path: Path, *options: str) -> Iterator[tuple[Daemon, Crowd]]:
    """A daemon and agents that send as fast as it acknowledges, some history behind them."""
    with running(tmp_path / "state", *OPTIONS, *options) as daemon:
        with crowd(tmp_path, daemon.socket, AGENTS, ahead=8, pace=0.0) as load:
            wait_for("history", lambda: len(segments(daemon.state_dir)) > 4)
            yield daemon, load


def take(daemon: Daemon, target: Path) -> dict[str, Any]:
    done = tallymark("--state-dir", str(daemon.state_dir), "backup", str(target), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def bring_back(backup: Path, root: Path) -> None:
    """Restore it, where verify must find nothing."""
    done = tallymark("--state-dir", str(root), "restore", str(backup))
    assert done.returncode == 0, done.stderr
    found = tallymark("verify", str(root), "--json")
    assert (found.returncode, json.loads(found.stdout)["findings"]) == (0, []), found


def acknowledged(accounts: list[Account]) -> set[str]:
    """The ids of all that was acknowledged."""
    return {event_id(each.name, n) for each in accounts for n in range(1, each.acked + 1)}


@pytest.mark.timeout(240)
def test_what_was_acknowledged_before_is_in_it_once(tmp_path: Path) -> None:
    with under_load(tmp_path) as (daemon, load):
        for number in range(3):
            known = acknowledged(load.accounts())
            before = segments(daemon.state_dir)[-1]
            found = take(daemon, tmp_path / f"backup-{number}")
            assert segments(daemon.state_dir)[-1] > before, "no segment was rolled meanwhile"
            assert found["durable_lsn"] <= found["end_lsn"]
            bring_back(tmp_path / f"backup-{number}", tmp_path / f"restored-{number}")
            ids = ids_in_journal(tmp_path / f"restored-{number}")
            assert known and known <= set(ids)
            assert len(ids) == len(set(ids))


@pytest.mark.timeout(240)
def test_with_history_that_is_retired_the_sums_are_those_of_all_events(tmp_path: Path) -> None:
    """Of what is retired the ids are gone, and the figures stay."""
    with under_load(tmp_path, *SHORT_HISTORY) as (daemon, load):
        wait_for("a retirement", lambda: segments(daemon.state_dir)[0] > 1)
        known = load.accounts()
        take(daemon, tmp_path / "backup")
        last = segments(daemon.state_dir)[0]
        wait_for("retirement going on", lambda: segments(daemon.state_dir)[0] > last)
    bring_back(tmp_path / "backup", tmp_path / "restored")
    books = read_only(OsFileSystem(), tmp_path / "restored")
    assert segments(tmp_path / "restored")[0] > 1, "nothing was retired before the backup"
    for account in known:
        profile = snapshot(books.projects[account.project]).agents[account.name]
        assert profile.total_invocations >= account.acked > 0
        sent = range(1, profile.total_invocations + 1)
        assert profile.total_tokens == sum(tokens_of(account.name, n) for n in sent)


def copying(partial: Path, state_dir: Path) -> Callable[[], bool]:
    """Whether a backup has begun to copy the journal."""
    return lambda: any((partial / "state" / "journal").glob("*.seg"))


@contextmanager
def stopped_backup(daemon: Daemon, target: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A backup that is stopped (SIGSTOP) while it copies; gone after."""
    process = subprocess.Popen(
        [*BACKUP, "--state-dir", str(daemon.state_dir), "backup", str(target)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        partial = target.with_name(target.name + ".partial")
        wait_for("a copy", lambda: any((partial / "state").rglob("*.json")))
        process.send_signal(signal.SIGSTOP)
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.timeout(240)
def test_history_is_held_as_long_as_the_backup_lives(tmp_path: Path) -> None:
    with under_load(tmp_path, *SHORT_HISTORY) as (daemon, _):
        wait_for("a retirement", lambda: segments(daemon.state_dir)[0] > 1)
        with stopped_backup(daemon, tmp_path / "backup") as process:
            first, last = segments(daemon.state_dir)[0], segments(daemon.state_dir)[-1]
            # As much again as all that may be kept: without the hold it would be gone.
            wait_for("history", lambda: segments(daemon.state_dir)[-1] > last + 20)
            assert segments(daemon.state_dir)[0] == first
            process.kill()
            wait_for("retirement going on", lambda: segments(daemon.state_dir)[0] > first)
    assert not (tmp_path / "backup").exists()


@pytest.mark.timeout(240)
def test_a_daemon_that_stops_meanwhile_ends_the_backup_in_words(tmp_path: Path) -> None:
    with running(tmp_path / "state", *OPTIONS) as daemon:
        with crowd(tmp_path, daemon.socket, AGENTS, ahead=8, pace=0.0):
            wait_for("history", lambda: len(segments(daemon.state_dir)) > 4)
            with stopped_backup(daemon, tmp_path / "backup") as process:
                daemon.kill()
                process.send_signal(signal.SIGCONT)
                _, told = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert b"cannot finish the backup: tallymarkd at " in told
    assert [path.name for path in tmp_path.glob("backup*")] == []


@pytest.mark.timeout(240)
def test_kills_of_the_backup_leave_nothing_that_looks_whole(tmp_path: Path) -> None:
    target = tmp_path / "backup"
    command = [*BACKUP, "--state-dir", str(tmp_path / "state"), "backup", str(target)]
    with under_load(tmp_path, *SHORT_HISTORY) as (daemon, _):
        wait_for("a retirement", lambda: segments(daemon.state_dir)[0] > 1)
        pause = threading.Event()
        partial = target.with_name("backup.partial")
        for number in range(8):
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                wait_for("a beginning", lambda: partial.exists() or target.exists())
                pause.wait(number * 0.02)
            finally:
                process.kill()
                process.wait()
            if target.exists():
                break
            done = tallymark("restore", str(partial), "--state-dir", str(tmp_path / "r"))
            assert done.returncode == 2 and "it is no backup" in done.stderr
        take_over = target if not target.exists() else tmp_path / "another"
        take(daemon, take_over)
        assert not take_over.with_name(take_over.name + ".partial").exists()
        first = segments(daemon.state_dir)[0]
        wait_for("retirement going on", lambda: segments(daemon.state_dir)[0] > first)
    bring_back(take_over, tmp_path / "restored")
