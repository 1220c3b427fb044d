"""Questions to the daemon: its health, its projects, the state of one.

Each is a short conversation of its own, in the calling thread. They raise as
``transport.ask`` does, and ``DeliveryError`` with the daemon's own words when
it cannot answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tallymark.errors import DeliveryError, ProtocolError
from tallymark.names import ASK_TIMEOUT_SECONDS, CLIENT_NAME
from tallymark.protocol.messages import Health, HealthReport, Query, Reply
from tallymark.state import DashboardState
from tallymark.transport import Answer, Question, ask

_projects = msgspec.json.Decoder(list[dict[str, Any]])
_state = msgspec.json.Decoder(DashboardState)


def ask_health(
    paths: Sequence[Path], *, deep: bool = False, timeout_seconds: float = ASK_TIMEOUT_SECONDS
) -> HealthReport:
    """How the daemon is. ``deep`` has it write a probe through its whole commit path."""
    answer = _ask_one(paths, Health(id=1, deep=deep), timeout_seconds)
    if not isinstance(answer, HealthReport):
        raise ProtocolError("cannot read the daemon's health: it sent another answer")
    return answer


def ask_projects(
    paths: Sequence[Path], *, timeout_seconds: float = ASK_TIMEOUT_SECONDS
) -> list[dict[str, Any]]:
    """Every project the daemon keeps, as it describes them."""
    body = _ask_for_body(paths, Query(id=1, what="projects"), timeout_seconds)
    return _decode(_projects, body, "list of projects")


def ask_state(
    paths: Sequence[Path], project: str, *, timeout_seconds: float = ASK_TIMEOUT_SECONDS
) -> DashboardState:
    """The durable state of one project."""
    body = _ask_for_body(paths, Query(id=1, what="state", project=project), timeout_seconds)
    return _decode(_state, body, "state")


def _ask_one(paths: Sequence[Path], question: Question, timeout_seconds: float) -> Answer:
    return ask(paths, [question], timeout_seconds, client=CLIENT_NAME)[0]


def _ask_for_body(paths: Sequence[Path], question: Query, timeout_seconds: float) -> bytes:
    answer = _ask_one(paths, question, timeout_seconds)
    if not isinstance(answer, Reply):
        raise ProtocolError(f"cannot read the daemon's {question.what}: it sent another answer")
    if answer.error:
        raise DeliveryError(f"cannot read {question.what} from tallymarkd: {answer.error}")
    return answer.body


T = TypeVar("T")


def _decode(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"cannot read the daemon's {what}: {error}") from None
