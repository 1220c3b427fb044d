"""The options of ``emit``: one for every field of an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from tallymark.events import EVENT_TYPES, RunStatus, SessionStatus, SessionType

F = TypeVar("F", bound=Callable[..., object])


def any_of(words: Any) -> str:
    """The words of a ``Literal``, for a sentence."""
    *others, last = get_args(words)
    return f"{', '.join(others)} or {last}"


SHORT_NAMES = {
    "agent_name": "agent",
    "artifacts": "artifact",
    "attrs": "attr",
    "error_message": "error",
    "estimated_cost_usd": "cost-usd",
    "model_used": "model",
    "ticket_key": "ticket",
}
"""Fields whose option is not spelled like them."""

HELP = {
    "agent_name": "The agent. A run needs one.",
    "artifacts": "kind:value, as in commit:abc123. Can be repeated.",
    "at": "When, as in 2026-01-02T03:04:05Z.  [default: now]",
    "attrs": "Anything else. Can be repeated.",
    "cache_read_tokens": "How many of the tokens read came from a cache.",
    "cache_write_tokens": "How many of the tokens read went to a cache.",
    "cost_source": "Where the cost comes from.",
    "cwd": "Working directory.",
    "dedupe_key": "Names the thing counted: a second event with it changes nothing.",
    "duration_seconds": "How long it took.  [default: from --started-at to --ended-at]",
    "ended_at": "When the run ended, as in 2026-01-02T03:04:05Z.",
    "error_message": "What went wrong.",
    "estimated_cost_usd": "What it cost.  [default: by the model's price]",
    "event_id": "Names this event.  [default: a new id]",
    "git_branch": "The branch it worked on.",
    "host": "The machine it ran on.",
    "input_tokens": "Tokens read, with those from and to a cache.",
    "model_used": "The model, as its maker names it.",
    "output_tokens": "Tokens written, with reasoning.",
    "parent_run_id": "The run that started this one.  [default: TALLYMARK_PARENT_RUN_ID]",
    "pid": "The process.",
    "run_id": "The run it belongs to.",
    "session_id": "The session it belongs to; the event of a session needs one.  "
    "[default: TALLYMARK_SESSION_ID]",
    "source": "The program that observed it.",
    "started_at": "When the run started, as in 2026-01-02T03:04:05Z.",
    "status": f"Of a run {any_of(RunStatus)}; of a session {any_of(SessionStatus)}.",
    "session_type": f"{any_of(SessionType)}.",
    "ticket_key": "What it worked on, as in AI-46.",
    "total_tokens": "The sum of input and output, if it is not that.",
}

METAVARS = {
    "artifacts": "ARTIFACT",
    "at": "TIME",
    "attrs": "KEY=VALUE",
    "cwd": "PATH",
    "ended_at": "TIME",
    "error_message": "TEXT",
    "model_used": "MODEL",
    "started_at": "TIME",
    "ticket_key": "TICKET",
}
"""Where the field's last word does not say it."""


def field_names() -> list[str]:
    """Every field of any event that has an option of its own."""
    names = {name: None for kind in EVENT_TYPES.values() for name in kind.__struct_fields__}
    return [name for name in names if name != "project"]


def option_name(field: str) -> str:
    """The option of a field."""
    return "--" + SHORT_NAMES.get(field, field).replace("_", "-")


def event_options(function: F) -> F:
    """Add --type and an option for every field of an event."""
    for name in reversed(field_names()):
        several = name in ("artifacts", "attrs")
        function = click.option(
            name,
            option_name(name),
            multiple=several,
            default=() if several else None,
            metavar=METAVARS.get(name, name.rpartition("_")[2].upper()),
            help=HELP[name],
        )(function)
    return click.option(
        "kind", "--type", type=click.Choice(list(EVENT_TYPES)), help="What happened."
    )(function)
