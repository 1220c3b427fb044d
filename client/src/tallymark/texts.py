"""Text and other values from anywhere into what can be recorded."""

from __future__ import annotations

from collections.abc import Sequence

from tallymark.events import TEXT_CHARS_MAX

CUT_MARK = "… [cut]"
"""How text ends that was too long, whoever cut it."""


def clean(value: object, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Text that can be encoded and is not too long, whatever it is given; None is empty."""
    if value is None:
        return ""
    try:
        # A derived text must become a plain one: a method of its own may say anything.
        text = value if type(value) is str else _plain_text(value)
    # Its __str__ is foreign code.
    except Exception:  # noqa: BLE001
        text = type(value).__name__
    if not text.isascii():
        # Lone surrogates, as in the names of some files, have no encoding.
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= chars_max else shortened(text, chars_max)


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


def one_of(value: object, allowed: Sequence[str]) -> str | None:
    """The one of ``allowed`` that a value equals, itself; None for any other."""
    try:
        return allowed[allowed.index(value)]
    # It is not there, or its __eq__ is foreign code.
    except Exception:  # noqa: BLE001
        return None


def plain(value: object) -> object:
    """The plain text or number that a derived one holds, as the libraries for TOML, YAML
    and HTML give them, and numpy. For msgspec, which refuses them (``enc_hook``)."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"values of type {type(value).__name__} cannot be recorded")


def _plain_text(value: object) -> str:
    return str.__str__(value if isinstance(value, str) else str(value))
