"""Claude Code transcripts as events.

What becomes what:

- a model response → one ``usage``, from its final line;
- a turn of the main thread (prompt to last response) → one ``run.end`` of the
  agent ``claude-code``; a subagent's transcript → one of its type;
- a session in which a model answered → ``session.start``, and ``session.end``
  once none of its files may still grow: one that was not touched for an hour, or
  has no line of the last day, does not.

A run is ``error`` when its last response was an API error, ``blocked`` when a
person interrupted it or when it stopped while it still asked for a tool, and
else ``success``. A session ends like its last run of the main thread:
``error``, ``continue`` when that was blocked, else ``complete``.

Ids and dedupe keys are made from ids in the transcript alone, so every import
gives the same ones, and a response or run that was given before is a duplicate.
As a key counts once for ever, what may still grow is never given: it waits.
An import of a resumed session's file alone cannot see what its original knows;
give the directory that has both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, cast

from tallymark.events import (
    DURATION_SECONDS_MAX,
    TOKENS_MAX,
    Event,
    RunEnd,
    RunStatus,
    SessionEnd,
    SessionStart,
    Usage,
)
from tallymarkd.sources.claude_files import modified_at
from tallymarkd.sources.claude_items import MAIN, Faults, Thread, join_artifacts
from tallymarkd.sources.claude_lines import NOT_JSON, TokenCount
from tallymarkd.sources.claude_report import ImportReport, SessionReport
from tallymarkd.sources.claude_runs import History, Run, Session
from tallymarkd.sources.claude_transcript import Transcript, read_transcript

SOURCE = "claude-code"
UNKNOWN_PROJECT = "unknown"
IDLE_SECONDS = 3600.0
"""A file that was not touched for so long is finished."""

COPIED_SECONDS = 24 * 3600.0
"""A file with no line younger than this is finished, whenever it was touched.

A line has the time at which it was written: such a file was copied, restored or
checked out, and is not being written."""


def read_transcripts(
    paths: Sequence[Path],
    *,
    now: datetime,
    project: str | None = None,
    project_of: Callable[[str], str],
    modified: Callable[[Path], float] = modified_at,
    idle_seconds: float = IDLE_SECONDS,
    on_progress: Callable[[int], None] | None = None,
) -> ImportPlan:
    """Read transcripts and decide what to import.

    ``project`` is the project of everything; without it ``project_of`` is asked
    for the project of each session's first working directory. ``on_progress`` is
    called with the number of bytes read since it was called last. What cannot be
    read or understood is in the plan's report; nothing in a file raises.
    """
    history = History()
    faults = Faults()
    report = ImportReport(faults=faults)
    for path in _subagents_last(paths):
        try:
            found = read_transcript(path, faults, on_progress)
            # Taken after reading, so that a line written meanwhile is noticed.
            live = _may_grow(found, now, modified(path), idle_seconds)
        except OSError as error:
            report.unreadable[str(path)] = error.strerror or str(error)
            continue
        if found.partial_line and not live:
            faults.add(NOT_JSON, path, found.lines)
        report.files += 1
        report.lines += found.lines
        history.add(found, live=live)
    history.settle()
    return ImportPlan(history, report, project=project, project_of=project_of)


def _may_grow(found: Transcript, now: datetime, touched: float, idle_seconds: float) -> bool:
    newest = max((span.last for span in found.spans.values()), default=now)
    copied = (now - newest).total_seconds() >= COPIED_SECONDS
    return now.timestamp() - touched < idle_seconds and not copied


class ImportPlan:
    """What an import gives: the events, and a report of them. Can be iterated again."""

    def __init__(
        self,
        history: History,
        report: ImportReport,
        *,
        project: str | None,
        project_of: Callable[[str], str],
    ) -> None:
        self.report = report
        self._history = history
        self._project = project
        self._project_of = project_of
        self._projects: dict[str, str] = {}
        self._plans = self._plan()
        report.sessions = [plan.report for plan in self._plans]

    @property
    def projects(self) -> list[str]:
        """The projects that events are for."""
        return sorted({plan.report.project for plan in self._plans})

    def events(self) -> Iterator[tuple[str, Event]]:
        """Each event with its project: by project, then by session, each in order of time."""
        for plan in self._plans:
            for event in plan.events():
                yield plan.report.project, event

    def _plan(self) -> list[_SessionPlan]:
        by_session: dict[str, list[str]] = {}
        for name, owner in self._history.owner_of.items():
            by_session.setdefault(owner.session, []).append(name)
        plans = [
            _SessionPlan(self._history, session, by_session[session_id], self._name(session))
            for session_id, session in self._history.sessions.items()
            if session_id in by_session
        ]
        self.report.sessions_unanswered = len(self._history.sessions) - len(plans)
        return sorted(
            plans,
            key=lambda plan: (plan.report.project, plan.report.started_at, plan.session_id),
        )

    def _name(self, session: Session) -> str:
        """A session belongs to one project, with its subagents and worktrees."""
        if self._project:
            return self._project
        cwd = session.span.cwd
        if not cwd:
            return UNKNOWN_PROJECT
        if cwd not in self._projects:
            self._projects[cwd] = self._project_of(cwd) or UNKNOWN_PROJECT
        return self._projects[cwd]


class _SessionPlan:
    """What one session gives. Decided when made; the events are built on demand."""

    def __init__(self, history: History, session: Session, names: list[str], project: str) -> None:
        self._history = history
        self._session = session
        self.session_id = session.session_id
        self._responses: list[str] = []
        self._runs: list[tuple[Run, str]] = []
        started = session.span.first
        if session.copies:
            answered = (history.responses[name].at for name in names)
            began = (run.started_at for run in session.runs)
            started = min(began, default=None) or min(answered)
        self.report = SessionReport(
            session_id=session.session_id,
            project=project,
            started_at=started,
            ended_at=session.span.last,
            live=session.live,
        )
        for name in names:
            self._decide_response(name)
        for run in session.runs:
            self._decide_run(run)

    def events(self) -> Iterator[Event]:
        """Start, what happened in order of time, end."""
        yield self._start()
        within: list[Usage | RunEnd] = [self._usage(name) for name in self._responses]
        within += [self._run_end(run, parent) for run, parent in self._runs]
        yield from sorted(within, key=_order)
        if not self._session.live:
            yield self._end()

    def _decide_response(self, name: str) -> None:
        history = self._history
        tokens = history.responses[name].tokens
        agent = history.agent_name(history.owner_of[name])
        if tokens is None:
            if not history.responses[name].error:
                self.report.responses_without_usage += 1
        elif name in history.growing or agent is None:
            self.report.responses_waiting += 1
        else:
            self._responses.append(name)
            self.report.add_response(agent, tokens)

    def _decide_run(self, run: Run) -> None:
        agent = self._history.agent_name(run.thread)
        try:
            parent = self._history.parent_of(run)
        except LookupError:
            agent = None
        if agent is None or not self._history.is_finished(run):
            self.report.runs_waiting += 1
            return
        self._runs.append((run, run_id(parent) if parent else ""))
        self.report.add_run(agent, self._history.outcome(run)[0])

    def _usage(self, name: str) -> Usage:
        response = self._history.responses[name]
        owner = self._history.owner_of[name]
        tokens = response.tokens or TokenCount()
        key = f"anthropic:{name}"
        return Usage(
            event_id=key,
            dedupe_key=key,
            at=response.ended_at,
            agent_name=self._history.agent_name(owner) or "",
            session_id=self.session_id,
            run_id=run_id(self._history.run_of[name]),
            source=SOURCE,
            attrs=_attrs(owner, request_id=response.request_id, version=response.version),
            model_used=response.model,
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cache_read_tokens=tokens.cache_read,
            cache_write_tokens=tokens.cache_write,
        )

    def _run_end(self, run: Run, parent: str) -> RunEnd:
        responses = [self._history.responses[name] for name in run.responses]
        tokens = sum((found.tokens for found in responses if found.tokens), TokenCount())
        artifacts: list[str] = []
        for response in responses:
            artifacts = join_artifacts(artifacts, response.artifacts)
        status, said = self._history.outcome(run)
        ended = run.last_turn.ended_at
        seconds = max(0.0, (ended - run.started_at).total_seconds())
        key = run_id(run)
        return RunEnd(
            event_id=key,
            dedupe_key=key,
            run_id=key,
            at=ended,
            agent_name=self._history.agent_name(run.thread) or "",
            session_id=self.session_id,
            parent_run_id=parent,
            source=SOURCE,
            attrs=_attrs(run.thread, version=responses[-1].version),
            started_at=run.started_at,
            ended_at=ended,
            duration_seconds=min(seconds, DURATION_SECONDS_MAX),
            status=cast("RunStatus", status),
            input_tokens=min(tokens.input, TOKENS_MAX),
            output_tokens=min(tokens.output, TOKENS_MAX),
            cache_read_tokens=min(tokens.cache_read, TOKENS_MAX),
            cache_write_tokens=min(tokens.cache_write, TOKENS_MAX),
            artifacts=artifacts,
            error_message=said,
            model_used=next((found.model for found in reversed(responses) if found.model), ""),
            cwd=responses[0].cwd,
            git_branch=responses[0].git_branch,
        )

    def _start(self) -> SessionStart:
        resumed = self._session.copies or self._session.span.continues
        key = f"{SOURCE}:session:{self.session_id}:start"
        return SessionStart(
            event_id=key,
            dedupe_key=key,
            at=self.report.started_at,
            session_id=self.session_id,
            source=SOURCE,
            session_type="continuation" if resumed else "initializer",
        )

    def _end(self) -> SessionEnd:
        last = self.report.ended_at
        key = f"{SOURCE}:session:{self.session_id}:end:{last.isoformat()}"
        return SessionEnd(
            event_id=key,
            dedupe_key=key,
            at=last,
            session_id=self.session_id,
            source=SOURCE,
            status=self._status(),
        )

    def _status(self) -> Literal["continue", "error", "complete"]:
        main = [run for run in self._session.main_runs if run.thread.agent == MAIN]
        if not main:
            return "complete"
        status, _ = self._history.outcome(max(main, key=lambda run: run.last_turn.ended_at))
        if status == "error":
            return "error"
        return "continue" if status == "blocked" else "complete"


def run_id(run: Run) -> str:
    """A run's id, its event's id and its dedupe key: by its first response."""
    return f"{SOURCE}:run:{run.name}"


def _order(event: Usage | RunEnd) -> tuple[datetime, bool, str]:
    """By time; what a run used before its end."""
    assert event.at is not None
    return (event.at, isinstance(event, RunEnd), event.event_id)


def _attrs(thread: Thread, **more: str) -> dict[str, str] | None:
    """What people do not need: ids and versions."""
    found = {"agent_id": thread.agent, **more}
    return {name: value for name, value in found.items() if value} or None


def _subagents_last(paths: Sequence[Path]) -> list[Path]:
    """A session's main file names its working directory before its subagents do."""
    return sorted(set(paths), key=lambda path: (path.name.startswith("agent-"), path))
