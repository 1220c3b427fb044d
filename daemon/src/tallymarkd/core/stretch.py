"""Many plain runs at once: the fast way of ``apply``.

A stretch is consecutive runs of one agent in one session, each with its id,
its times and its duration. Summed column by column it takes a fraction of the
time that applying each run takes, and it must come to exactly the same. (List
comprehensions, not generators, for the same reason.)

A batch that is one such stretch is summed as soon as it is decoded, and its
events are let go of (``condense``). Until it is durable they would have left the
processor's cache, and to fetch them again costs more than to sum them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import msgspec

from tallymark.events import RunEnd
from tallymark.state import RECENT_EVENTS_MAX
from tallymarkd.core.artifacts import add_counters, count_artifacts
from tallymarkd.core.charges import (
    FAULTS,
    add_seconds,
    charge,
    remember_runs,
    tally_of,
    touch_agent,
    touch_session,
)
from tallymarkd.core.entry import Batch
from tallymarkd.core.project_state import (
    OpenRun,
    ProjectState,
)
from tallymarkd.core.runs import (
    FROM_RUN_END,
    NANOS,
    EndedRun,
    Run,
    Tally,
    total_of,
    utc,
)
from tallymarkd.core.sums import Sums, results_of

CONDENSED_MIN = 16
"""Fewer events than this are kept as they are: they stay in the cache by themselves."""


def condense(batch: Batch, events: msgspec.Raw) -> None:
    """Sum up a batch that is one stretch, and keep its events only as the bytes they came in."""
    count = len(batch.events)
    if count < CONDENSED_MIN or batch.verdicts or batch.extras or batch.costs:
        return
    if stretch_end({}, batch, 0) == count:
        found = _sum_up(batch, 0, count)
        if found is not None and found[1] is batch.events:
            batch.condense(found[0], events)


def apply_condensed(state: ProjectState, batch: Batch) -> bool:
    """Apply a batch that was condensed. False, with nothing changed, if it was not, or
    one of its runs is known to be open."""
    sums, events = batch.sums, batch.raw
    if sums is None or events is None or not state.open_runs.keys().isdisjoint(sums.run_ids):
        return False
    _add(state, sums)
    state.add_unread(events, batch.count)
    return True


def stretch_end(open_runs: Mapping[str, OpenRun], batch: Batch, start: int) -> int:
    """Where the stretch that begins with the event at ``start`` ends, at least one on."""
    events, extras = batch.events, batch.extras
    first = events[start]
    if type(first) is not RunEnd or not first.agent_name:
        return start + 1
    name, session_id = first.agent_name, first.session_id
    for index in range(start, len(events)):
        event = events[index]
        if (
            type(event) is not RunEnd
            or event.agent_name != name
            or event.session_id != session_id
            or (extras and index in extras)
            or (open_runs and not _ends_plainly(open_runs.get(event.event_id), event))
        ):
            return max(index, start + 1)
    return len(events)


def _ends_plainly(opened: OpenRun | None, event: RunEnd) -> bool:
    """Whether nothing that is known of the open run is missing in its run.end."""
    if opened is None:
        return True
    start = opened.start
    return not opened.spent.usages and (
        start is None
        or (
            start.ticket_key == event.ticket_key
            and start.model_used == event.model_used
            and start.parent_run_id == event.parent_run_id
            and start.session_id == event.session_id
            and start.cwd == event.cwd
            and start.git_branch == event.git_branch
            and start.host == event.host
        )
    )


def apply_stretch(state: ProjectState, batch: Batch, start: int, end: int) -> bool:
    """Apply plain runs at once. False, with nothing changed, if one is faulty."""
    found = _sum_up(batch, start, end)
    if found is None:
        return False
    sums, runs = found
    if state.open_runs:
        for run_id in sums.run_ids:
            state.open_runs.pop(run_id, None)
    _add(state, sums)
    state.runs.extend(runs)
    return True


def _add(state: ProjectState, sums: Sums) -> None:
    profile = state.own_agent(sums.agent_name)
    session = touch_session(state, sums.session_id, sums.began, sums.ended)
    if session is not None:
        session.name_agent(sums.agent_name)
        for ticket in sums.tickets:
            session.name_ticket(ticket)
    charge(state, profile, session, sums.tally)
    sums.results.add_to(profile)
    add_seconds(state, profile, sums.seconds)
    add_counters(profile, sums.counters)
    touch_agent(profile, sums.ended)
    remember_runs(profile, sums.run_ids[-RECENT_EVENTS_MAX:])


def _sum_up(batch: Batch, start: int, end: int) -> tuple[Sums, list[Run]] | None:
    """What a stretch adds up to, and its runs as they are kept; None if one is faulty."""
    whole = start == 0 and end == len(batch.events)
    part: list[Any] = batch.events if whole else batch.events[start:end]
    run_ids = [run.event_id for run in part]
    if not all(run_ids):
        return None
    first: RunEnd = part[0]
    try:
        tally, runs = _sum_runs(part, batch, start)
        sums = Sums(
            first.agent_name,
            first.session_id,
            run_ids,
            [ticket for ticket in dict.fromkeys([run.ticket_key for run in part]) if ticket],
            tally,
            results_of(part),
            sum([run.duration_seconds for run in part]),
            count_artifacts(list(chain.from_iterable([run.artifacts for run in part]))),
            utc(min([run.started_at for run in part])),
            utc(max([run.ended_at for run in part])),
        )
    except FAULTS:  # something is absent, or of the wrong type
        return None
    return sums, runs


def _sum_runs(part: list[Any], batch: Batch, start: int) -> tuple[Tally, list[Run]]:
    """What the runs carry together, and the runs as they are kept."""
    inputs = [run.input_tokens for run in part]
    outputs = [run.output_tokens for run in part]
    totals = [run.total_tokens for run in part]
    try:
        total = sum(totals)
    except TypeError:  # one is absent; looking for it first would cost as much as the sum
        totals = [total_of(run) for run in part]
        total = sum(totals)
    costs = [run.estimated_cost_usd for run in part]
    runs: list[Run] = part
    unpriced = 0
    try:  # what nanos_of does, over all at once
        nanos = list(map(int, [cost * NANOS + 0.5 for cost in costs]))
    except TypeError:  # likewise
        spent = [
            tally_of(run, batch, index, run_total)
            for index, (run, run_total) in enumerate(zip(part, totals, strict=True), start)
        ]
        nanos = [tally.nanos for tally, _ in spent]
        unpriced = sum([tally.unpriced_usages for tally, _ in spent])
        runs = [
            run if cost is not None else _ended(run, *figures)
            for run, cost, figures in zip(part, costs, spent, strict=True)
        ]
    usages = len(part)
    if not all(totals):
        columns = zip(inputs, outputs, totals, nanos, strict=True)
        usages = sum([1 for counts in columns if any(counts)])
    cache_read = sum([run.cache_read_tokens for run in part])
    cache_write = sum([run.cache_write_tokens for run in part])
    tally = Tally(
        sum(inputs),
        sum(outputs),
        total,
        cache_read,
        cache_write,
        sum(nanos),
        usages,
        unpriced,
    )
    return tally, runs


def _ended(event: Any, spent: Tally, source: str) -> EndedRun:
    """A run without a cost of its own. Without an end it fails, as ``max`` of the ends does."""
    return EndedRun(
        event.event_id,
        event,
        event.agent_name,
        event.session_id,
        utc(event.ended_at),
        None,
        spent,
        source,
        FROM_RUN_END,
        {},
    )
