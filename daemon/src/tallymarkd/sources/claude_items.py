"""What a transcript is reduced to: prompts, responses and marks, by thread.

A *thread* is one line of work in a session: the main one, or a subagent.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from tallymark.events import ARTIFACTS_MAX
from tallymarkd.sources.claude_lines import TokenCount

ARTIFACTS_BYTES_MAX = 24 * 1024
"""Most artifact text of one response or run, so that its event stays well below 64 KiB."""

MAIN = ""
"""The agent id of a main thread."""


class Thread(NamedTuple):
    """A main thread (``agent`` is empty) or a subagent of a session."""

    session: str
    agent: str


class Prompt(msgspec.Struct):
    """What a person, or a notification, asked for: a turn begins."""

    at: datetime
    uuid: str


class Mark(msgspec.Struct):
    """What was written about a turn: a person ``interrupted`` it, the agent
    ``stopped`` by itself (it may be told to go on), or it has ``ended``."""

    at: datetime
    kind: Literal["interrupted", "stopped", "ended"]


class Response(msgspec.Struct, kw_only=True):
    """One model response, or one API error in its place (``error`` has its text)."""

    name: str
    request_id: str
    at: datetime
    ended_at: datetime
    model: str
    tokens: TokenCount | None = None
    asks_tool: bool = False
    error: str = ""
    cwd: str = ""
    git_branch: str = ""
    version: str = ""
    artifacts: list[str] = []

    def further(self, other: Response) -> Response:
        """This response as two copies of it show it: the one that goes further,
        with what was made by either."""
        ahead, behind = (other, self) if other._reach() > self._reach() else (self, other)
        ahead.artifacts = join_artifacts(ahead.artifacts, behind.artifacts)
        return ahead

    def _reach(self) -> tuple[int, datetime]:
        return (self.tokens.output if self.tokens else -1, self.ended_at)


Item = Prompt | Mark | Response


class Span(msgspec.Struct):
    """What is known of a session from one file, or from all."""

    first: datetime
    last: datetime
    cwd: str = ""
    continues: str = ""


class Task(NamedTuple):
    """A tool call that begins a subagent: the type asked for, the response that asks."""

    agent_type: str
    response: str


class Faults:
    """Lines not understood: how many of each kind, and where the first one is."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, str] = {}

    def add(self, kind: str, path: Path, number: int) -> None:
        """Count one."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, f"{path}:{number}")


def join_artifacts(have: list[str], more: list[str]) -> list[str]:
    """Both without repeats, in order, cut where they would make an event too large."""
    joined = list(dict.fromkeys(have + more))
    size = 0
    for index, artifact in enumerate(joined):
        size += len(artifact.encode("utf-8", "replace")) + 5
        if size > ARTIFACTS_BYTES_MAX or index >= ARTIFACTS_MAX:
            return joined[:index]
    return joined
