"""One transcript file, reduced to its prompts, responses and marks.

Lines are read one at a time and nothing of their text is kept. A subagent has
a file of its own, or in older versions stands inside the main file. Within a
file the last line of a response is its final one: the usage of earlier lines
is partial.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from tallymarkd.sources import claude_lines as lines
from tallymarkd.sources.claude_items import (
    MAIN,
    Faults,
    Item,
    Mark,
    Prompt,
    Response,
    Span,
    Task,
    Thread,
    join_artifacts,
)
from tallymarkd.sources.claude_lines import Line, NotUnderstood

LINE_BYTES_MAX = 64 * 1024 * 1024
"""A longer line is skipped and counted; it would have to be held in memory."""

META_BYTES_MAX = 64 * 1024
PATH_CHARS_MAX = 4000
"""A longer path is left out of the artifacts: cut, it would be another file's."""

PROGRESS_BYTES = 1024 * 1024


class Transcript:
    """What one file says. ``lines`` counts all that were read, understood or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self.threads: dict[Thread, list[Item]] = {}
        self.spans: dict[str, Span] = {}
        self.tasks: dict[str, Task] = {}
        self.spawned: dict[Thread, str] = {}
        self.agent_types: dict[Thread, str] = {}
        self.completed: set[Thread] = set()
        self.last_item: dict[str, tuple[Thread, Item]] = {}
        self.partial_line = False

    def growing(self) -> set[str]:
        """Names of responses of which more may be written, when the file still is."""
        return {item.name for _, item in self.last_item.values() if isinstance(item, Response)}

    def written_threads(self) -> set[Thread]:
        """The threads that are being written, when the file still is."""
        return {thread for thread, _ in self.last_item.values()}


def read_transcript(
    path: Path, faults: Faults, on_progress: Callable[[int], None] | None = None
) -> Transcript:
    """Read one file. Raises ``OSError``; whatever stands in the file raises nothing."""
    reader = _Reader(path, faults)
    with path.open("rb") as file:
        for raw in _raw_lines(file, on_progress or _no_progress):
            reader.feed(raw)
    reader.read_description()
    return reader.found


def _raw_lines(file: BinaryIO, on_progress: Callable[[int], None]) -> Iterator[bytes | None]:
    """Each line; None for one that is too long."""
    unreported = 0
    while raw := file.readline(LINE_BYTES_MAX):
        unreported += len(raw)
        if len(raw) < LINE_BYTES_MAX or raw.endswith(b"\n"):
            yield raw
        else:
            while (rest := file.readline(LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
                unreported += len(rest)
            unreported += len(rest)
            yield None
        if unreported >= PROGRESS_BYTES:
            on_progress(unreported)
            unreported = 0
    on_progress(unreported)


class _Reader:
    """Feeds on the lines of one file."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self.found = Transcript(path)
        self._faults = faults
        self._responses: dict[str, Response] = {}
        self._roots: dict[str, str] = {}
        self._file_agent = _agent_of_path(path)
        self._session = _session_of_path(path)
        self._at: datetime | None = None

    def feed(self, raw: bytes | None) -> None:
        """Take one line in, or count it as not understood."""
        self.found.lines += 1
        if raw is not None and not raw.strip():
            return
        try:
            if raw is None:
                raise NotUnderstood(f"longer than {LINE_BYTES_MAX // 1024 // 1024} MiB")
            self._take(self._line(raw))
        except NotUnderstood as fault:
            if raw is not None and not raw.endswith(b"\n") and str(fault) == lines.NOT_JSON:
                self.found.partial_line = True
            else:
                self._count(str(fault))

    def _line(self, raw: bytes) -> Line:
        try:
            return lines.decode_line(raw)
        except NotUnderstood as fault:
            if str(fault) != lines.NOT_JSON:
                raise
        line = lines.decode_behind_a_tear(raw)
        self._count(lines.NOT_JSON)
        return line

    def read_description(self) -> None:
        """Take in what stands beside a subagent's file about it."""
        path = self.found.path.with_suffix(".meta.json")
        if not self._file_agent or not path.is_file():
            return
        try:
            with path.open("rb") as file:
                raw = file.read(META_BYTES_MAX)
            agent_type, tool_id = lines.decode_agent_meta(raw)
        except OSError as error:
            self._count(f"subagent's description not readable: {error.strerror}")
            return
        except NotUnderstood as fault:
            self._count(str(fault))
            return
        for thread in self.found.threads:
            if thread.agent == self._file_agent:
                if agent_type:
                    self.found.agent_types.setdefault(thread, agent_type)
                if tool_id:
                    self.found.spawned.setdefault(thread, tool_id)

    def _count(self, kind: str) -> None:
        self._faults.add(kind, self.found.path, self.found.lines)

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Give up a part of a line, not the line."""
        try:
            yield
        except NotUnderstood as fault:
            self._count(str(fault))

    def _take(self, line: Line) -> None:
        kind = line.type
        if not isinstance(kind, str) or kind not in lines.KNOWN_KINDS:
            label = kind[:60] if isinstance(kind, str) and kind else "(none)"
            raise NotUnderstood(f"unknown kind of line: {label}")
        at = lines.time_of(line.timestamp)
        thread = self._thread_of(line)
        if at is not None:
            self._at = at
            self._extend_span(line, at)
        if kind == "assistant":
            self._take_response(line, thread, self._now())
        elif kind == "user":
            self._take_user(line, thread, self._now())
        elif kind == "system":
            self._take_system(line, thread)
        elif kind == "progress":
            with self._counting():
                self._link(line.parent_tool_use_id, lines.reported_agent(line))

    def _now(self) -> datetime:
        if self._at is None:
            raise NotUnderstood("no time on the line or before it")
        return self._at

    def _thread_of(self, line: Line) -> Thread:
        self._session = lines.name_of(line.session_id) or self._session
        agent = lines.name_of(line.agent_id) or self._file_agent
        if not agent and line.is_sidechain is True:
            agent = self._root_of(line)
        return Thread(self._session, agent)

    def _root_of(self, line: Line) -> str:
        """The first line of a subagent that is written into the main file."""
        uuid = lines.name_of(line.uuid)
        root = self._roots.get(lines.name_of(line.parent_uuid), uuid)
        self._roots[uuid] = root
        return f"sidechain:{root}"

    def _extend_span(self, line: Line, at: datetime) -> None:
        span = self.found.spans.get(self._session)
        if span is None:
            # Lines of another session before these are the history that was resumed.
            before = next(reversed(self.found.spans), "")
            span = self.found.spans[self._session] = Span(at, at, continues=before)
        span.first = min(span.first, at)
        span.last = max(span.last, at)
        span.cwd = span.cwd or lines.text_of(line.cwd)
        if isinstance(line.forked_from, dict):
            span.continues = lines.name_of(line.forked_from.get("sessionId"))

    def _take_system(self, line: Line, thread: Thread) -> None:
        if line.subtype == "turn_duration" and thread.agent == MAIN:
            self._append(thread, Mark(at=self._now(), kind="ended"))
        elif line.subtype == "stop_hook_summary":
            self._append(thread, Mark(at=self._now(), kind="stopped"))

    def _take_user(self, line: Line, thread: Thread, at: datetime) -> None:
        message = lines.decode_message(line)
        content = bytes(message.content)
        if content.startswith(b"["):
            blocks = lines.decode_blocks(line, message)
            results = [block for block in blocks if block.type == "tool_result"]
            if results:
                self._take_tool_result(line, thread, lines.name_of(results[0].tool_use_id))
                return
            texts = [bytes(block.text) for block in blocks if block.type == "text"]
            content = texts[0] if texts else b'""'
        if lines.is_interruption(content):
            self._append(thread, Mark(at=at, kind="interrupted"))
        elif _begins_turn(line) and lines.is_prompt_text(content):
            self._append(thread, Prompt(at=at, uuid=lines.name_of(line.uuid)))

    def _take_tool_result(self, line: Line, thread: Thread, tool_id: str) -> None:
        with self._counting():
            result = lines.decode_tool_result(line)
            if result is None:
                return
            agent = lines.name_of(result.agent_id)
            self._link(tool_id, agent)
            if agent and result.status == "completed":
                self.found.completed.add(Thread(self._session, agent))
            self._add_artifacts(thread, lines.text_of(line.cwd), result)

    def _link(self, tool_id: object, agent: str) -> None:
        tool = lines.name_of(tool_id)
        if tool and agent:
            self.found.spawned.setdefault(Thread(self._session, agent), tool)

    def _add_artifacts(self, thread: Thread, cwd: str, result: lines.ToolResult) -> None:
        last = self._last_response(thread)
        if last is None:
            return
        made = [f"commit:{commit}" for commit in lines.commits_in(result)]
        path = result.file_path
        if (
            isinstance(path, str)
            and len(path) < PATH_CHARS_MAX
            and bytes(result.structured_patch).startswith(b"[")
        ):
            made.append(f"file:{_relative(path, cwd)}")
        last.artifacts = join_artifacts(last.artifacts, made)

    def _last_response(self, thread: Thread) -> Response | None:
        for item in reversed(self.found.threads.get(thread, ())):
            if isinstance(item, Response):
                return item
        return None

    def _take_response(self, line: Line, thread: Thread, at: datetime) -> None:
        message = lines.decode_message(line)
        is_error = line.is_api_error_message is True
        if message.model == "<synthetic>" and not is_error:
            raise NotUnderstood("assistant: written by Claude Code itself, not by a model")
        message_id = lines.name_of(message.id) or (lines.name_of(line.uuid) if is_error else "")
        if not message_id:
            raise NotUnderstood("assistant: no message id")
        response = self._response(line, thread, at, message_id)
        response.ended_at = max(response.ended_at, at)
        if not is_error:
            response.model = lines.text_of(message.model, lines.LABEL_CHARS_MAX) or response.model
            with self._counting():
                response.tokens = lines.decode_usage(message) or response.tokens
        with self._counting():
            blocks = lines.decode_blocks(line, message)
            if is_error:
                response.error = _error_text(blocks)
            else:
                self._take_tools(blocks, response)

    def _response(self, line: Line, thread: Thread, at: datetime, message_id: str) -> Response:
        """The response that the line belongs to, begun when this is its first line."""
        request_id = lines.name_of(line.request_id)
        name = f"{message_id}:{request_id}" if request_id else message_id
        response = self._responses.get(name)
        if response is None:
            response = Response(
                name=name,
                request_id=request_id,
                at=at,
                ended_at=at,
                model="",
                cwd=lines.text_of(line.cwd),
                git_branch=lines.text_of(line.git_branch, lines.LABEL_CHARS_MAX),
                version=lines.name_of(line.version),
            )
            self._responses[name] = response
            self._append(thread, response)
        return response

    def _take_tools(self, blocks: list[lines.Block], response: Response) -> None:
        for block in blocks:
            if block.type == "tool_use":
                response.asks_tool = True
                tool_id = lines.name_of(block.id)
                if tool_id and (agent_type := lines.subagent_type(block)):
                    self.found.tasks[tool_id] = Task(agent_type, response.name)

    def _append(self, thread: Thread, item: Item) -> None:
        self.found.threads.setdefault(thread, []).append(item)
        self.found.spans.setdefault(thread.session, Span(item.at, item.at))
        before = self.found.last_item.get(thread.agent)
        # A prompt or an interruption says that a response is over only once
        # the next one is there: the two are written by different hands.
        is_end = isinstance(item, Mark) and item.kind == "ended"
        if isinstance(item, Response) or before is None or is_end:
            self.found.last_item[thread.agent] = (thread, item)
        else:
            self.found.last_item[thread.agent] = (thread, before[1])


def _begins_turn(line: Line) -> bool:
    return not (line.is_meta or line.is_compact_summary or line.is_visible_in_transcript_only)


def _error_text(blocks: list[lines.Block]) -> str:
    texts = (lines.plain_text(block.text) for block in blocks if block.type == "text")
    return lines.text_of(next(texts, ""), lines.ERROR_CHARS_MAX) or "the model could not be reached"


def _agent_of_path(path: Path) -> str:
    name = path.stem
    return lines.name_of(name.removeprefix("agent-")) if name.startswith("agent-") else ""


def _session_of_path(path: Path) -> str:
    """The session by where its file stands, for lines that do not name it."""
    if path.parent.name == "subagents":
        return lines.name_of(path.parent.parent.name) or "unknown"
    return lines.name_of(path.stem) or "unknown"


def _relative(path: str, cwd: str) -> str:
    return path.removeprefix(cwd.rstrip("/") + "/") if cwd else path


def _no_progress(_count: int) -> None:
    """Nobody watches."""
