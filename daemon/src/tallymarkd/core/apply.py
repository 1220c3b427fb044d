"""``apply``: what a batch of events does to the state of its project.

Pure and total. Times come from the events and their batch; there is no clock,
no randomness, no I/O. An event that cannot be applied is counted in
``state.apply_failures`` and skipped, and as nothing is decided here that is
not in the batch, replay counts and skips the same.

Each token is counted once:

- a ``usage`` adds at once to its agent, its session and the project;
- a run with usages takes its tokens and cost from them, and what its
  ``run.end`` carries is not added; a run without takes them from it;
- a usage that comes after its run's end takes back what the ``run.end`` had
  added, if the run is among the newest 500, and counts in its place.
"""

from __future__ import annotations

from msgspec import structs

from tallymark.events import RunEnd, RunStart, SessionEnd, SessionStart, Usage
from tallymark.state import AgentProfile, FinishedRun
from tallymarkd.core.artifacts import add_counters, count_artifacts
from tallymarkd.core.charges import (
    FAULTS,
    add_seconds,
    charge,
    joined,
    name_in,
    remember_runs,
    taken_by,
    tally_of,
    time_of,
    touch_agent,
    touch_session,
)
from tallymarkd.core.entry import Batch, OtherEvent, Verdict
from tallymarkd.core.plain import plain_dict
from tallymarkd.core.project_state import (
    OpenRun,
    ProjectState,
    empty,
    freeze,
    snapshot,
)
from tallymarkd.core.runs import (
    FROM_RUN_END,
    FROM_USAGES,
    EndedRun,
    Tally,
    finished_run,
    give_figures,
    seconds_of,
    total_of,
    utc,
)
from tallymarkd.core.stretch import apply_condensed, apply_stretch, stretch_end

__all__ = ["UNKNOWN_AGENT", "ProjectState", "apply", "empty", "freeze", "snapshot"]

UNKNOWN_AGENT = "unknown"
"""Who is charged for what names no agent, so that the agents add up to the project."""

STRETCH_MIN = 3
"""Fewer plain runs than this are applied one by one."""

_NOT_OPEN = OpenRun()
_NO_START = RunStart()


def apply(state: ProjectState, batch: Batch, lsn: int) -> None:
    """Change ``state`` by a batch whose first event has the number ``lsn``.

    LSNs begin at 1. A batch that the state has seen already, by its LSN,
    changes nothing.
    """
    last_lsn = lsn + batch.count - 1
    if last_lsn <= state.applied_lsn:
        return
    if not apply_condensed(state, batch):
        _apply_spans(state, batch)
    state.evict()
    received_at = utc(batch.received_at)
    state.board.updated_at = max(state.board.updated_at, received_at)
    state.applied_lsn = last_lsn


def _apply_spans(state: ProjectState, batch: Batch) -> None:
    index = 0
    while index < batch.count:
        end = stretch_end(state.open_runs, batch, index)
        _apply_span(state, batch, index, end)
        index = end


def _apply_span(state: ProjectState, batch: Batch, start: int, end: int) -> None:
    """Apply what may be plain runs together; what is not plain is found by halving."""
    if end - start < STRETCH_MIN:
        for index in range(start, end):
            try:
                _apply_one(state, batch, index)
            except FAULTS:
                state.apply_failures += 1
    elif not apply_stretch(state, batch, start, end):
        middle = (start + end) // 2
        _apply_span(state, batch, start, middle)
        _apply_span(state, batch, middle, end)


def _apply_one(state: ProjectState, batch: Batch, index: int) -> None:
    event = batch.events[index]
    if event is None:
        if not batch.verdicts or batch.verdicts[index] == Verdict.STORED:
            raise ValueError("a stored event does not decode")
        return
    if isinstance(event, OtherEvent):
        state.board.other_events += 1
    elif isinstance(event, RunEnd):
        _end_run(state, batch, index, event)
    elif isinstance(event, Usage):
        _use(state, batch, index, event)
    elif isinstance(event, RunStart):
        _start_run(state, batch, index, event)
    elif isinstance(event, SessionStart):
        _start_session(state, batch, event)
    else:
        _end_session(state, batch, event)


def _end_run(state: ProjectState, batch: Batch, index: int, event: RunEnd) -> None:
    run_id = event.event_id or event.run_id or batch.ids.get(index, "")
    opened = state.open_runs.get(run_id, _NOT_OPEN)
    start = opened.start or _NO_START
    if opened.spent.usages:
        spent, source, tokens_from = opened.spent, opened.cost_source, FROM_USAGES
    else:
        spent, source = tally_of(event, batch, index, total_of(event))
        tokens_from = FROM_RUN_END
    ended = time_of(event, batch)
    began = utc(event.started_at or start.at or ended)
    seconds = seconds_of(event, event.started_at or start.at, ended)
    counters = count_artifacts(event.artifacts)
    run = EndedRun(
        run_id,
        event,
        event.agent_name or opened.agent_name or UNKNOWN_AGENT,
        event.session_id or opened.session_id,
        ended,
        opened.start,
        spent,
        source,
        tokens_from,
        batch.extras.get(index, {}),
    )
    state.open_runs.pop(run_id, None)
    state.runs.append(run)
    profile = state.own_agent(run.agent_name)
    session = touch_session(state, run.session_id, began, ended)
    name_in(session, run.agent_name, event.ticket_key or start.ticket_key)
    if tokens_from == FROM_RUN_END:
        charge(state, profile, session, spent)
    _count_result(profile, event)
    add_seconds(state, profile, seconds)
    add_counters(profile, counters)
    touch_agent(profile, ended)
    remember_runs(profile, [run_id])


def _use(state: ProjectState, batch: Batch, index: int, event: Usage) -> None:
    tally, source = tally_of(event, batch, index, event.input_tokens + event.output_tokens)
    time = time_of(event, batch)
    run_id = event.run_id
    opened = state.open_runs.get(run_id) if run_id else None
    place = state.find_run(run_id) if run_id and opened is None else None
    known: OpenRun | FinishedRun = opened or _NOT_OPEN
    if place is not None:
        known = finished_run(state.runs[place])
    name = event.agent_name or known.agent_name or UNKNOWN_AGENT
    session_id = event.session_id or known.session_id
    if isinstance(known, FinishedRun) and place is not None:
        state.runs[place] = _use_late(state, known, tally, source)
    elif run_id and isinstance(known, OpenRun):
        state.open_runs[run_id] = OpenRun(
            known.agent_name or event.agent_name,
            known.session_id or session_id,
            known.start,
            known.spent.plus(tally),
            joined(known.cost_source, source) if known.spent.usages else source,
        )
    profile = state.own_agent(name)
    session = touch_session(state, session_id, time, time)
    name_in(session, name, "")
    charge(state, profile, session, tally)
    touch_agent(profile, time)


def _use_late(state: ProjectState, run: FinishedRun, tally: Tally, source: str) -> FinishedRun:
    """The finished run with a usage that came after its end."""
    taken = taken_by(run)
    found = structs.replace(run)
    if run.tokens_from == FROM_RUN_END:
        session = state.sessions.get(run.session_id)
        charge(state, state.own_agent(run.agent_name), session, taken, -1)
        give_figures(found, tally, source, FROM_USAGES)
    else:
        source = joined(run.cost_source, source)
        give_figures(found, taken.plus(tally), source, FROM_USAGES)
    return found


def _start_run(state: ProjectState, batch: Batch, index: int, event: RunStart) -> None:
    run_id = event.run_id or event.event_id or batch.ids.get(index, "")
    time = time_of(event, batch)
    start = event
    if event.attrs or event.at is not time:
        attrs = plain_dict(event.attrs) if event.attrs else None
        start = structs.replace(event, at=time, attrs=attrs)
    opened = state.open_runs.get(run_id, _NOT_OPEN)
    name = event.agent_name or opened.agent_name or UNKNOWN_AGENT
    session_id = event.session_id or opened.session_id
    if run_id and state.find_run(run_id) is None:
        state.open_runs[run_id] = OpenRun(name, session_id, start, opened.spent, opened.cost_source)
    touch_agent(state.own_agent(name), time)
    session = touch_session(state, session_id, time, time)
    name_in(session, name, event.ticket_key)


def _start_session(state: ProjectState, batch: Batch, event: SessionStart) -> None:
    if not event.session_id:
        raise ValueError("a session.start names no session")
    time = time_of(event, batch)
    session = touch_session(state, event.session_id, time, time)
    if session is None:
        return
    summary = session.summary
    if event.session_type is not None:
        summary.session_type = event.session_type
    if summary.status != "continue" and (summary.ended_at is None or time > summary.ended_at):
        summary.status = "continue"
        summary.ended_at = time


def _end_session(state: ProjectState, batch: Batch, event: SessionEnd) -> None:
    if not event.session_id:
        raise ValueError("a session.end names no session")
    time = time_of(event, batch)
    session = touch_session(state, event.session_id, time, time)
    if session is not None:
        session.summary.status = event.status
        session.summary.ended_at = time


def _count_result(profile: AgentProfile, run: RunEnd) -> None:
    profile.total_invocations += 1
    if run.status == "success":
        profile.successful_invocations += 1
        profile.current_streak += 1
        profile.best_streak = max(profile.best_streak, profile.current_streak)
    else:
        profile.failed_invocations += 1
        profile.current_streak = 0
        profile.last_error = run.error_message or run.status
