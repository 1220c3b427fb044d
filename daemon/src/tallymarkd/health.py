"""How the daemon is: the report, and every reason why it is not ok."""

from __future__ import annotations

import heapq
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import psutil

from tallymark.adoption import DAMAGED_SUFFIX
from tallymark.fs import FileSystem
from tallymark.protocol.messages import HealthStatus, Reason
from tallymarkd._version import __version__
from tallymarkd.config import Settings
from tallymarkd.core.checkpoint import Checkpointer
from tallymarkd.core.committer import Committer
from tallymarkd.core.engine import Engine
from tallymarkd.core.overview import evicted_runs
from tallymarkd.core.restore import RecoveryReport
from tallymarkd.server.desk import Condition
from tallymarkd.storage.journal import Journal

STUCK_SECONDS = 5.0
"""A commit that takes longer than this is worth telling."""

UNSAVED_SECONDS_MAX = 60.0
"""State that is not saved for longer than this is worth telling."""

DISK_FREE_BYTES_MIN = 256 * 1024 * 1024
"""Less free space than this is worth telling."""

DAMAGE_SHOWN_MAX = 20

SPOOLS_SHOWN_MAX = 5

PRODUCERS_SHOWN_MAX = 20
"""Producers whose own ledger the report has, of up to ``producers_max``."""

LOSSES_TOLD_MAX = 5
"""Losses named in a reason; the report has more."""


@dataclass(slots=True)
class Vitals:
    """Everything that health looks at. Loop thread only."""

    settings: Settings
    fs: FileSystem
    engine: Engine
    committer: Committer
    checkpointer: Checkpointer
    journal: Journal
    recovery: RecoveryReport
    connections: Callable[[], int]
    clock: Callable[[], float] = time.perf_counter
    started: float = field(default_factory=time.time)
    loop_lag_seconds: float = 0.0
    process: psutil.Process = field(default_factory=psutil.Process)

    def condition(self, *, probe_failed: str = "") -> Condition:
        """The report as it stands now; ``probe_failed`` says what a deep probe met."""
        free = self._free_bytes()
        reasons = [
            *self._journal_reasons(probe_failed),
            *self._state_reasons(),
            *self._disk_reasons(free),
            *self._spool_reasons(),
        ]
        status: HealthStatus = "ok"
        if reasons:
            status = "failing" if probe_failed or free is None else "degraded"
        return Condition(status, reasons, self.report())

    def line(self) -> str:
        """How it is, in a few words for a status line."""
        condition = self.condition()
        if condition.reasons:
            codes = ", ".join(reason.code for reason in condition.reasons)
            return f"{condition.status} ({codes}); tallymark health tells more"
        ledger = self.engine.books.server.ledger
        return (
            f"{_count(self.connections(), 'connection')}, {_count(ledger.stored, 'event')} stored"
        )

    def _free_bytes(self) -> int | None:
        """Free space at the state directory; None when it cannot be reached."""
        try:
            return self.fs.free_bytes(self.settings.state_dir)
        except OSError:
            return None

    def report(self) -> dict[str, Any]:
        """Every figure, plain values only."""
        fsync = sorted(self.committer.stats.fsync_seconds)
        stats = self.committer.stats
        server = self.engine.books.server
        return {
            "version": __version__,
            "server_id": server.server_id,
            "pid": os.getpid(),
            "started_at": _text(self.started),
            "uptime_seconds": round(time.time() - self.started, 3),
            "state_dir": str(self.settings.state_dir),
            "socket": str(self.settings.socket),
            "durable_lsn": self.journal.durable_lsn,
            "applied_lsn": server.applied_lsn,
            "queue_bytes": self.committer.queue_bytes,
            "commits": stats.commits,
            "events_per_commit": round(stats.events / stats.commits, 1) if stats.commits else 0,
            "fsync_p50_ms": _millis(fsync, 0.5),
            "fsync_p99_ms": _millis(fsync, 0.99),
            "loop_lag_ms": round(self.loop_lag_seconds * 1000, 3),
            "disk_free_bytes": self._free_bytes(),
            "history_bytes": self.journal.size_bytes(),
            "rss_bytes": self.process.memory_info().rss,
            "rss_peak_bytes": _peak_rss_bytes(),
            "open_files": self.process.num_fds(),
            "connections": self.connections(),
            "projects": len(self.engine.books.projects),
            "producers": len(server.marks),
            "ledger": {
                **msgspec.to_builtins(server.ledger),
                "evicted": sum(map(evicted_runs, self.engine.books.projects.values())),
                "producers": self._producers(),
            },
            "recovery": self._recovery(),
        }

    def _producers(self) -> list[dict[str, Any]]:
        """The ledger of each producer that has a mark, those heard of last."""
        marks = self.engine.books.server.marks
        latest = heapq.nlargest(
            PRODUCERS_SHOWN_MAX, marks.items(), key=lambda item: item[1].contact_seconds
        )
        return [{"producer": name, **msgspec.structs.asdict(mark)} for name, mark in latest]

    def _recovery(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(self.recovery)
        for name in ("damage", "losses"):
            found[name] = found[name][:DAMAGE_SHOWN_MAX]
        return found

    def _journal_reasons(self, probe_failed: str) -> list[Reason]:
        reasons = []
        if probe_failed:
            reasons.append(
                Reason(
                    code="probe_failed",
                    message=f"cannot make a probe durable: {probe_failed}",
                    remedy="look at the disk of the state directory and at the log",
                )
            )
        if self.engine.disk_full is not None:
            reasons.append(
                Reason(
                    code="disk_full",
                    message=self.engine.disk_full,
                    remedy="free space; the daemon goes on by itself, and clients send again",
                )
            )
        busy = self.committer.busy_since
        if busy is not None and self.clock() - busy > STUCK_SECONDS:
            reasons.append(
                Reason(
                    code="commit_stuck",
                    message=f"a commit has been running for {self.clock() - busy:.0f} s",
                    remedy="look at the disk of the state directory",
                )
            )
        return reasons

    def _state_reasons(self) -> list[Reason]:
        reasons = []
        if not self.engine.books.server.ledger.adds_up:
            reasons.append(
                Reason(
                    code="ledger_differs",
                    message="the ledger does not add up: events that were received have no verdict",
                    remedy="stop the daemon and run `tallymark verify`, which counts the journal "
                    "anew; please report what it says",
                )
            )
        failure = self.checkpointer.failure
        if failure is not None:
            reasons.append(
                Reason(
                    code="save_failed",
                    message=f"cannot save {failure.what}: {failure.error}",
                    remedy="nothing is lost, the journal has it; make the directory writable "
                    "and free space",
                )
            )
        elif self.checkpointer.oldest_dirty_seconds > UNSAVED_SECONDS_MAX:
            seconds = self.checkpointer.oldest_dirty_seconds
            reasons.append(
                Reason(
                    code="save_late",
                    message=f"a state file is {seconds:.0f} s behind",
                    remedy="nothing is lost, the journal has it; look at the load of the disk",
                )
            )
        foreign = self.checkpointer.foreign
        if foreign is not None:
            what = "removed" if foreign.kept is None else "changed"
            kept = "" if foreign.kept is None else f", and what was there is kept as {foreign.kept}"
            reasons.append(
                Reason(
                    code="state_file_changed",
                    message=f"another program has {what} {foreign.path}; "
                    f"the daemon has saved its own state again{kept}",
                    remedy="find the program that writes there and stop it: state files are "
                    "the daemon's output only; this is told until the daemon restarts",
                )
            )
        return [*reasons, *self._recovery_reasons()]

    def _recovery_reasons(self) -> list[Reason]:
        """What the last start found missing, named."""
        found = self.recovery
        if found.new_losses:
            told = "; ".join(loss.text() for loss in found.losses[:LOSSES_TOLD_MAX])
            more = found.new_losses - LOSSES_TOLD_MAX
            return [
                Reason(
                    code="events_lost",
                    message=f"the last start found acknowledged events missing: {told}"
                    + (f"; and {more} more" if more > 0 else ""),
                    remedy="look at the disk; what is damaged is kept in quarantine/, and the "
                    "account in recovery-history.json and in this report; "
                    "`tallymark verify` tells how the files are now",
                )
            ]
        if found.new_damage:
            return [
                Reason(
                    code="journal_damaged",
                    message=f"the last start found {found.new_damage} corrupt places in the "
                    "journal; the state files have what stood there",
                    remedy="look at the disk; `tallymark verify` tells how the files are now",
                )
            ]
        return []

    def _disk_reasons(self, free: int | None) -> list[Reason]:
        directory = self.settings.state_dir
        if free is None:
            return [
                Reason(
                    code="state_dir_gone",
                    message=f"cannot reach the state directory {directory}",
                    remedy="bring it back (was it moved, removed or unmounted?) and restart the "
                    "daemon; what is recorded until then may be lost",
                )
            ]
        if free < DISK_FREE_BYTES_MIN:
            return [
                Reason(
                    code="disk_low",
                    message=f"only {free // 2**20} MiB are free at {directory}",
                    remedy="free space, or lower history_bytes_max",
                )
            ]
        return []

    def _spool_reasons(self) -> list[Reason]:
        directory = self.settings.spool_dir
        try:
            names = [name for name in self.fs.names(directory) if name.endswith(DAMAGED_SUFFIX)]
        except OSError:
            return []  # nobody's spools can be seen; whoever looks for them says so
        if not names:
            return []
        return [
            Reason(
                code="spool_damaged",
                message=f"{len(names)} spools in {directory} cannot be read, and what they held "
                f"is lost: {', '.join(names[:SPOOLS_SHOWN_MAX])}",
                remedy="each is named for the producer whose events it held; move it away when "
                "that is known",
            )
        ]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _text(seconds: float) -> str:
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def _millis(ordered: Sequence[float], share: float) -> float | None:
    if not ordered:
        return None
    if share == 0.5:
        return round(statistics.median(ordered) * 1000, 3)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3)


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
