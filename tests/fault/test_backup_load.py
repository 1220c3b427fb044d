"""Backups of a daemon under full load, with rolls and retirements while files are copied."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tallymark.errors import StorageError
from tallymark.fs import OsFileSystem
from tallymarkd.core.layout import Layout
from tallymarkd.core.loading import load_state_files, read_only
from tallymarkd.core.project_state import snapshot
from tallymarkd.storage.segment_files import open_segment, segment_paths
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
    with (
        running(tmp_path / "state", *OPTIONS, *options) as daemon,
        crowd(tmp_path, daemon.socket, AGENTS, ahead=8, pace=0.0) as load,
    ):
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
        known = acknowledged(load.accounts())
        before = segments(daemon.state_dir)[-1]
        found = take(daemon, tmp_path / "backup")
        assert segments(daemon.state_dir)[-1] > before, "no segment was rolled meanwhile"
        assert found["durable_lsn"] <= found["end_lsn"]
    bring_back(tmp_path / "backup", tmp_path / "restored")
    ids = ids_in_journal(tmp_path / "restored")
    assert known
    assert known <= set(ids)
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


@contextmanager
def stopped_backup(daemon: Daemon, target: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A backup that is stopped (SIGSTOP) while it copies; gone after."""
    process = subprocess.Popen(
        [*BACKUP, "--state-dir", str(daemon.state_dir), "backup", str(target)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        copied = target.with_name(target.name + ".partial") / "state"
        wait_for("a copy", lambda: any(copied.rglob("*.json")))
        process.send_signal(signal.SIGSTOP)
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_history_is_held_as_long_as_the_backup_lives(tmp_path: Path) -> None:
    with under_load(tmp_path, *SHORT_HISTORY) as (daemon, _):
        wait_for("a retirement", lambda: segments(daemon.state_dir)[0] > 1)
        with stopped_backup(daemon, tmp_path / "backup") as process:
            first = segments(daemon.state_dir)[0]
            # What is announced is retired after four saves of the server's file.
            wait_for("generations that are past it", lambda: past_all(daemon.state_dir))
            wait_for_saves(daemon.state_dir / "server.json", 10)
            assert segments(daemon.state_dir)[0] == first
            process.kill()
            wait_for("retirement going on", lambda: segments(daemon.state_dir)[0] > first)
    assert not (tmp_path / "backup").exists()


def past_all(state_dir: Path) -> bool:
    """Whether no generation of any file needs the oldest segment, and history is too long."""
    try:
        found = load_state_files(OsFileSystem(), Layout(state_dir), lambda _: None)
        _, second, *_ = segment_paths(OsFileSystem(), state_dir / "journal")
        header = open_segment(OsFileSystem(), *second).header
        size = sum(path.stat().st_size for path in (state_dir / "journal").glob("*.seg"))
    except (StorageError, OSError):
        return False  # it was saved, or retired, in the midst of it
    assert header is not None
    reaches = [reach for each in found.all for reach in each.reaches]
    return min(reaches) >= header.prev_last_lsn and size > 1024 * 1024


def wait_for_saves(path: Path, count: int) -> None:
    """Until it has been saved so often."""
    for _ in range(count):
        before = path.stat().st_mtime_ns
        wait_for("a save", partial(changed, path, before))


def changed(path: Path, before_ns: int) -> bool:
    """Whether it was written since."""
    return path.stat().st_mtime_ns != before_ns


@pytest.mark.timeout(240)
def test_a_daemon_that_stops_meanwhile_ends_the_backup_in_words(tmp_path: Path) -> None:
    target = tmp_path / "backup"
    with under_load(tmp_path) as (daemon, _), stopped_backup(daemon, target) as process:
        daemon.kill()
        process.send_signal(signal.SIGCONT)
        _, told = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert b"cannot finish the backup: tallymarkd at " in told
    assert [path.name for path in tmp_path.glob("backup*")] == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kills", [(2, 7), pytest.param((1, 3, 5, 7, 9), marks=pytest.mark.slow)])
def test_kills_of_the_backup_leave_nothing_that_looks_whole(
    tmp_path: Path, kills: tuple[int, ...]
) -> None:
    target, unfinished = tmp_path / "backup", tmp_path / "backup.partial"
    command = [*BACKUP, "--state-dir", str(tmp_path / "state"), "backup", str(target)]
    with under_load(tmp_path, *SHORT_HISTORY) as (daemon, _):
        wait_for("a retirement", lambda: segments(daemon.state_dir)[0] > 1)
        for files in kills:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                wait_for("so many files", has_files(unfinished, files))
            finally:
                process.kill()
                process.wait()
            assert not target.exists(), "it was too fast to be killed"
            done = tallymark("restore", str(unfinished), "--state-dir", str(tmp_path / "restored"))
            assert done.returncode == 2
            assert "it is no backup" in done.stderr
        take(daemon, target)
        assert not unfinished.exists()
        first = segments(daemon.state_dir)[0]
        wait_for("retirement going on", lambda: segments(daemon.state_dir)[0] > first)
    bring_back(target, tmp_path / "restored")


def has_files(directory: Path, count: int) -> Callable[[], bool]:
    """Whether so many files have been begun in it."""
    return lambda: sum(len(files) for _, _, files in os.walk(directory)) >= count
