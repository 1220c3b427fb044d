"""One run of one agent, as a context manager or a decorator.

Everything that is added to a run is summed and travels in its ``run.end``,
so that each token is counted once. Nothing here raises on account of what
it is given, blocks, or touches a disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, cast, get_args

from tallymark.attrs import ATTRS_BYTES_MAX, clean_attrs
from tallymark.context import P, R, current_session, decorate, is_clean_exit, restore
from tallymark.events import (
    ARTIFACTS_MAX,
    COST_USD_MAX,
    ID_CHARS_MAX,
    TOKENS_MAX,
    RunEnd,
    RunStart,
    RunStatus,
)
from tallymark.recording import Recording
from tallymark.texts import clean, describe, one_of
from tallymark.usage import is_count, read_usage

STATUSES: tuple[str, ...] = get_args(RunStatus)

ARTIFACT_CHARS_MAX = 24 * 1024
"""All artifacts of a run together: what is too large is refused, with all its tokens."""

COST_REPORTED = "reported"
"""``cost_source`` of a cost that the agent itself gave."""

_current: ContextVar[Run | None] = ContextVar("tallymark_run", default=None)


def current_run() -> Run | None:
    """The innermost run that is open in this context; None outside of any."""
    return _current.get()


class Run:
    """A run of an agent, open between ``__enter__`` and ``__exit__``.

    Made by ``Client.track_agent``. Works with ``with`` and ``async with``, and
    as a decorator of a function, coroutine function or generator, each call of
    which is then a run (``current_run()`` gives it); a generator's lasts from
    its first step to its last. An exception makes the run an error, with its
    text, and goes on its way.
    """

    def __init__(
        self,
        recording: Recording,
        agent_name: str,
        *,
        ticket_key: str = "",
        model: str = "",
        session_id: str | None = None,
        git_branch: str = "",
        attrs: dict[str, Any] | None = None,
        announce: bool = True,
    ) -> None:
        self._recording = recording
        self._agent_name = clean(agent_name, ID_CHARS_MAX) or "unnamed"
        self._ticket_key = clean(ticket_key)
        self._given_model = clean(model)
        self._given_session = clean(session_id, ID_CHARS_MAX) or None
        self._git_branch = clean(git_branch)
        self._attrs = self._clean_attrs(attrs)
        self._announce = announce
        self._depth = 0
        self._used = False
        self._reset()

    def _reset(self) -> None:
        self.run_id = self._recording.new_id()
        """The run's id; its ``run.end`` has it as ``event_id``."""
        self.session_id = ""
        """The session it belongs to, once it has begun."""
        self._parent_run_id = ""
        self._model = self._given_model
        self._status: str = ""
        self._error = ""
        self._input = self._output = self._cache_read = self._cache_write = 0
        self._cost_usd: float | None = None
        self._artifacts: list[str] = []
        self._artifact_chars = 0

    # What the agent tells.

    def add_tokens(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
    ) -> None:
        """Add to the run's tokens.

        ``input_tokens`` includes those read from and written to a cache, and
        ``output_tokens`` includes reasoning; ``add_usage`` converts what a
        provider's library gives.
        """
        if not self._takes("add_tokens"):
            return
        if not (
            is_count(input_tokens)
            and is_count(output_tokens)
            and is_count(cache_read_tokens)
            and is_count(cache_write_tokens)
        ):
            self._recording.ignore(
                "tokens", "tallymark ignored add_tokens: tokens are whole numbers from 0"
            )
            return
        self._input += int(input_tokens)
        self._output += int(output_tokens)
        if cache_read_tokens or cache_write_tokens:
            self._cache_read += int(cache_read_tokens)
            self._cache_write += int(cache_write_tokens)

    def add_usage(self, response_or_usage: Any) -> None:
        """Add the tokens of a model's response, or of its ``usage``.

        Takes what the libraries of Anthropic, OpenAI and LiteLLM give, as dict
        or object. A run without a model takes the response's.
        """
        if not self._takes("add_usage"):
            return
        counts = read_usage(response_or_usage)
        if counts is None:
            self._recording.ignore(
                "usage",
                "tallymark ignored add_usage: cannot find token counts in "
                f"{type(response_or_usage).__name__}",
            )
            return
        self.add_tokens(
            input_tokens=counts.input_tokens,
            output_tokens=counts.output_tokens,
            cache_read_tokens=counts.cache_read_tokens,
            cache_write_tokens=counts.cache_write_tokens,
        )
        if not self._model:
            self._model = clean(counts.model)

    def add_cost(self, usd: float) -> None:
        """Add to the run's cost in US dollars. Without any the daemon computes it."""
        if not self._takes("add_cost"):
            return
        if not is_dollars(usd):
            self._recording.ignore(
                "cost", f"tallymark ignored add_cost: dollars are 0 to {COST_USD_MAX:g}"
            )
            return
        self._cost_usd = min((self._cost_usd or 0.0) + float(usd), COST_USD_MAX)

    def add_artifact(self, artifact: str) -> None:
        """Add something the run made, as ``kind:value``: ``commit:abc123``, ``pr:#42``."""
        if not self._takes("add_artifact"):
            return
        text = clean(artifact)
        fits = self._artifact_chars + len(text) <= ARTIFACT_CHARS_MAX
        if not text or not fits or len(self._artifacts) >= ARTIFACTS_MAX:
            self._recording.ignore(
                "artifact",
                f"tallymark ignored add_artifact: up to {ARTIFACTS_MAX} texts of "
                f"{ARTIFACT_CHARS_MAX} characters in all are taken",
            )
            return
        self._artifact_chars += len(text)
        self._artifacts.append(text)

    def set_status(self, status: RunStatus) -> None:
        """How the run ended: ``success``, ``error``, ``timeout`` or ``blocked``."""
        if not self._takes("set_status"):
            return
        known = one_of(status, STATUSES)
        if known is None:
            self._recording.ignore(
                "status", f"tallymark ignored set_status: one of {', '.join(STATUSES)} is right"
            )
            return
        self._status = known

    def set_error(self, text: str) -> None:
        """Why the run failed; it is an error, unless ``set_status`` says what else."""
        if self._takes("set_error"):
            self._fail(text)

    def _fail(self, text: str) -> None:
        self._error = clean(text)
        if self._status in ("", "success"):
            self._status = "error"

    def _takes(self, what: str) -> bool:
        """Whether what is told now will be in its ``run.end``."""
        if self._depth:
            if self._recording.incarnation == self._incarnation:
                return True
        elif not self._used:
            return True
        self._recording.ignore(
            "not_open",
            f"tallymark ignored {what}: the run has ended, or was begun before this process forked",
        )
        return False

    def _rename(self, *, agent_name: str, ticket_key: str, model: str) -> None:
        """For ``compat``: its ``run.end`` has other names than it began under."""
        if self._takes("other names"):
            self._agent_name = clean(agent_name, ID_CHARS_MAX) or self._agent_name
            self._ticket_key = clean(ticket_key)
            self._model = clean(model)

    def environment(self) -> dict[str, str]:
        """Variables to add to a child's environment, so that its runs belong to this one."""
        return self._recording.environment_for(self.session_id, self.run_id)

    # Its life.

    def __enter__(self) -> Run:
        self._depth += 1
        if self._depth > 1:
            self._recording.ignore(
                "entered", "tallymark took a run that was entered again while open for one run"
            )
            return self
        if self._used:
            self._reset()
        self._used = True
        recording = self._recording
        parent = _current.get()
        self._incarnation = recording.incarnation
        self._parent_run_id = recording.outer_run_id if parent is None else parent.run_id
        self.session_id = self._given_session or self._session_within(parent)
        self._began = time.perf_counter()
        self._started_at = datetime.now(UTC)
        self._token: Token[Run | None] = _current.set(self)
        self._before = parent
        if self._announce:
            recording.put(self._start_event())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth != 0:
            self._depth = max(self._depth, 0)
            return
        restore(_current, self._token, self._before)
        recording = self._recording
        # A run that was open when its process forked is the parent's to end.
        if recording.incarnation != self._incarnation:
            return
        if error is not None and not is_clean_exit(error):
            self._fail(self._error or describe(error))
        recording.put(self._end_event())

    async def __aenter__(self) -> Run:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate: each call is a run of its own, under the same names."""
        return decorate(self._again, function)

    def _again(self) -> Run:
        return Run(
            self._recording,
            self._agent_name,
            ticket_key=self._ticket_key,
            model=self._given_model,
            session_id=self._given_session,
            git_branch=self._git_branch,
            attrs=self._attrs,
            announce=self._announce,
        )

    def _session_within(self, parent: Run | None) -> str:
        if parent is not None and parent._recording is not self._recording:
            parent = None
        session = current_session.get()
        while session is not None and session.recording is not self._recording:
            session = session.outer
        # The innermost of the two that surround this run.
        if session is not None and (parent is None or session.run is parent):
            return session.session_id
        if parent is not None:
            return parent.session_id
        return self._recording.default_session()

    # Its events.

    def _start_event(self) -> RunStart:
        cwd, host, pid = self._recording.place
        return RunStart(
            event_id=self._recording.new_id(),
            at=self._started_at,
            agent_name=self._agent_name,
            session_id=self.session_id,
            run_id=self.run_id,
            source=self._recording.source,
            attrs=self._attrs,
            parent_run_id=self._parent_run_id,
            ticket_key=self._ticket_key,
            model_used=self._model,
            cwd=cwd,
            git_branch=self._git_branch,
            host=host,
            pid=pid,
        )

    def _end_event(self) -> RunEnd:
        self._check_cache()
        cwd, host, _ = self._recording.place
        seconds = time.perf_counter() - self._began
        # From the duration, so that a clock that is set meanwhile cannot part them.
        ended_at = self._started_at + timedelta(seconds=seconds)
        return RunEnd(
            event_id=self.run_id,
            at=ended_at,
            agent_name=self._agent_name,
            session_id=self.session_id,
            run_id=self.run_id,
            source=self._recording.source,
            attrs=self._attrs,
            parent_run_id=self._parent_run_id,
            ticket_key=self._ticket_key,
            started_at=self._started_at,
            ended_at=ended_at,
            duration_seconds=seconds,
            status=cast(RunStatus, self._status or "success"),
            input_tokens=min(self._input, TOKENS_MAX),
            output_tokens=min(self._output, TOKENS_MAX),
            cache_read_tokens=self._cache_read,
            cache_write_tokens=self._cache_write,
            estimated_cost_usd=self._cost_usd,
            cost_source="" if self._cost_usd is None else COST_REPORTED,
            artifacts=list(self._artifacts),
            error_message=self._error,
            model_used=self._model,
            cwd=cwd,
            git_branch=self._git_branch,
            host=host,
        )

    def _check_cache(self) -> None:
        """The daemon refuses a run with more cached tokens than input: keep the rest of it."""
        if self._cache_read + self._cache_write > min(self._input, TOKENS_MAX):
            self._cache_read = self._cache_write = 0
            self._recording.ignore(
                "cache",
                "tallymark ignored a run's cache tokens: they are more than its input_tokens, "
                "which must include them; add_usage converts what Anthropic gives",
            )

    def _clean_attrs(self, attrs: dict[str, Any] | None) -> dict[str, Any] | None:
        if attrs is None:
            return None
        found = clean_attrs(attrs)
        if found is not None:
            return found
        self._recording.ignore(
            "attrs",
            "tallymark ignored a run's attrs: a dict of plain values with text for keys, up "
            f"to {ATTRS_BYTES_MAX} bytes encoded, is right",
        )
        return None


def is_dollars(value: object) -> bool:
    """Whether a value can be a cost. NaN is none."""
    number = value if isinstance(value, int | float) and type(value) is not bool else -1
    return 0 <= number <= COST_USD_MAX
