"""A disk that fails under the running daemon: what ends it, and what only degrades it.

Whatever happens: nothing is acknowledged that is not durable, and when the disk
is well again every event that the client holds is there, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tallymark import Client
from tallymark.errors import FlushTimeout
from tallymark.events import RunEnd
from tallymark.fs import OsFileSystem
from tallymark.protocol.messages import HealthReport
from tallymarkd.core.committer import EXIT_IO_ERROR
from tallymarkd.core.verify import verify
from tests.daemon import DEADLINE_SECONDS, Daemon, tallymark, wait_for
from tests.fault import failing_daemon
from tests.fault.failing_daemon import Disk

QUICK_SAVES = ("--save-interval-seconds", "0.05")
NO_SAVES = ("--save-interval-seconds", "3600")
SMALL_SEGMENTS = ("--segment-bytes-max", "64KiB", "--segment-chunk-bytes", "16KiB")
FILLER = "x" * 3000


def slow(*values: Any) -> Any:
    """One more of the same: with the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Rig:
    """A daemon on a failing disk, and one client that keeps what is not acknowledged."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.disk = Disk(folder / "disk")
        self.disk.heal()
        command = (str(failing_daemon.PATH), str(self.disk.folder))
        self.daemon = Daemon(folder / "state", *options, command=command)
        self.sent: list[str] = []
        self.client: Client | None = None

    def record(self, count: int = 1) -> None:
        """Hand events to the client."""
        if self.client is None:
            # Without a spool nothing but the daemon's disk can let a flush return.
            self.client = Client(
                "p", socket=self.daemon.socket, spool_dir="/dev/null/none", batch_events_max=4,
                linger_seconds=0.0,
            )  # fmt: skip
        for _ in range(count):
            run_id = f"run-{len(self.sent)}"
            self.client.emit(RunEnd(event_id=run_id, agent_name="coding", error_message=FILLER))
            self.sent.append(run_id)

    def flush(self) -> None:
        assert self.client is not None
        self.client.flush(timeout=DEADLINE_SECONDS)

    def cannot_flush(self) -> None:
        assert self.client is not None
        with pytest.raises(FlushTimeout):
            self.client.flush(timeout=0.3)

    def health(self) -> HealthReport:
        return self.daemon.health()

    def codes(self) -> list[str]:
        return [reason.code for reason in self.health().reasons]

    def wait_for_code(self, code: str) -> HealthReport:
        return wait_for(code, lambda: self.health() if code in self.codes() else None)

    def wait_until_well(self) -> None:
        wait_for("a daemon that is well", lambda: not self.codes())

    def runs(self) -> list[str]:
        """What is recorded, in order."""
        with Client("p", socket=self.daemon.socket) as client:
            return [run.event_id for run in client.dump().events]

    def close(self) -> None:
        if self.client is not None:
            self.client.close(timeout=0.1)
        self.daemon.kill()


@contextmanager
def rigged(folder: Path, *options: str) -> Iterator[Rig]:
    rig = Rig(folder, *options)
    try:
        rig.daemon.start()
        yield rig
    finally:
        rig.close()


def settle(rig: Rig) -> None:
    """With the disk well everything is there once; verify finds nothing."""
    rig.flush()
    assert rig.runs() == rig.sent
    ledger = rig.daemon.ledger
    assert (ledger["stored"], ledger["duplicate"], ledger["lost"]) == (len(rig.sent), 0, 0)
    assert rig.daemon.stop() == 0
    report = verify(OsFileSystem(), rig.daemon.state_dir)
    assert (report.verdict, report.findings) == ("whole", [])
    assert report.ledger is not None
    assert report.ledger.stored == len(rig.sent)
    if not report.journal.begins_after_lsn:
        assert report.events.stored == len(rig.sent)


# A failing journal ends the process.


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("sync_data", "EIO"),
        ("write", "EROFS"),
        slow("sync_data", "ENOSPC"),
        slow("sync_data", "EROFS"),
        slow("write", "EIO"),
        slow("allocate", "EIO"),
    ],
)
def test_a_journal_that_cannot_be_written_ends_it_without_a_word_more(
    tmp_path: Path, kind: str, error: str
) -> None:
    with rigged(tmp_path, *SMALL_SEGMENTS, *NO_SAVES) as rig:
        rig.record(3)
        rig.flush()
        rig.disk.fail(kind, error=error, part=".seg", times=1)
        rig.record(12)

        assert rig.daemon.process is not None
        assert rig.daemon.process.wait(DEADLINE_SECONDS) == EXIT_IO_ERROR

        # One failure; after it neither a second try nor anything else.
        assert [line.split()[:2] for line in rig.disk.struck()] == [["failed", kind]]
        assert "exiting" in rig.daemon.log()
        rig.cannot_flush()
        rig.disk.heal()
        rig.daemon.start()
        settle(rig)


@pytest.mark.parametrize(
    "kind", ["sync_dir", *map(slow, ["create", "allocate", "write", "sync", "replace"])]
)
@pytest.mark.parametrize("error", ["EIO", slow("EROFS")])
def test_a_segment_that_cannot_be_begun_ends_it(tmp_path: Path, kind: str, error: str) -> None:
    with rigged(tmp_path, *SMALL_SEGMENTS, *NO_SAVES) as rig:
        rig.record(3)
        rig.flush()
        part = "/journal" if kind == "sync_dir" else "000000000002"
        rig.disk.fail(kind, error=error, part=part, times=1)
        rig.record(40)

        assert rig.daemon.process is not None
        assert rig.daemon.process.wait(DEADLINE_SECONDS) == EXIT_IO_ERROR

        assert [line.split()[:2] for line in rig.disk.struck()] == [["failed", kind]]
        rig.disk.heal()
        rig.daemon.start()
        settle(rig)


# A full disk is waited for.


@pytest.mark.parametrize(
    ("kinds", "part"),
    [
        (("write", "allocate"), ".seg"),
        (("create",), "000000000002.tmp"),
        slow(("write",), ".seg"),
        slow(("allocate",), "000000000002.tmp"),
        slow(("sync",), "000000000002.tmp"),
        slow(("replace",), "000000000002"),
    ],
)
@pytest.mark.parametrize("error", ["ENOSPC", slow("EDQUOT")])
def test_a_full_disk_is_told_waited_for_and_over(
    tmp_path: Path, kinds: tuple[str, ...], part: str, error: str
) -> None:
    with rigged(tmp_path, *SMALL_SEGMENTS, *QUICK_SAVES) as rig:
        rig.record(3)
        rig.flush()
        rig.disk.fail(*kinds, error=error, part=part)
        rig.record(40)

        health = rig.wait_for_code("disk_full")
        assert health.status == "degraded"
        (reason,) = [each for each in health.reasons if each.code == "disk_full"]
        assert "cannot" in reason.message
        assert "free space" in reason.remedy
        rig.cannot_flush()
        # Reads and health go on, and show what is durable and nothing else.
        shown = rig.runs()
        assert shown == rig.sent[: len(shown)]
        assert 3 <= len(shown) < len(rig.sent)
        assert rig.daemon.ledger["stored"] == len(shown)
        listed = tallymark("--socket", str(rig.daemon.socket))
        assert listed.returncode == 0
        assert "coding" in listed.stdout
        deep = tallymark("health", "--deep", "--socket", str(rig.daemon.socket))
        assert deep.returncode in (1, 2)
        assert "disk_full" in deep.stdout

        rig.disk.heal()
        rig.flush()
        rig.wait_until_well()
        settle(rig)


def test_a_kill_while_the_disk_is_full_costs_nothing(tmp_path: Path) -> None:
    with rigged(tmp_path, *SMALL_SEGMENTS, *NO_SAVES) as rig:
        rig.record(3)
        rig.flush()
        rig.disk.fail("write", "allocate", error="ENOSPC", part=".seg")
        rig.record(9)
        rig.wait_for_code("disk_full")
        rig.daemon.kill()
        rig.daemon.start()
        assert rig.runs() == rig.sent[:3]
        rig.disk.heal()
        settle(rig)


def test_a_stop_while_the_disk_is_full_is_a_stop(tmp_path: Path) -> None:
    with rigged(tmp_path, *SMALL_SEGMENTS, *NO_SAVES) as rig:
        rig.record(3)
        rig.flush()
        rig.disk.fail("write", "allocate", "create", error="ENOSPC")
        rig.record(4)
        rig.wait_for_code("disk_full")
        assert rig.daemon.stop() == 0
        assert "Traceback" not in rig.daemon.log()
        rig.disk.heal()
        rig.daemon.start()
        settle(rig)


# What cannot be saved only degrades.


@pytest.mark.parametrize("error", ["EIO", slow("ENOSPC"), slow("EROFS")])
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        slow("create", ".agent_metrics.json.tmp"),
        slow("write", ".agent_metrics.json.tmp"),
        slow("sync", ".agent_metrics.json.tmp"),
        ("link", ".agent_metrics.json.bak"),
        slow("replace", ".agent_metrics.json"),
        slow("unlink", ".agent_metrics.json"),
        ("sync_dir", "/projects/p-"),
        slow("create", "server.json.tmp"),
        ("replace", "server.json"),
    ],
)
def test_a_state_file_that_cannot_be_saved_only_degrades(
    tmp_path: Path, kind: str, part: str, error: str
) -> None:
    with rigged(tmp_path, *QUICK_SAVES) as rig:
        rig.record(1)
        rig.flush()
        name = ".agent_metrics.json" if "server" not in part else "server.json"
        wait_for("a first save", lambda: list(rig.daemon.state_dir.rglob(name)))
        rig.disk.fail(kind, error=error, part=part)
        rig.record(1)
        rig.flush()  # acknowledged all the same: the journal has it

        health = rig.wait_for_code("save_failed")
        assert health.status == "degraded"
        rig.record(1)
        rig.flush()
        assert rig.runs() == rig.sent
        rig.disk.heal()
        rig.wait_until_well()
        settle(rig)


def test_saves_that_never_succeed_cost_nothing(tmp_path: Path) -> None:
    """The journal alone brings everything back."""
    with rigged(tmp_path, *QUICK_SAVES) as rig:
        rig.disk.fail("create", error="EROFS", part=".json.tmp")
        rig.record(5)
        rig.flush()
        rig.wait_for_code("save_failed")
        assert rig.daemon.stop() == 0
        rig.disk.heal()
        rig.daemon.start()
        settle(rig)


def test_history_that_cannot_be_retired_stays_until_it_can(tmp_path: Path) -> None:
    with rigged(tmp_path, *SMALL_SEGMENTS, *QUICK_SAVES, "--history-bytes-max", "128KiB") as rig:
        first = rig.daemon.state_dir / "journal" / "000000000001.seg"
        rig.disk.fail("unlink", part=first.name)
        for _ in range(8):
            rig.record(10)
            rig.flush()
        rig.record(1)
        rig.flush()
        wait_for("a try", rig.disk.struck)
        assert first.exists()
        assert rig.health().status == "ok"
        rig.disk.heal()
        rig.record(1)
        rig.flush()
        wait_for("retirement", lambda: not first.exists())
        settle(rig)


# Short writes, and a start on a failing disk.


def test_writes_that_hand_over_a_few_bytes_at_a_time_write_everything(tmp_path: Path) -> None:
    rig = Rig(tmp_path, *SMALL_SEGMENTS, *QUICK_SAVES)
    rig.disk.write_short()
    try:
        rig.daemon.start()
        rig.record(60)
        rig.flush()
        rig.daemon.kill()
        rig.daemon.start()
        settle(rig)
    finally:
        rig.close()


STARTING = [
    ("read", ".seg"),
    ("sync", ""),
    slow("open_read", ".seg"),
    slow("open_read", ".agent_metrics.json"),
    slow("open_read", "server.json"),
    slow("read", ".agent_metrics.json"),
    slow("open_write", ".tmp"),
    slow("create", ".tmp"),
    slow("write", ""),
    slow("truncate", ""),
    slow("sync_dir", ""),
    slow("replace", ""),
    slow("unlink", ""),
    slow("mkdir", ""),
    slow("names", ""),
    slow("lock", ""),
]


@pytest.mark.parametrize(("kind", "part"), STARTING)
@pytest.mark.parametrize("error", ["EIO", slow("EROFS")])
def test_a_start_on_a_failing_disk_fails_in_one_line_and_costs_nothing(
    tmp_path: Path, kind: str, part: str, error: str
) -> None:
    with rigged(tmp_path, *SMALL_SEGMENTS, *QUICK_SAVES) as rig:
        rig.record(40)
        rig.flush()
        wait_for("server.json", (rig.daemon.state_dir / "server.json").exists)
        rig.daemon.kill()
        rig.disk.fail(kind, error=error, part=part, times=1)
        rig.daemon.spawn()
        code = ended_or_answers(rig.daemon)
        assert code in (None, 1), rig.daemon.log()
        assert "Traceback" not in rig.daemon.log()
        if code is not None:
            last = rig.daemon.log().splitlines()[-1]
            assert last.startswith("tallymarkd: cannot ")
        rig.daemon.kill()
        assert any(line.startswith("failed") for line in rig.disk.struck())
        rig.disk.heal()
        rig.daemon.start()
        rig.flush()
        assert rig.runs() == rig.sent
        assert rig.daemon.ledger["lost"] == 0


def ended_or_answers(daemon: Daemon) -> Any:
    """Its exit code; None when it serves."""

    def look() -> tuple[Any] | None:
        assert daemon.process is not None
        if daemon.process.poll() is not None:
            return (daemon.process.returncode,)
        try:
            return (None,) if daemon.answers() else None
        except AssertionError:
            return (daemon.process.returncode,)

    (code,) = wait_for("an end or an answer", look)
    return code
