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


def span(what: str, plural: str, first: int, last: int) -> str:
    """``number 5``, ``numbers 5 to 7``."""
    return f"{what} {first}" if first == last else f"{plural} {first} to {last}"
