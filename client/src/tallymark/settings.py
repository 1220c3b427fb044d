"""The client's settings, and what would be right where one is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tallymark.errors import SettingError
from tallymark.events import ID_CHARS_MAX
from tallymark.protocol.messages import BATCH_EVENTS_MAX

QUEUE_EVENTS_LIMIT = 10_000_000
SPOOL_BYTES_LIMIT = 2**40
SECONDS_LIMIT = 3600.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How events are delivered. Raises ``SettingError`` when one cannot be right."""

    linger_seconds: float = 0.02
    """How long events wait for others, so that they travel together."""
    batch_events_max: int = 1024
    """Most events of one batch."""
    queue_events_max: int = 10_000
    """Most events in memory that are not acknowledged; more are dropped and counted."""
    exit_timeout_seconds: float = 0.2
    """How long ``close`` and the interpreter's end wait for acknowledgements."""
    ack_timeout_seconds: float = 10.0
    """A connection on which nothing is acknowledged for so long is begun again."""
    welcome_timeout_seconds: float = 2.0
    """How long a connection may wait for the daemon's first word."""
    spool_after_seconds: float = 1.0
    """Events that cannot be delivered for so long go to disk; at once when somebody waits."""
    spool_bytes_max: int = 256 * 1024 * 1024
    """Most bytes of this client's events on disk."""
    backoff_seconds_min: float = 0.05
    backoff_seconds_max: float = 5.0
    """Bounds of the pause before the next try to connect."""

    def __post_init__(self) -> None:
        check_count("batch_events_max", self.batch_events_max, BATCH_EVENTS_MAX)
        check_count("queue_events_max", self.queue_events_max, QUEUE_EVENTS_LIMIT)
        check_seconds("linger_seconds", self.linger_seconds, zero=True)
        check_seconds("exit_timeout_seconds", self.exit_timeout_seconds, zero=True)
        check_seconds("ack_timeout_seconds", self.ack_timeout_seconds)
        check_seconds("welcome_timeout_seconds", self.welcome_timeout_seconds)
        check_seconds("spool_after_seconds", self.spool_after_seconds, zero=True)
        check_count("spool_bytes_max", self.spool_bytes_max, SPOOL_BYTES_LIMIT)
        check_seconds("backoff_seconds_min", self.backoff_seconds_min)
        check_seconds("backoff_seconds_max", self.backoff_seconds_max)


def check_count(name: str, value: object, most: int) -> None:
    """Raises ``SettingError`` unless the value is a whole number from 1 to ``most``."""
    if type(value) is not int or not 1 <= value <= most:
        raise SettingError(f"cannot use {name}={value!r}: a whole number from 1 to {most} is right")


def check_seconds(name: str, value: object, *, zero: bool = False) -> None:
    """Raises ``SettingError`` unless the value is a possible time."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    # Written so that NaN fails too.
    if not 0 <= number <= SECONDS_LIMIT or (number == 0 and not zero):
        least = "0" if zero else "more than 0"
        raise SettingError(
            f"cannot use {name}={value!r}: seconds from {least} to {SECONDS_LIMIT:g} are right"
        )


def check_name(name: str, value: object) -> str:
    """The value, as a plain text. Raises ``SettingError`` unless it can be an identifier."""
    text = str.__str__(value) if isinstance(value, str) else ""
    if not 0 < len(text) <= ID_CHARS_MAX or not text.isprintable() or not text.strip():
        raise SettingError(
            f"cannot use {name}={value!r}: 1 to {ID_CHARS_MAX} printable characters are right"
        )
    return text


def is_disabled(env: Mapping[str, str]) -> bool:
    """Whether ``TALLYMARK_DISABLED`` is set. Raises ``SettingError`` for what is no yes or no."""
    value = env.get("TALLYMARK_DISABLED", "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise SettingError(f"cannot use TALLYMARK_DISABLED={value!r}: 1 or 0 is right")
