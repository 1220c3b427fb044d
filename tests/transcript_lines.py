"""What made-up transcripts consist of: lines, sound and broken, and what is true of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from tallymarkd.sources.claude_lines import TokenCount

MODELS = ("claude-opus-4-6", "claude-sonnet-4-5-20250929")
AGENT_TYPES = ("Explore", "Plan", "code-reviewer")

SYNTHETIC = "assistant: written by Claude Code itself, not by a model"
BROKEN: tuple[tuple[str, bytes], ...] = (
    ("not JSON", b'{"type":"assistant","message":{"id":"msg_cut'),
    ("not JSON", b"\x00\x00\x00\x00"),
    ("not JSON", b'{"type":"\xff\xfe"}'),
    ("JSON, but not a transcript line", b"[1, 2, 3]"),
    ("nested too deeply", b'{"type":"user","message":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("unknown kind of line: hologram", b'{"type":"hologram","message":{"usage":7}}'),
    ("unknown kind of line: (none)", b'{"kind":"user"}'),
    ("unknown kind of line: (none)", b'{"type":{"type":"assistant"}}'),
    ("assistant: message not understood", b'{"type":"assistant","message":"text"}'),
    ("assistant: no message id", b'{"type":"assistant","message":{"usage":{"input_tokens":5}}}'),
    ("assistant: message not understood", b'{"type":"assistant"}'),
    ("user: message not understood", b'{"type":"user","message":[]}'),
    ("user: content not understood", b'{"type":"user","message":{"content":[null]}}'),
)
"""Broken lines with what an import calls them."""

BROKEN_USAGE: tuple[Any, ...] = (
    {"input_tokens": "12", "output_tokens": 3},
    {"input_tokens": 1, "output_tokens": -40},
    {"input_tokens": 1, "output_tokens": 10**15},
    {"input_tokens": 1.5, "output_tokens": 1},
    {"output_tokens": None},
    [],
    "many",
)


class Written(NamedTuple):
    """One line of a file and when it was written."""

    at: datetime
    raw: bytes


class RunTruth(NamedTuple):
    """A run as it was."""

    agent: str
    session: str
    status: str
    parent: str
    started_at: datetime
    ended_at: datetime


@dataclass
class Truth:
    """What is true of a world: each response and run by its name."""

    responses: dict[str, tuple[str, str, TokenCount]] = field(default_factory=dict)
    runs: dict[str, RunTruth] = field(default_factory=dict)
    session_cwd: dict[str, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)

    def tokens(self) -> TokenCount:
        """Of everything."""
        return sum((tokens for _, _, tokens in self.responses.values()), TokenCount())

    def by_session(self) -> dict[str, TokenCount]:
        """Of each session in which a model answered."""
        return self._grouped(0)

    def by_agent(self) -> dict[str, TokenCount]:
        """Of each agent."""
        return self._grouped(1)

    def _grouped(self, index: int) -> dict[str, TokenCount]:
        found: dict[str, TokenCount] = {}
        for entry in self.responses.values():
            name = str(entry[index])
            found[name] = found.get(name, TokenCount()) + entry[2]
        return found


def user(content: Any) -> dict[str, Any]:
    """A line that carries what a user, or a tool, says."""
    return {"type": "user", "message": {"role": "user", "content": content}}


def tool_result(tool_id: str, result: dict[str, Any] | None = None) -> dict[str, Any]:
    """A line that carries the result of one tool call."""
    block = {"type": "tool_result", "tool_use_id": tool_id}
    return {**user([block]), "toolUseResult": result or {"stdout": "done", "stderr": ""}}


def assistant(message_id: str, request_id: str, model: str, usage: Any) -> dict[str, Any]:
    """One line of a model response, still without content."""
    message = {"id": message_id, "role": "assistant", "model": model, "usage": usage, "content": []}
    line: dict[str, Any] = {"type": "assistant", "message": message}
    if request_id:
        line["requestId"] = request_id
    return line
