"""Text from anywhere into text that can be recorded."""

from __future__ import annotations

from tallymark.events import TEXT_CHARS_MAX

CUT_MARK = "… [cut]"
"""How text ends that was too long, whoever cut it."""


def clean(value: object, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Text that can be encoded and is not too long, whatever it is given; None is empty."""
    if value is None:
        return ""
    try:
        text = value if isinstance(value, str) else str(value)
    # Its __str__ is foreign code.
    except Exception:  # noqa: BLE001
        text = type(value).__name__
    if not text.isascii():
        # Lone surrogates, as in the names of some files, have no encoding.
        text = text.encode("utf-8", "replace").decode("utf-8")
    return shortened(text, chars_max)


def shortened(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """The text; what is longer is cut, with a mark at its end."""
    return text if len(text) <= chars_max else text[: chars_max - len(CUT_MARK)] + CUT_MARK


def describe(error: BaseException) -> str:
    """An exception's type and text, as a run's error message has it."""
    name = type(error).__name__
    try:
        text = str(error)
    # Its __str__ is foreign code.
    except Exception:  # noqa: BLE001
        return name
    return f"{name}: {text}" if text else name
