"""A daemon's vitals for tests: an engine that works, and the rest as a test makes it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from tallymark.fs import OsFileSystem
from tallymark.protocol.messages import Reason
from tallymarkd.config import Settings
from tallymarkd.core.checkpoint import Checkpointer
from tallymarkd.core.layout import Layout
from tallymarkd.core.restore import RecoveryReport
from tallymarkd.health import Vitals, condition
from tallymarkd.health.files import DISK_FREE_BYTES_MIN
from tallymarkd.server.desk import Condition
from tallymarkd.storage.journal import Journal
from tests.daemon_parts import Bench

PLENTY = 100 * DISK_FREE_BYTES_MIN


class DiskFs(OsFileSystem):
    """A disk with as much room as the test says; None for one that is gone."""

    def __init__(self) -> None:
        self.free: int | None = PLENTY

    def free_bytes(self, path: Path) -> int:
        if self.free is None:
            raise FileNotFoundError(2, "No such file or directory")
        return self.free


class Patient:
    """Vitals over an engine that works, and what the test makes of the rest."""

    def __init__(self, bench: Bench, root: Path, **limits: int) -> None:
        self.bench = bench
        self.fs = DiskFs()
        self.now = 100.0
        self.connections = 7
        self.room = 0
        self.late: float | None = None
        self.problem = ""
        self.checkpointer = SimpleNamespace(
            failure=None,
            foreign=None,
            oldest_dirty_seconds=0.0,
            holds=SimpleNamespace(seconds=0.0),
        )
        self.journal = SimpleNamespace(durable_lsn=42, size_bytes=lambda: 123_456)
        self.recovery = RecoveryReport()
        Layout(root).journal.mkdir()
        self.vitals = Vitals(
            Settings(
                state_dir=root,
                socket=root / "run" / "t.sock",
                spool_dir=root / "spool",
                **limits,  # type: ignore[arg-type]  # these are all numbers
            ),
            self.fs,
            bench.engine,
            bench.committer,
            cast(Checkpointer, self.checkpointer),
            cast(Journal, self.journal),
            self.recovery,
            connections=lambda: self.connections,
            connections_max=lambda: self.room or self.vitals.settings.connections_max,
            watchdog_late_seconds=lambda: self.late,
            config_problem=lambda: self.problem,
            spools_waiting=lambda: 5,
            clock=lambda: self.now,
            started=1_767_355_200.0,
        )

    @property
    def condition(self) -> Condition:
        return condition(self.vitals)

    @property
    def reasons(self) -> list[Reason]:
        return self.condition.reasons

    @property
    def codes(self) -> list[str]:
        return [reason.code for reason in self.reasons]

    def complains(self, code: str, named: str) -> None:
        """Asserts that there is one reason, this one, with a remedy, and what it names."""
        found = self.only
        assert (found.code, named in found.message) == (code, True), found
        assert found.remedy

    @property
    def only(self) -> Reason:
        """The one reason that there is; asserts that the daemon is degraded by it."""
        found = self.condition
        assert found.status == "degraded"
        (reason,) = found.reasons
        return reason

    def commit(self, *, lag_seconds: float = 0.0, sync_seconds: float = 0.001) -> None:
        """One commit has come back."""
        self.bench.committer.stats.fsync_seconds.append(sync_seconds)
        self.vitals.after_commit(lag_seconds)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
