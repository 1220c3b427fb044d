"""One line of a Claude Code transcript: decoded only as far as it is needed.

The format is not documented by its maker and changes between versions, so a
line is taken apart in layers: the envelope, then the message, then its usage
and its content blocks. Fields that only describe (branch, version …) may be of
any type; where one is not text it is as if it were absent. Text that is not
needed (prompts, answers, tool output) stays undecoded.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw

from tallymark.events import TEXT_CHARS_MAX

RESPONSE_TOKENS_MAX = 10**10
"""More tokens than any response can have: such a number is not believed."""

NAME_CHARS_MAX = 150
"""Longest id believed; three of them with a prefix fit in ``ID_CHARS_MAX``."""

KNOWN_KINDS = frozenset(
    "user assistant system progress summary attachment file-history-snapshot queue-operation"
    " last-prompt custom-title ai-title agent-name agent-color agent-setting permission-mode"
    " mode tag pr-link task-summary content-replacement attribution-snapshot worktree-state"
    " bridge-session teleported-from cost-state".split()
)
"""Kinds of line that are understood, or known to carry nothing that is counted."""

LABEL_CHARS_MAX = 500
ERROR_CHARS_MAX = 2000
"""Longest branch or model, and longest error: with a path and artifacts of the
greatest length they fit in one event."""

_OUTPUT_TAGS = tuple(
    b'"<' + tag
    for tag in (b"local-command-stdout", b"local-command-stderr", b"local-command-caveat")
    + (b"bash-input", b"bash-stdout", b"bash-stderr")
)
_INTERRUPTED = b'"[Request interrupted by user'
_COMMITTED = re.compile(
    r"^\[(?:detached HEAD|\S+)(?: \(root-commit\))? ([0-9a-f]{7,40})\] ", re.MULTILINE
)
"""What ``git commit`` prints: ``[main 1a2b3c4] subject``."""

_HALF = rb"u[dD][89abAB][0-9a-fA-F]{2}"
_OTHER_HALF = rb"u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPES = re.compile(
    rb"\\(?:%b\\%b|%b|%b|.)" % (_HALF, _OTHER_HALF, _HALF, _OTHER_HALF), re.DOTALL
)
"""Every escape in JSON; half a surrogate pair is the only one of six bytes."""

_NOTHING = Raw(b"null")
_T = TypeVar("_T")


class NotUnderstood(Exception):
    """A line, or a part of it, cannot be used; the text is its kind in the report."""


class Line(msgspec.Struct, rename="camel"):
    """The envelope of a line."""

    type: Any = None
    subtype: Any = None
    uuid: Any = None
    parent_uuid: Any = None
    session_id: Any = None
    agent_id: Any = None
    timestamp: Any = None
    request_id: Any = None
    cwd: Any = None
    git_branch: Any = None
    version: Any = None
    is_sidechain: Any = None
    is_meta: Any = None
    is_compact_summary: Any = None
    is_visible_in_transcript_only: Any = None
    is_api_error_message: Any = None
    forked_from: Any = None
    parent_tool_use_id: Any = msgspec.field(name="parentToolUseID", default=None)
    message: Raw = _NOTHING
    tool_use_result: Raw = _NOTHING
    data: Raw = _NOTHING


class Message(msgspec.Struct):
    """The ``message`` of a user's or an assistant's line."""

    id: Any = None
    model: Any = None
    usage: Raw = _NOTHING
    content: Raw = _NOTHING


class Block(msgspec.Struct):
    """One block of a message's content."""

    type: Any = None
    id: Any = None
    tool_use_id: Any = None
    input: Raw = _NOTHING
    text: Raw = _NOTHING


class ToolResult(msgspec.Struct, rename="camel"):
    """What a tool gave back, beside the message that carries it."""

    agent_id: Any = None
    status: Any = None
    file_path: Any = None
    structured_patch: Raw = _NOTHING
    stdout: Raw = _NOTHING


class _TaskInput(msgspec.Struct):
    subagent_type: Any = None


class _Progress(msgspec.Struct, rename="camel"):
    type: Any = None
    agent_id: Any = None


class _AgentMeta(msgspec.Struct, rename="camel"):
    agent_type: Any = None
    tool_use_id: Any = None


_Count = Annotated[int, Meta(ge=0, le=RESPONSE_TOKENS_MAX)]


class _RawUsage(msgspec.Struct):
    """Usage as Anthropic counts it: ``input_tokens`` leaves the cache out."""

    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None


class TokenCount(msgspec.Struct, frozen=True):
    """Tokens as tallymark counts them: ``input`` includes both kinds of cache."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0

    def __add__(self, other: TokenCount) -> TokenCount:
        return TokenCount(
            self.input + other.input,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.output + other.output,
        )


_line = msgspec.json.Decoder(Line)
_message = msgspec.json.Decoder(Message)
_usage = msgspec.json.Decoder(_RawUsage)
_blocks = msgspec.json.Decoder(list[Block])
_tool_result = msgspec.json.Decoder(ToolResult)
_task_input = msgspec.json.Decoder(_TaskInput)
_progress = msgspec.json.Decoder(_Progress)
_agent_meta = msgspec.json.Decoder(_AgentMeta)
_text = msgspec.json.Decoder(str)

NOT_JSON = "not JSON"

TEARS_TRIED_MAX = 1000
"""Places in a line that is not JSON at which another may begin."""


def decode_line(raw: bytes) -> Line:
    """The envelope. Raises ``NotUnderstood`` with the kind of what is wrong."""
    try:
        return _decode_mending(raw)
    except msgspec.ValidationError:
        raise NotUnderstood("JSON, but not a transcript line") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NotUnderstood(NOT_JSON) from None
    except RecursionError:
        raise NotUnderstood("nested too deeply") from None


def decode_behind_a_tear(raw: bytes) -> Line:
    """The line that was written on behind one that a crash had cut off, without its end.

    Raises ``NotUnderstood`` as ``decode_line`` does when there is none. An object inside
    a line cannot pass for one: what is behind it would have to be nothing.
    """
    at = 0
    for _ in range(TEARS_TRIED_MAX):
        at = raw.find(b'{"', at + 1)
        if at < 0:
            break
        try:
            return decode_line(raw[at:])
        except NotUnderstood:
            continue
    return decode_line(raw)


def _decode_mending(raw: bytes) -> Line:
    """Decode a line, also when some text in it was cut inside a character.

    JavaScript cuts between the halves of a surrogate pair and writes the half
    as an escape, which is not text; that must not cost a response its tokens.
    """
    try:
        return _line.decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        mended = _ESCAPES.sub(_mend, raw)
        if mended == raw:
            raise
        return _line.decode(mended)


def _mend(found: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if len(found[0]) == len(b"\\ud83d") else found[0]


def decode_message(line: Line) -> Message:
    """The line's message. Raises ``NotUnderstood``."""
    return _part(_message, line.message, f"{line.type}: message not understood")


def decode_usage(message: Message) -> TokenCount | None:
    """The usage of a response, or None without any. Raises ``NotUnderstood``."""
    if _is_null(message.usage):
        return None
    found = _part(_usage, message.usage, "assistant: usage not understood")
    if found.input_tokens is None and found.output_tokens is None:
        raise NotUnderstood("assistant: usage not understood")
    read = found.cache_read_input_tokens or 0
    written = found.cache_creation_input_tokens or 0
    return TokenCount(
        input=(found.input_tokens or 0) + read + written,
        cache_read=read,
        cache_write=written,
        output=found.output_tokens or 0,
    )


def decode_blocks(line: Line, message: Message) -> list[Block]:
    """The content's blocks; none when it is plain text. Raises ``NotUnderstood``."""
    if not bytes(message.content).startswith(b"["):
        return []
    return _part(_blocks, message.content, f"{line.type}: content not understood")


def decode_tool_result(line: Line) -> ToolResult | None:
    """What a tool gave back, when it is structured. Raises ``NotUnderstood``."""
    if not bytes(line.tool_use_result).startswith(b"{"):
        return None
    return _part(_tool_result, line.tool_use_result, "user: tool result not understood")


def subagent_type(block: Block) -> str:
    """The type of agent that a tool call asks for, or nothing."""
    if block.type != "tool_use" or b"subagent_type" not in bytes(block.input):
        return ""
    found = _part(_task_input, block.input, "assistant: tool input not understood")
    return name_of(found.subagent_type)


def reported_agent(line: Line) -> str:
    """The id of the subagent whose progress the line reports, or nothing."""
    if b"agent_progress" not in bytes(line.data):
        return ""
    found = _part(_progress, line.data, "progress: data not understood")
    return name_of(found.agent_id) if found.type == "agent_progress" else ""


def decode_agent_meta(raw: bytes) -> tuple[str, str]:
    """A subagent's type and the tool call that began it. Raises ``NotUnderstood``."""
    found = _part(_agent_meta, Raw(raw), "subagent's description not understood")
    return name_of(found.agent_type), name_of(found.tool_use_id)


def is_prompt_text(content: bytes) -> bool:
    """Whether a text (as JSON) is a prompt and not the output of a local command."""
    return not content.startswith(_OUTPUT_TAGS)


def is_interruption(content: bytes) -> bool:
    """Whether a text (as JSON) is the mark of a person having stopped the agent."""
    return content.startswith(_INTERRUPTED)


def commits_in(result: ToolResult) -> list[str]:
    """The commits that a command's output says it made."""
    if b"] " not in bytes(result.stdout):
        return []
    return _COMMITTED.findall(plain_text(result.stdout))


def plain_text(raw: Raw) -> str:
    """A JSON string's text; nothing when it is no text or cannot be decoded."""
    try:
        return _text.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def name_of(value: object) -> str:
    """A field as an identifier: nothing when it is no text, or too long for one."""
    return value if isinstance(value, str) and len(value) <= NAME_CHARS_MAX else ""


def text_of(value: object, chars_max: int = TEXT_CHARS_MAX) -> str:
    """A field as text, cut to a limit; nothing when it is no text."""
    return value[:chars_max] if isinstance(value, str) else ""


def time_of(value: object) -> datetime | None:
    """A field as a time in UTC; one without a zone is UTC already."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _is_null(raw: Raw) -> bool:
    return bytes(raw) == b"null"


def _part(decoder: msgspec.json.Decoder[_T], raw: Raw, kind: str) -> _T:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotUnderstood(kind) from None
