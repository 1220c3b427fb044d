"""``AgentMetricsCollector`` with the signatures of the collector that wrote one JSON file.

A program changes one import and records through the daemon from then on::

    from tallymark.compat import AgentMetricsCollector

What is different, on purpose:

- Nothing is written into ``metrics_dir``. The state is the daemon's, and so is
  the price: a model without a known one is counted as unpriced, where the
  original took another model's.
- Recording neither raises nor waits. ``end_session`` takes any session's id,
  where the original raised for one that this object had not begun.
- A session is known from its start on, not only from its end.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from tallymark.client import Client
from tallymark.context import is_clean_exit
from tallymark.errors import DeliveryError
from tallymark.events import RunStatus, SessionStatus, SessionType
from tallymark.runs import Run
from tallymark.settings import is_disabled
from tallymark.state import DashboardState
from tallymark.texts import describe
from tallymark.usage import is_count

log = logging.getLogger("tallymark")

STATE_SECONDS_MAX = 5.0
"""How long ``get_state`` waits until what was recorded before it is on disk."""

EventCallback = Callable[[dict[str, Any]], object]
TaskCallback = Callable[[str, dict[str, Any]], object]


class AgentTracker:
    """One run, as ``track_agent`` gives it.

    Its attributes may be changed until its end, but for ``event_id``, ``session_id`` and
    ``started_at``, which are recorded as they were.
    """

    def __init__(self, run: Run, agent_name: str, ticket_key: str, model_used: str) -> None:
        self._run = run
        self.event_id = run.run_id
        self.agent_name = agent_name
        self.session_id = run.session_id
        self.ticket_key = ticket_key
        self.model_used = model_used
        self._began = datetime.now(UTC)
        self.started_at = _text(self._began)
        self.input_tokens = 0
        self.output_tokens = 0
        self.artifacts: list[str] = []
        self.file_changes: list[dict[str, Any]] = []
        self.error_message = ""
        self.status: RunStatus = "success"

    def add_tokens(self, input_tokens: int, output_tokens: int) -> None:
        """Add to the run's tokens. What is no count is ignored, and counted as such."""
        if not (is_count(input_tokens) and is_count(output_tokens)):
            self._run.add_tokens(input_tokens=input_tokens, output_tokens=output_tokens)
            return
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def add_artifact(self, artifact: str) -> None:
        """Add something the run made, as in ``commit:abc123``."""
        self.artifacts.append(artifact)

    def add_file_change(
        self,
        path: str,
        change_type: str,
        lines_added: int,
        lines_removed: int,
        language: str,
        diff: str,
    ) -> None:
        """Add a changed file: recorded as the artifact ``file:<change_type>:<path>``.

        Its diff and its lines are only for ``file_changes``; they are not recorded.
        """
        self.file_changes.append(
            {
                "path": path,
                "change_type": change_type,
                "lines_added": lines_added,
                "lines_removed": lines_removed,
                "language": language,
                "diff": diff,
            }
        )

    def set_error(self, error_message: str) -> None:
        """The run failed, and why."""
        self.status = "error"
        self.error_message = error_message

    def finalize(self) -> dict[str, Any]:
        """The run as it is now, in the form of the state's ``events``.

        Its cost is 0: the daemon finds the price.
        """
        now = datetime.now(UTC)
        return {
            "event_id": self.event_id,
            "agent_name": self.agent_name,
            "session_id": self.session_id,
            "ticket_key": self.ticket_key,
            "started_at": self.started_at,
            "ended_at": _text(now),
            "duration_seconds": max(0.0, (now - self._began).total_seconds()),
            "status": self.status,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "estimated_cost_usd": 0.0,
            "artifacts": _listed(self.artifacts),
            "error_message": self.error_message,
            "model_used": self.model_used,
            "file_changes": _listed(self.file_changes),
        }

    def hand_over(self) -> None:
        """Give the run everything that was collected. For ``track_agent``.

        The attributes hold what the program put there: what cannot be used is ignored,
        and counted, alone.
        """
        for part in (self._hand_over_run, self._hand_over_artifacts, self._hand_over_files):
            try:
                part()
            # Its values are the program's: to look at them may fail in any way.
            except Exception as error:  # noqa: BLE001
                self._run._recording.ignore(
                    "tracker",
                    f"tallymark ignored some of an AgentTracker's attributes: {describe(error)}",
                )

    def _hand_over_run(self) -> None:
        run = self._run
        run._rename(agent_name=self.agent_name, ticket_key=self.ticket_key, model=self.model_used)
        run.add_tokens(input_tokens=self.input_tokens, output_tokens=self.output_tokens)
        if self.error_message:
            run.set_error(self.error_message)
        run.set_status(self.status)

    def _hand_over_artifacts(self) -> None:
        for artifact in self.artifacts:
            self._run.add_artifact(artifact)

    def _hand_over_files(self) -> None:
        named = _listed(self.artifacts)
        for each in self.file_changes:
            path = each.get("path")
            file = f"file:{each.get('change_type') or 'changed'}:{path}" if path else ""
            # A program may have named a changed file both ways.
            if file not in named:
                self._run.add_artifact(file)


class AgentMetricsCollector:
    """Records sessions and runs of agents, for one project.

    ``metrics_dir`` is taken, kept, and not used: with a daemon the daemon's
    state is what counts (``tallymark dump`` prints it), and two writers of one
    file are what lost data before. Raises ``SettingError`` for a project's
    name that cannot be one. Threads may share it.
    """

    def __init__(
        self, project_name: str, metrics_dir: str | os.PathLike[str] | None = None
    ) -> None:
        self.project_name = project_name
        self.metrics_dir = metrics_dir
        self._client = Client(project_name, source="tallymark.compat")
        self._tasks: list[TaskCallback] = []
        self._events: list[EventCallback] = []

    def start_session(self, session_type: SessionType = "initializer") -> str:
        """Begin a session; gives its id."""
        return self._client.start_session(session_type)

    def end_session(self, session_id: str, status: SessionStatus = "complete") -> None:
        """End a session."""
        self._client.end_session(session_id, status)

    @contextlib.contextmanager
    def track_agent(
        self,
        agent_name: str,
        ticket_key: str,
        model_used: str,
        session_id: str | None = None,
    ) -> Iterator[AgentTracker]:
        """One run of an agent, recorded at the end of the block.

        An exception makes it an error, with its text, and goes on its way.
        Without ``session_id`` the run has a session of its own, unless this
        process belongs to one (``TALLYMARK_SESSION_ID``).
        """
        own = ""
        if session_id is None and not os.environ.get("TALLYMARK_SESSION_ID"):
            session_id = own = self.start_session("continuation")
        run = self._client.track_agent(agent_name, ticket_key, model_used, session_id)
        try:
            with run:
                tracker = AgentTracker(run, agent_name, ticket_key, model_used)
                with self._collecting(tracker):
                    yield tracker
        finally:
            self._tell(tracker)
            if own:
                self.end_session(own)

    @contextlib.contextmanager
    def _collecting(self, tracker: AgentTracker) -> Iterator[None]:
        self._tell_task("task_started", tracker)
        try:
            yield
        except BaseException as error:
            if not is_clean_exit(error):
                tracker.set_error(_said(error))
            raise
        finally:
            tracker.hand_over()

    def get_state(self) -> dict[str, Any]:
        """The project's state, as plain values, with everything recorded so far.

        Waits for the disk up to 5 s. Raises ``DeliveryError`` when the daemon
        cannot be asked; a project that nothing is known of has an empty state.
        """
        if not is_disabled(os.environ):
            self._client.flush(STATE_SECONDS_MAX)
            try:
                return _plain(self._client.dump())
            except DeliveryError:
                if any(each["project"] == self.project_name for each in self._client.projects()):
                    raise
        now = datetime.now(UTC)
        return _plain(
            DashboardState(project_name=self.project_name, created_at=now, updated_at=now)
        )

    # Callbacks.

    def subscribe(self, callback: TaskCallback) -> None:
        """Have it called as ``(kind, event)``: task_started, task_completed or task_failed."""
        if callback not in self._tasks:
            self._tasks.append(callback)

    def unsubscribe(self, callback: TaskCallback) -> None:
        """Undo ``subscribe``."""
        if callback in self._tasks:
            self._tasks.remove(callback)

    def register_event_callback(self, callback: EventCallback) -> None:
        """Have it called with each run that has ended."""
        if callback not in self._events:
            self._events.append(callback)

    def unregister_event_callback(self, callback: EventCallback) -> None:
        """Undo ``register_event_callback``."""
        if callback in self._events:
            self._events.remove(callback)

    def _tell(self, tracker: AgentTracker) -> None:
        for callback in list(self._events):
            with _guarded():
                callback(tracker.finalize())
        with _guarded():
            kind = "task_completed" if tracker.status == "success" else "task_failed"
            self._tell_task(kind, tracker)

    def _tell_task(self, kind: str, tracker: AgentTracker) -> None:
        for callback in list(self._tasks):
            with _guarded():
                callback(kind, tracker.finalize())


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    try:
        yield
    # It is the program's own code and values, and recording must go on.
    except Exception:
        log.exception("a callback of AgentMetricsCollector failed")


def _listed(values: Any) -> list[Any]:
    """A list of its own, of what should be one and may be anything."""
    return list(values) if isinstance(values, list | tuple) else []


def _said(error: BaseException) -> str:
    """The exception's text, as the original recorded it; its type where it has none, or a
    text that means nothing by itself."""
    try:
        text = str(error) if isinstance(error, Exception) else ""
    # Its __str__ is foreign code.
    except Exception:  # noqa: BLE001
        text = ""
    return text or describe(error)


def _plain(state: DashboardState) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(state)
    return found


def _text(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
