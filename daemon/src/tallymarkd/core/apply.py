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

from datetime import datetime
from itertools import chain, pairwise
from typing import Any

from msgspec import UNSET, structs

from tallymark.events import Event, RunEnd, RunStart, SessionEnd, SessionStart, Usage
from tallymark.state import (
    RECENT_EVENTS_MAX,
    SESSIONS_MAX,
    AgentProfile,
    FinishedRun,
    SessionSummary,
)
from tallymarkd.core.entry import Batch, OtherEvent, Verdict
from tallymarkd.core.plain import plain_dict
from tallymarkd.core.project_state import (
    FROM_RUN_END,
    FROM_USAGES,
    KNOWN_SESSIONS_MAX,
    NANOS,
    NOTHING,
    EndedRun,
    LiveSession,
    OpenRun,
    ProjectState,
    Run,
    Tally,
    drop_oldest,
    empty,
    finished_run,
    freeze,
    give_figures,
    nanos_of,
    seconds_of,
    snapshot,
    total_of,
    utc,
)

__all__ = ["UNKNOWN_AGENT", "ProjectState", "apply", "empty", "freeze", "snapshot"]

UNKNOWN_AGENT = "unknown"
"""Who is charged for what names no agent, so that the agents add up to the project."""

STRETCH_MIN = 3
"""Fewer plain runs than this are applied one by one."""

ARTIFACTS_FEW = 8
"""More artifacts than this are counted in one text."""

MIXED_SOURCES = "mixed"
"""The ``cost_source`` of a run whose usages were priced in different ways."""

NOT_OPEN = OpenRun()
_NO_START = RunStart()

_FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What an event can cause. A lack of memory is no property of an event."""

_COUNTERS = {
    "commit": "commits_made",
    "test": "tests_written",
    "message": "messages_sent",
    "slack": "messages_sent",
    "review": "reviews_completed",
}
_SPLIT_COUNTERS = {
    "file": ("created:", "files_created", "files_modified"),
    "pr": ("merged:", "prs_merged", "prs_created"),
    "issue": ("completed:", "issues_completed", "issues_created"),
}
_SEPARATOR = "\0"


def apply(state: ProjectState, batch: Batch, lsn: int) -> None:
    """Change ``state`` by a batch whose first event has the number ``lsn``.

    LSNs begin at 1. A batch that the state has seen already, by its LSN,
    changes nothing.
    """
    last_lsn = lsn + len(batch.events) - 1
    if last_lsn <= state.applied_lsn:
        return
    index = 0
    while index < len(batch.events):
        end = _stretch_end(state, batch, index)
        _apply_span(state, batch, index, end)
        index = end
    state.evict()
    received_at = utc(batch.received_at)
    state.board.updated_at = max(state.board.updated_at, received_at)
    state.applied_lsn = last_lsn


def _apply_span(state: ProjectState, batch: Batch, start: int, end: int) -> None:
    """Apply what may be plain runs together; what is not plain is found by halving."""
    if end - start < STRETCH_MIN:
        for index in range(start, end):
            try:
                _apply_one(state, batch, index)
            except _FAULTS:
                state.apply_failures += 1
    elif not _apply_stretch(state, batch, start, end):
        middle = (start + end) // 2
        _apply_span(state, batch, start, middle)
        _apply_span(state, batch, middle, end)


# A stretch: consecutive runs of one agent in one session, each with its id, times
# and duration. Summed column by column it takes a fraction of the time that
# ``_end_run`` takes for each; it must do exactly the same.


def _stretch_end(state: ProjectState, batch: Batch, start: int) -> int:
    """Where the stretch that begins with the event at ``start`` ends, at least one on."""
    events, open_runs, extras = batch.events, state.open_runs, getattr(batch, "extras", {})
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
    return opened.spent is NOTHING and (
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


def _apply_stretch(state: ProjectState, batch: Batch, start: int, end: int) -> bool:
    """Apply plain runs at once. False, with nothing changed, if one is faulty."""
    part: list[Any] = batch.events[start:end]
    run_ids = [run.event_id for run in part]
    if not all(run_ids):
        return False
    try:
        tally, runs = _sum_runs(part, batch, start)
        seconds = sum([run.duration_seconds for run in part])
        began = utc(min([run.started_at for run in part]))
        ended = utc(max([run.ended_at for run in part]))
        counters = _count_artifacts(list(chain.from_iterable([run.artifacts for run in part])))
    except _FAULTS:  # something is absent, or of the wrong type
        return False
    if state.open_runs:
        for run_id in run_ids:
            state.open_runs.pop(run_id, None)
    first: RunEnd = part[0]
    profile = state.own_agent(first.agent_name)
    session = _touch_session(state, first.session_id, began, ended)
    if session is not None:
        session.name_agent(first.agent_name)
        for ticket in dict.fromkeys([run.ticket_key for run in part]):
            if ticket:
                session.name_ticket(ticket)
    _charge(state, profile, session, tally)
    _count_results(profile, part)
    _add_seconds(state, profile, seconds)
    _add_counters(profile, counters)
    _touch_agent(profile, ended)
    _remember_runs(profile, run_ids[-RECENT_EVENTS_MAX:])
    state.runs += runs
    return True


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
            _tally_of(run, batch, index, run_total)
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


def _ended(event: RunEnd, spent: Tally, source: str) -> EndedRun:
    assert event.ended_at is not None
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


def _count_results(profile: AgentProfile, part: list[RunEnd]) -> None:
    statuses = [run.status for run in part]
    count = len(statuses)
    wins = statuses.count("success")
    profile.total_invocations += count
    profile.successful_invocations += wins
    streak = profile.current_streak
    if wins < count:
        profile.failed_invocations += count - wins
        failed = [index for index, status in enumerate(statuses) if status != "success"]
        longest = max([b - a for a, b in pairwise([-1 - streak, *failed])]) - 1
        profile.best_streak = max(profile.best_streak, longest)
        profile.last_error = part[failed[-1]].error_message or statuses[failed[-1]]
        profile.current_streak = count - 1 - failed[-1]
    else:
        profile.current_streak = streak + count
    profile.best_streak = max(profile.best_streak, profile.current_streak)


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


# One event at a time.


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
    opened = state.open_runs.get(run_id, NOT_OPEN)
    start = opened.start or _NO_START
    if opened.spent.usages:
        spent, source, tokens_from = opened.spent, opened.cost_source, FROM_USAGES
    else:
        spent, source = _tally_of(event, batch, index, total_of(event))
        tokens_from = FROM_RUN_END
    ended = _time_of(event, batch)
    began = utc(event.started_at or start.at or ended)
    seconds = seconds_of(event, event.started_at or start.at, ended)
    counters = _count_artifacts(event.artifacts)
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
        getattr(batch, "extras", {}).get(index, {}),
    )
    state.open_runs.pop(run_id, None)
    state.runs.append(run)
    profile = state.own_agent(run.agent_name)
    session = _touch_session(state, run.session_id, began, ended)
    _name_in(session, run.agent_name, event.ticket_key or start.ticket_key)
    if tokens_from == FROM_RUN_END:
        _charge(state, profile, session, spent)
    _count_result(profile, event)
    _add_seconds(state, profile, seconds)
    _add_counters(profile, counters)
    _touch_agent(profile, ended)
    _remember_runs(profile, [run_id])


def _use(state: ProjectState, batch: Batch, index: int, event: Usage) -> None:
    tally, source = _tally_of(event, batch, index, event.input_tokens + event.output_tokens)
    time = _time_of(event, batch)
    run_id = event.run_id
    opened = state.open_runs.get(run_id) if run_id else None
    place = state.find_run(run_id) if run_id and opened is None else None
    known: OpenRun | FinishedRun = opened or NOT_OPEN
    if place is not None:
        known = finished_run(state.runs[place])
    name = event.agent_name or known.agent_name or UNKNOWN_AGENT
    session_id = event.session_id or known.session_id
    if isinstance(known, FinishedRun) and place is not None:
        state.runs[place] = _use_late(state, known, tally, source)
    elif run_id and isinstance(known, OpenRun):
        state.open_runs[run_id] = OpenRun(
            known.agent_name or name,
            known.session_id or session_id,
            known.start,
            known.spent.plus(tally),
            _joined(known.cost_source, source) if known.spent.usages else source,
        )
    profile = state.own_agent(name)
    session = _touch_session(state, session_id, time, time)
    _name_in(session, name, "")
    _charge(state, profile, session, tally)
    _touch_agent(profile, time)


def _use_late(state: ProjectState, run: FinishedRun, tally: Tally, source: str) -> FinishedRun:
    """The finished run with a usage that came after its end."""
    taken = _taken(run)
    found = structs.replace(run)
    if run.tokens_from == FROM_RUN_END:
        session = state.sessions.get(run.session_id)
        _charge(state, state.own_agent(run.agent_name), session, taken, -1)
        give_figures(found, tally, source, FROM_USAGES)
    else:
        joined = _joined(run.cost_source, source)
        give_figures(found, taken.plus(tally), joined, FROM_USAGES)
    return found


def _start_run(state: ProjectState, batch: Batch, index: int, event: RunStart) -> None:
    run_id = event.run_id or event.event_id or batch.ids.get(index, "")
    time = _time_of(event, batch)
    start = event
    if event.attrs or event.at is not time:
        attrs = plain_dict(event.attrs) if event.attrs else None
        start = structs.replace(event, at=time, attrs=attrs)
    opened = state.open_runs.get(run_id, NOT_OPEN)
    name = event.agent_name or opened.agent_name or UNKNOWN_AGENT
    session_id = event.session_id or opened.session_id
    if run_id and state.find_run(run_id) is None:
        state.open_runs[run_id] = OpenRun(name, session_id, start, opened.spent, opened.cost_source)
    _touch_agent(state.own_agent(name), time)
    session = _touch_session(state, session_id, time, time)
    _name_in(session, name, event.ticket_key)


def _start_session(state: ProjectState, batch: Batch, event: SessionStart) -> None:
    if not event.session_id:
        raise ValueError("a session.start names no session")
    time = _time_of(event, batch)
    session = _touch_session(state, event.session_id, time, time)
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
    time = _time_of(event, batch)
    session = _touch_session(state, event.session_id, time, time)
    if session is not None:
        session.summary.status = event.status
        session.summary.ended_at = time


# What events have in common.


def _time_of(event: Event, batch: Batch) -> datetime:
    ended = event.ended_at if isinstance(event, RunEnd) else None
    return utc(ended or event.at or batch.received_at)


def _tally_of(event: Usage | RunEnd, batch: Batch, index: int, total: int) -> tuple[Tally, str]:
    """What the event carries, and where its cost is from: the event, else admission."""
    given, made = event.input_tokens, event.output_tokens
    nanos, source, unpriced = 0, event.cost_source, 0
    if event.estimated_cost_usd is not None:
        nanos = nanos_of(event.estimated_cost_usd)
    elif index in batch.costs:
        cost = batch.costs[index]
        nanos, source = cost.nanos, cost.source
    elif given or made or total:
        unpriced = 1
    counts = 1 if isinstance(event, Usage) or given or made or total or nanos else 0
    tally = Tally(
        given,
        made,
        total,
        event.cache_read_tokens,
        event.cache_write_tokens,
        nanos,
        counts,
        unpriced,
    )
    return tally, source


def _taken(run: FinishedRun) -> Tally:
    """What a finished run that had no usages has added."""
    nanos = nanos_of(run.estimated_cost_usd)
    return Tally(
        run.input_tokens,
        run.output_tokens,
        run.total_tokens,
        run.cache_read_tokens,
        run.cache_write_tokens,
        nanos,
        1 if run.input_tokens or run.output_tokens or run.total_tokens or nanos else 0,
        run.unpriced_usages,
    )


def _joined(source: str, other: str) -> str:
    return source if source == other else MIXED_SOURCES


def _charge(
    state: ProjectState,
    profile: AgentProfile,
    session: LiveSession | None,
    tally: Tally,
    sign: int = 1,
) -> None:
    """Add to agent, session and project, or with ``sign`` -1 take back from them."""
    tally.add_to(profile, sign)
    tally.add_to(state.board, sign)
    state.board.usages += sign * tally.usages
    if session is not None:
        tally.add_to(session.summary, sign)


def _add_seconds(state: ProjectState, profile: AgentProfile, seconds: float) -> None:
    profile.total_duration_seconds += seconds
    state.board.total_duration_seconds += seconds


def _touch_agent(profile: AgentProfile, time: datetime) -> None:
    if profile.last_active is None or profile.last_active < time:
        profile.last_active = time


def _remember_runs(profile: AgentProfile, run_ids: list[str]) -> None:
    recent = profile.recent_events
    recent += run_ids
    if len(recent) > RECENT_EVENTS_MAX:
        del recent[:-RECENT_EVENTS_MAX]


def _touch_session(
    state: ProjectState, session_id: str, began: datetime, latest: datetime
) -> LiveSession | None:
    """The session, begun if it is new; None without an id or when its summary is gone."""
    session = state.sessions.get(session_id)
    if session is None:
        if not session_id or session_id in state.known_sessions:
            return None
        session = _new_session(state, session_id)
    summary = session.summary
    if summary.started_at is None or began < summary.started_at:
        summary.started_at = began
    if summary.status == "continue" and (summary.ended_at is None or summary.ended_at < latest):
        summary.ended_at = latest
    return session


def _name_in(session: LiveSession | None, agent_name: str, ticket: str) -> None:
    if session is not None:
        session.name_agent(agent_name)
        if ticket:
            session.name_ticket(ticket)


def _new_session(state: ProjectState, session_id: str) -> LiveSession:
    first = state.board.total_sessions == 0
    state.board.total_sessions += 1
    session = LiveSession(
        SessionSummary(
            session_id=session_id,
            session_number=state.board.total_sessions,
            session_type="initializer" if first else "continuation",
        )
    )
    state.sessions[session_id] = session
    state.known_sessions[session_id] = None
    drop_oldest(state.sessions, SESSIONS_MAX)
    drop_oldest(state.known_sessions, KNOWN_SESSIONS_MAX)
    return session


def _count_artifacts(artifacts: list[str]) -> dict[str, int]:
    """How much each counter of the profile grows."""
    if len(artifacts) > ARTIFACTS_FEW:
        text = _SEPARATOR + _SEPARATOR.join(artifacts)
        if text.count(_SEPARATOR) == len(artifacts):
            return _count_in_text(text, len(artifacts))
    found: dict[str, int] = {}
    for artifact in artifacts:
        kind, colon, value = artifact.partition(":")
        if not colon:
            continue
        counter = _COUNTERS.get(kind)
        if kind in _SPLIT_COUNTERS:
            sort, of_sort, other = _SPLIT_COUNTERS[kind]
            counter = of_sort if value.startswith(sort) else other
        if counter is not None:
            found[counter] = found.get(counter, 0) + 1
    return found


def _count_in_text(text: str, left: int) -> dict[str, int]:
    """The same for ``left`` artifacts in one text, each after a separator: far quicker."""
    found: dict[str, int] = {}
    for kind, (sort, of_sort, other) in _SPLIT_COUNTERS.items():
        count = text.count(f"{_SEPARATOR}{kind}:")
        if count:
            found[of_sort] = text.count(f"{_SEPARATOR}{kind}:{sort}")
            found[other] = count - found[of_sort]
            left -= count
    for kind, counter in _COUNTERS.items():
        if not left:
            break
        count = text.count(f"{_SEPARATOR}{kind}:")
        if count:
            found[counter] = found.get(counter, 0) + count
            left -= count
    return found


def _add_counters(profile: AgentProfile, counters: dict[str, int]) -> None:
    for name, count in counters.items():
        setattr(profile, name, getattr(profile, name) + count)
