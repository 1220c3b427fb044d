"""Text from elsewhere, made fit to be shown."""

from __future__ import annotations

import re

_controls = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What could forge or garble a line, or drive a terminal. Tabs may stay."""


def one_line(text: str) -> str:
    """The text with its control characters escaped, so that it stays one line."""
    return _controls.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def json_fault(error: Exception) -> str:
    """What is wrong with a JSON text, for a sentence that has said already that it is none."""
    return str(error).removeprefix("JSON is malformed: ")


QUOTED_CHARS_MAX = 60
"""How much of what somebody gave is told back."""

_long_quote = re.compile(rf"'([^']{{{QUOTED_CHARS_MAX}}})[^']+'")


def short_quotes(text: str) -> str:
    """A message in which somebody else quotes what was given, cut where that is long."""
    return _long_quote.sub(r"'\1'…", text)


def quoted(value: object, chars_max: int = QUOTED_CHARS_MAX) -> str:
    """What somebody gave, in quotes, for a message that says what is wrong with it."""
    if isinstance(value, str) and len(value) > chars_max:
        return f"{value[:chars_max]!r}…"
    text = repr(value)
    return text if len(text) <= 2 * chars_max else f"{text[:chars_max]}…"


def span(what: str, plural: str, first: int, last: int) -> str:
    """``number 5``, ``numbers 5 to 7``."""
    return f"{what} {first}" if first == last else f"{plural} {first} to {last}"
