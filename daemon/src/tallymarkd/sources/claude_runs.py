"""Runs out of many transcripts: who had each response first, and in which turn.

A resumed or forked session copies history into a new file, whole or in part,
under the old session id or a new one, and one session may stand in two files.
So nothing is decided file by file:

1. Threads are put together by session; a session in two files is one.
2. Sessions are put in order, the original before its copies. A response belongs to
   the first session that has it; what is counted is the copy that goes
   furthest.
3. A turn (prompt to last response) is a run, named by its first response. A
   copied turn has responses in common with the original and joins its run.
4. A response of which more may still be written is *growing*; it, and the run
   it is in, wait for the next import.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from tallymarkd.sources.claude_items import (
    MAIN,
    Item,
    Mark,
    Prompt,
    Response,
    Span,
    Task,
    Thread,
)
from tallymarkd.sources.claude_transcript import Transcript

MAIN_AGENT = "claude-code"
COMPACT_AGENT = "compact"
UNKNOWN_AGENT = "subagent"

INTERRUPTED = "interrupted by a person"
UNANSWERED = "stopped before the agent answered"

_LABELLED = re.compile(r"a([a-z][a-z_-]*)-[0-9a-f]+")
"""An agent id that says what it is: ``acompact-e1f845``."""


class Turn:
    """One prompt and the responses to it, in one thread."""

    def __init__(self, prompted_at: datetime | None = None) -> None:
        self.prompted_at = prompted_at
        self.responses: list[Response] = []
        self.mark = ""

    def add(self, response: Response) -> None:
        """Take in the next response; what was said of the turn before is past."""
        self.responses.append(response)
        self.mark = ""

    @property
    def started_at(self) -> datetime:
        """When it was asked for, or else first answered."""
        return self.prompted_at or self.responses[0].at

    @property
    def ended_at(self) -> datetime:
        """When its last response was complete."""
        return max(response.ended_at for response in self.responses)


class Run:
    """One run of one agent: a turn of the main thread, or a whole subagent."""

    def __init__(self, name: str, thread: Thread) -> None:
        self.name = name
        self.thread = thread
        self.responses: list[str] = []
        self.turns: list[Turn] = []

    @property
    def started_at(self) -> datetime:
        """When the first of its copies began."""
        return min(turn.started_at for turn in self.turns)

    @property
    def last_turn(self) -> Turn:
        """The copy of the turn that goes furthest; the original's, if they are equal."""
        return max(self.turns, key=lambda turn: (turn.ended_at, len(turn.responses)))


class Session:
    """One session, put together from every file that has lines of it."""

    def __init__(self, session_id: str, span: Span) -> None:
        self.session_id = session_id
        self.span = Span(span.first, span.last)
        self.threads: dict[str, list[list[Item]]] = {}
        self.written: set[str] = set()
        self.runs: list[Run] = []
        self.main_runs: list[Run] = []
        self.copies = False

    @property
    def live(self) -> bool:
        """Whether any of its files may still be written."""
        return bool(self.written)

    def extend(self, span: Span) -> None:
        """Take in what another file knows of it."""
        self.span.first = min(self.span.first, span.first)
        self.span.last = max(self.span.last, span.last)
        self.span.cwd = self.span.cwd or span.cwd
        self.span.continues = self.span.continues or span.continues


class History:
    """All sessions, runs and responses of a set of transcripts."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.responses: dict[str, Response] = {}
        self.growing: set[str] = set()
        self.run_of: dict[str, Run] = {}
        self.owner_of: dict[str, Thread] = {}
        self._tasks: dict[str, Task] = {}
        self._spawned: dict[Thread, str] = {}
        self._agent_types: dict[Thread, str] = {}
        self._completed: set[Thread] = set()

    def add(self, found: Transcript, *, live: bool) -> None:
        """Take in one file. ``live`` says that it may still be written."""
        for session_id, span in found.spans.items():
            session = self.sessions.setdefault(session_id, Session(session_id, span))
            session.extend(span)
        for thread, items in found.threads.items():
            session = self.sessions[thread.session]
            session.threads.setdefault(thread.agent, []).append(items)
            for item in items:
                if isinstance(item, Response):
                    known = self.responses.get(item.name)
                    self.responses[item.name] = known.further(item) if known else item
        if live:
            self.growing |= found.growing()
            for thread in found.written_threads():
                self.sessions[thread.session].written.add(thread.agent)
        self._tasks.update(found.tasks)
        for spawned, tool_id in found.spawned.items():
            self._spawned.setdefault(spawned, tool_id)
        for described, agent_type in found.agent_types.items():
            self._agent_types.setdefault(described, agent_type)
        self._completed |= found.completed

    def settle(self) -> None:
        """Decide whose every response is. To be called once, after the last ``add``."""
        for session in self._originals_first():
            for agent in sorted(session.threads, key=lambda agent: (agent != MAIN, agent)):
                items = merge_items(session.threads[agent])
                for turn in split_turns(items) if agent == MAIN else whole_thread(items):
                    self._place(turn, session, agent)
            session.threads.clear()

    def _originals_first(self) -> list[Session]:
        """The sessions, each after those that it continues.

        A copy says whose it is, in newer versions; else it was the later one to
        end. (A silent copy of a session that goes on for longer than the copy, or
        one that has nothing of its own yet, takes what both have. The totals are
        the same.)
        """
        ordered: list[Session] = []
        placed: set[str] = set()
        by_end = sorted(self.sessions.values(), key=lambda one: (one.span.last, one.session_id))
        for session in by_end:
            chain: list[Session] = []
            origin: Session | None = session
            while origin is not None and origin.session_id not in placed:
                placed.add(origin.session_id)
                chain.append(origin)
                origin = self.sessions.get(origin.span.continues)
            ordered += reversed(chain)
        return ordered

    def _place(self, turn: Turn, session: Session, agent: str) -> None:
        turn.responses = [self.responses[response.name] for response in turn.responses]
        run = None
        new: list[Response] = []
        for response in turn.responses:
            known = self.run_of.get(response.name)
            if known is None:
                new.append(response)
            elif run is None and (known.thread.agent == MAIN) == (agent == MAIN):
                run = known
        session.copies = session.copies or len(new) < len(turn.responses)
        if run is None:
            if not new:
                return
            run = Run(new[0].name, Thread(session.session_id, agent))
            session.runs.append(run)
        run.turns.append(turn)
        if agent == MAIN and run not in session.main_runs[-1:]:
            session.main_runs.append(run)
        for response in new:
            self.run_of[response.name] = run
            self.owner_of[response.name] = Thread(session.session_id, agent)
            run.responses.append(response.name)

    def is_finished(self, run: Run) -> bool:
        """Whether the run's end has been written, in every copy of it."""
        return not any(name in self.growing for name in run.responses)

    def agent_name(self, thread: Thread) -> str | None:
        """The agent's name for people; None while it may still become known."""
        if thread.agent == MAIN:
            return MAIN_AGENT
        label = _LABELLED.fullmatch(thread.agent)
        if label and label[1] == COMPACT_AGENT:
            return COMPACT_AGENT
        task = self._tasks.get(self._spawned.get(thread, ""))
        known = self._agent_types.get(thread) or (task.agent_type if task else "")
        if known:
            return known
        if self.sessions[thread.session].live:
            return None
        return label[1].replace("_", "-") if label else UNKNOWN_AGENT

    def parent_of(self, run: Run) -> Run | None:
        """The run that started a subagent. Raises ``LookupError`` when that is
        not decided yet.

        A compaction is not asked for by a tool call: it belongs to the turn
        that was going on.
        """
        if run.thread.agent == MAIN:
            return None
        task = self._tasks.get(self._spawned.get(run.thread, ""))
        if task and (asking := self.run_of.get(task.response)):
            return asking
        earlier = [
            main
            for main in self.sessions[run.thread.session].main_runs
            if main.started_at <= run.started_at
        ]
        if not earlier:
            return None
        latest = max(earlier, key=lambda main: main.started_at)
        if not self.is_finished(latest):
            raise LookupError(latest.name)
        return latest if run.started_at <= latest.last_turn.ended_at else None

    def outcome(self, run: Run) -> tuple[str, str]:
        """The run's status, and what there is to say about it."""
        turn = run.last_turn
        last = turn.responses[-1]
        if last.error:
            return "error", last.error
        if turn.mark == "interrupted":
            return "blocked", INTERRUPTED
        if last.asks_tool and not turn.mark and run.thread not in self._completed:
            return "blocked", UNANSWERED
        return "success", ""


def merge_items(copies: list[list[Item]]) -> list[Item]:
    """The items of one thread out of every file that has some, without repeats."""
    if len(copies) == 1:
        return copies[0]
    merged: list[Item] = []
    seen: set[str] = set()
    for item in sorted((item for items in copies for item in items), key=lambda item: item.at):
        name = item.name if isinstance(item, Response) else getattr(item, "uuid", "")
        if not name or name not in seen:
            merged.append(item)
            seen.add(name)
    return merged


def split_turns(items: Iterable[Item]) -> list[Turn]:
    """The turns of a main thread that had a response.

    A prompt begins one, and so does a response that comes after the line that
    said that the turn had ended.
    """
    turns = [Turn()]
    for item in items:
        turn = turns[-1]
        if isinstance(item, Response):
            if turn.mark == "ended":
                turn = Turn()
                turns.append(turn)
            turn.add(item)
        elif isinstance(item, Prompt):
            if turn.responses:
                turns.append(Turn(item.at))
            else:
                turn.prompted_at = item.at
        elif turn.responses:
            turn.mark = item.kind
    return [turn for turn in turns if turn.responses]


def whole_thread(items: list[Item]) -> list[Turn]:
    """A subagent's thread as one turn."""
    turn = Turn(items[0].at)
    for item in items:
        if isinstance(item, Response):
            turn.add(item)
        elif isinstance(item, Mark):
            turn.mark = item.kind
    return [turn] if turn.responses else []
