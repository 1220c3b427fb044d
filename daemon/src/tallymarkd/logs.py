"""Logging to stderr: text for people and journald, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from tallymarkd.text import one_line

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
_CRITICAL = 2


def set_up_logging(
    level: str, style: str, *, env: Mapping[str, str], stream: TextIO | None = None
) -> None:
    """Send everything from ``level`` on to ``stream`` (stderr), replacing other handlers.

    ``style`` is ``text`` or ``json``. Text has no time of its own when the
    stream is journald's, which adds it.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    elif is_journal(stream, env):
        handler.setFormatter(JournalFormatter())
    else:
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def is_journal(stream: TextIO, env: Mapping[str, str]) -> bool:
    """Whether the stream is journald's.

    JOURNAL_STREAM is inherited by children whose stderr may be elsewhere.
    """
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return env.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def last_word(text: str, *, env: Mapping[str, str]) -> str:
    """A line for stderr from who cannot log yet, with its priority where journald reads."""
    return f"<{_CRITICAL}>{text}" if is_journal(sys.stderr, env) else text


class TextFormatter(logging.Formatter):
    """``2026-01-02T03:04:05.678Z warning tallymarkd.server: message``."""

    def format(self, record: logging.LogRecord) -> str:
        time = _time(record)
        return f"{time} {record.levelname.lower()} {record.name}: {self._rest(record)}"

    def _rest(self, record: logging.LogRecord) -> str:
        text = one_line(record.getMessage())
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class JournalFormatter(TextFormatter):
    """``<4>tallymarkd.server: message``, each line with its priority for journald."""

    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITIES.get(record.levelno, _CRITICAL)
        text = f"{record.name}: {self._rest(record)}"
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class JsonFormatter(logging.Formatter):
    """One object a line: ``time``, ``level``, ``logger``, ``message``, ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        found = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        # In ASCII it is JSON whatever the encoding of the stream makes of other characters.
        return json.dumps(found)


def _time(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
