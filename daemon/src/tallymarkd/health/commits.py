"""Reasons about the way of an event to the disk."""

from __future__ import annotations

from collections.abc import Iterator

from tallymark.protocol.messages import Reason
from tallymarkd.health.pulse import LATE_SECONDS, LATE_WINDOW_SECONDS
from tallymarkd.health.troubles import reason
from tallymarkd.health.vitals import Vitals

STUCK_SECONDS = 5.0
"""A commit that takes longer than this is stuck: the disk does not answer, it is not slow."""

WATCHDOG_LATE_SECONDS = 2.0
"""What feeds the watchdog goes behind the commit that is running, and may be as late as
that takes; a commit that is only slow is told as such."""

OVERLOAD_SECONDS = 5.0
"""A queue that is full for less is a burst, which is what a queue is for."""

MIB = 1024 * 1024


def commit_reasons(vitals: Vitals, now: float, probe_failed: str) -> Iterator[Reason]:
    """What keeps events from becoming durable, or makes them wait."""
    if probe_failed:
        yield reason("probe_failed", f"cannot make a probe durable: {probe_failed}")
    if vitals.engine.disk_full is not None:
        yield reason("disk_full", vitals.engine.disk_full)
    busy = vitals.committer.busy_since
    if busy is not None and now - busy > STUCK_SECONDS:
        yield reason("commit_stuck", f"a commit has been running for {now - busy:.0f} s")
    late = vitals.watchdog_late_seconds()
    if late is not None and late >= WATCHDOG_LATE_SECONDS:
        yield reason(
            "watchdog_late",
            f"cannot feed the service manager's watchdog: the commit path has made no progress, "
            f"and the feeding is {late:.0f} s late",
        )
    yield from _late(vitals, now)
    yield from _overloaded(vitals, now)


def _late(vitals: Vitals, now: float) -> Iterator[Reason]:
    often = f"more than once within {LATE_WINDOW_SECONDS:g} s"
    if vitals.pulse.late_commits.told(now):
        worst = vitals.pulse.late_commits.worst
        yield reason(
            "commit_slow",
            f"a commit took longer than {LATE_SECONDS:g} s {often}, up to {worst:.1f} s",
        )
    if vitals.pulse.late_turns.told(now):
        worst = vitals.pulse.late_turns.worst
        yield reason(
            "loop_late",
            f"a finished commit waited longer than {LATE_SECONDS:g} s to be answered {often}, "
            f"up to {worst:.1f} s",
        )


def _overloaded(vitals: Vitals, now: float) -> Iterator[Reason]:
    seconds, _ = vitals.look(now)
    if seconds >= OVERLOAD_SECONDS:
        waiting = vitals.engine.unacknowledged_bytes / MIB
        most = vitals.settings.unacknowledged_total_bytes_max / MIB
        paused = "; reading is paused" if vitals.engine.overloaded else ""
        yield reason(
            "overloaded",
            f"for {seconds:.0f} s the queue to the disk has been full: {waiting:.1f} of "
            f"{most:g} MiB wait{paused}",
        )
