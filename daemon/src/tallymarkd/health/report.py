"""The figures of the health report."""

from __future__ import annotations

import heapq
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import psutil

from tallymarkd._version import __version__
from tallymarkd.core.overview import evicted_runs
from tallymarkd.health.vitals import Vitals

DAMAGE_SHOWN_MAX = 20

PRODUCERS_SHOWN_MAX = 20
"""Producers whose own ledger the report has, of up to ``producers_max``."""


def report(vitals: Vitals, free: int | None) -> dict[str, Any]:
    """Every figure, plain values only; ``free`` are the bytes free on the disk."""
    fsync = sorted(vitals.committer.stats.fsync_seconds)
    stats = vitals.committer.stats
    server = vitals.engine.books.server
    return {
        "version": __version__,
        "server_id": server.server_id,
        "pid": os.getpid(),
        "started_at": _text(vitals.started),
        "uptime_seconds": round(time.time() - vitals.started, 3),
        "state_dir": str(vitals.settings.state_dir),
        "socket": str(vitals.settings.socket),
        "durable_lsn": vitals.journal.durable_lsn,
        "applied_lsn": server.applied_lsn,
        "queue_bytes": vitals.committer.queue_bytes,
        "unacknowledged_bytes": vitals.engine.unacknowledged_bytes,
        "commits": stats.commits,
        "events_per_commit": round(stats.events / stats.commits, 1) if stats.commits else 0,
        "fsync_p50_ms": _millis(fsync, 0.5),
        "fsync_p99_ms": _millis(fsync, 0.99),
        "loop_lag_ms": round(vitals.pulse.loop_lag_seconds * 1000, 3),
        "disk_free_bytes": free,
        "history_bytes": vitals.journal.size_bytes(),
        **_process(vitals.process),
        "rss_peak_bytes": _peak_rss_bytes(),
        "connections": vitals.connections(),
        "projects": len(vitals.engine.books.projects),
        "producers": len(server.marks),
        "spools_waiting": vitals.spools_waiting(),
        "ledger": {
            **msgspec.to_builtins(server.ledger),
            "evicted": sum(map(evicted_runs, vitals.engine.books.projects.values())),
            "producers": _producers(vitals),
        },
        "recovery": _recovery(vitals),
    }


def _process(process: psutil.Process) -> dict[str, int]:
    """What the system tells of this process: nothing when it has no descriptor left for
    that. A question about health must not fail over it."""
    try:
        return {"rss_bytes": process.memory_info().rss, "open_files": process.num_fds()}
    except (OSError, psutil.Error):
        return {}


def _producers(vitals: Vitals) -> list[dict[str, Any]]:
    """The ledger of each producer that has a mark, those heard of last."""
    marks = vitals.engine.books.server.marks
    latest = heapq.nlargest(
        PRODUCERS_SHOWN_MAX, marks.items(), key=lambda item: item[1].contact_seconds
    )
    return [{"producer": name, **msgspec.structs.asdict(mark)} for name, mark in latest]


def _recovery(vitals: Vitals) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(vitals.recovery)
    for name in ("damage", "losses"):
        found[name] = found[name][:DAMAGE_SHOWN_MAX]
    return found


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
