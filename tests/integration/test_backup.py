"""Restores under clients that live on, spools among them, and what each of them is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tallymark import Client
from tallymark.fs import OsFileSystem
from tests.daemon import DEADLINE_SECONDS, Daemon, running, tallymark, wait_for
from tests.fault.mounts import cannot_mount, mounted
from tests.stored_ids import ids_in_journal

FLUSH_SECONDS = 60.0

needs_mounts = pytest.mark.skipif(bool(cannot_mount()), reason=cannot_mount())


def record(client: Client, count: int = 5, *, wait: bool = True) -> list[str]:
    """So many runs, durable or spooled; their ids."""
    ids = []
    for _ in range(count):
        with client.track_agent("coding", announce=False) as run:
            run.add_tokens(input_tokens=3)
        ids.append(run.run_id)
    if wait:
        client.flush(FLUSH_SECONDS)
    return ids


def command(daemon: Daemon, *args: str) -> dict[str, Any]:
    done = tallymark("--state-dir", str(daemon.state_dir), "--json", *args)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_whole(state_dir: Path) -> None:
    done = tallymark("verify", str(state_dir), "--json")
    assert (done.returncode, json.loads(done.stdout)["findings"]) == (0, []), done


def test_a_client_lives_through_a_restore_and_what_is_lacking_is_told(tmp_path: Path) -> None:
    with running(tmp_path / "state") as daemon:
        with Client("p", socket=daemon.socket, spool_dir=tmp_path / "spool") as client:
            before = record(client)
            command(daemon, "backup", str(tmp_path / "backup"))
            lacking = record(client, 3)
            assert daemon.stop() == 0
            # With nobody there these go to the spool, bound to the server of before.
            spooled = record(client, 4)
            assert client.stats().spooled
            report = command(daemon, "restore", "--replace", str(tmp_path / "backup"))
            assert report["lacks"] == 3
            daemon.start()
            after = record(client, 2)
            wait_for("an empty spool", lambda: not client.stats().spooled)
            client.flush(FLUSH_SECONDS)
            assert not client.stats().dropped
        ids = ids_in_journal(daemon.state_dir)
        assert sorted(ids) == sorted(before + spooled + after)
        ledger = daemon.ledger
        assert ledger["lost"] == report["lacks"]
        assert ledger["losses"][0]["reason"].startswith("restored on ")
        assert ledger["skips"] == {"acknowledged_before": 0}
        assert daemon.stop() == 0
    assert set(lacking) <= set(ids_in_journal(Path(report["aside"])))
    assert_whole(daemon.state_dir)


def test_an_orphaned_spool_is_delivered_after_a_restore_elsewhere(tmp_path: Path) -> None:
    """Its agent is gone, and the daemon that adopts it is the restored one."""
    with (
        running(tmp_path / "state") as daemon,
        Client("p", socket=daemon.socket, spool_dir=tmp_path / "spool") as client,
    ):
        record(client, 2)
        command(daemon, "backup", str(tmp_path / "backup"))
        record(client, 2)
        assert daemon.stop() == 0
        spooled = record(client, 3)
    assert list((tmp_path / "spool").glob("*.spool"))
    moved = Daemon(tmp_path / "moved", "--spool-dir", str(tmp_path / "spool"))
    command(moved, "restore", str(tmp_path / "backup"))
    try:
        moved.start()
        wait_for("the spool's end", lambda: not list((tmp_path / "spool").glob("*.spool")))
        assert set(spooled) <= set(ids_in_journal(moved.state_dir))
        assert moved.stop() == 0
    finally:
        moved.kill()
    assert_whole(moved.state_dir)


def test_while_a_stopped_one_is_backed_up_a_daemon_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "state") as daemon:
        assert daemon.stop() == 0
        lock = OsFileSystem().lock(daemon.state_dir / "lock")
        try:
            daemon.spawn()
            assert daemon.process is not None
            assert daemon.process.wait(DEADLINE_SECONDS) == 1
        finally:
            OsFileSystem().close(lock)
        assert "cannot use " in daemon.log()
        daemon.start()


def test_a_restore_that_was_cut_off_is_finished_by_the_next_start(tmp_path: Path) -> None:
    with running(tmp_path / "state") as daemon:
        with Client("p", socket=daemon.socket) as client:
            before = record(client, 2)
            command(daemon, "backup", str(tmp_path / "backup"))
            record(client, 2)
        assert daemon.stop() == 0
        kill_in_restore(daemon.state_dir, tmp_path / "backup")
        assert (daemon.state_dir / "restore.ready").exists()
        assert tallymark("verify", str(daemon.state_dir)).returncode == 2
        daemon.start()
        assert ids_in_journal(daemon.state_dir) == before
        assert "finished a restore of " in daemon.log()
        assert not (daemon.state_dir / "restore.ready").exists()
        assert daemon.stop() == 0
    assert_whole(daemon.state_dir)


def kill_in_restore(state_dir: Path, backup: Path) -> None:
    """It dies when the first of the old names is aside."""
    script = (
        "import os, signal, sys; from pathlib import Path; from tallymark.fs import OsFileSystem\n"
        "from tallymarkd.cli import main\n"
        "rename = OsFileSystem.replace\n"
        "def replace(self, source, target):\n"
        "    rename(self, source, target)\n"
        "    if 'replaced-' in str(target): os.kill(os.getpid(), signal.SIGKILL)\n"
        "OsFileSystem.replace = replace\n"
        "main()"
    )
    args = ["--state-dir", str(state_dir), "restore", "--replace", str(backup)]
    done = subprocess.run([sys.executable, "-c", script, *args], timeout=DEADLINE_SECONDS)
    assert done.returncode == -9


@needs_mounts
def test_a_full_disk_is_told_and_nothing_left(tmp_path: Path) -> None:
    with (
        running(tmp_path / "state") as daemon,
        Client("p", socket=daemon.socket) as client,
        mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", "size=64k") as small,
    ):
        for _ in range(60):
            with client.track_agent("coding") as run:
                run.add_artifact("file:" + os.urandom(2000).hex())
        client.flush(FLUSH_SECONDS)
        done = tallymark("--state-dir", str(daemon.state_dir), "backup", str(small / "backup"))
        assert done.returncode == 1
        assert f"cannot back up to {small / 'backup'}: No space left on device" in done.stderr
        assert list(small.iterdir()) == []


@needs_mounts
def test_a_directory_with_its_journal_on_another_disk_is_not_blocked(tmp_path: Path) -> None:
    """Nothing is decided that could not be finished."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with running(tmp_path / "state") as daemon:
        with Client("p", socket=daemon.socket, spool_dir=tmp_path / "spool") as client:
            ids = record(client)
        command(daemon, "backup", str(tmp_path / "backup"))
        assert daemon.stop() == 0
        # From the same file system, so that no number of a device tells it.
        journal = daemon.state_dir / "journal"
        for path in journal.iterdir():
            path.rename(elsewhere / path.name)
        with mounted(str(elsewhere), journal, "--bind"):
            done = tallymark(
                "--state-dir", str(daemon.state_dir), "restore", "--replace",
                str(tmp_path / "backup"),
            )  # fmt: skip
            assert done.returncode == 1
            assert f"{journal} is a mount point" in done.stderr
            assert not list(daemon.state_dir.glob("restore.*"))
            daemon.start()
            assert sorted(ids) == sorted(ids_in_journal(daemon.state_dir))
            assert daemon.stop() == 0
