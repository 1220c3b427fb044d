"""How figures, times and JSON are printed. Data to stdout, messages to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tallymarkd.streams import give_up
from tallymarkd.text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NOTHING = "-"
"""Stands where there is no value."""

ROW_NAME_WIDTH = 13
"""Of the names before the values in a list of them."""

UNBOUNDED_COLUMNS = 10_000
"""Wider than any table."""

UNKNOWN = "?"
"""Stands for a cost of which nothing is known."""

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
DATE_AFTER_SECONDS = 60 * DAY


def make_console(env: Mapping[str, str], *, err: bool = False) -> Console:
    """A console without colours where there is no terminal, or NO_COLOR is set.

    Nothing is taken for markup: names come from elsewhere. Where neither a terminal
    nor COLUMNS sets a width, nothing is cut.
    """
    from rich.console import Console

    plain = bool(env.get("NO_COLOR")) or env.get("TERM") == "dumb"
    console = Console(
        stderr=err,
        color_system=None if plain else "auto",
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=False,
    )
    if not console.is_terminal and not env.get("COLUMNS"):
        console.width = UNBOUNDED_COLUMNS
    return console


def is_bounded(console: Console) -> bool:
    """Whether there is a width to keep to."""
    return console.width < UNBOUNDED_COLUMNS


def first_that_fits(console: Console, tables: Iterable[Table]) -> Table:
    """The first table of which the console can show every cell whole, else the last."""
    from rich.measure import Measurement

    options = console.options.update(max_width=UNBOUNDED_COLUMNS)
    for table in tables:
        if Measurement.get(console, options, table).maximum <= console.width:
            break
    return table


def print_json(value: Any) -> None:
    """One indented JSON document. Bytes are JSON already."""
    raw = value if isinstance(value, bytes) else msgspec.json.encode(value)
    click.echo(msgspec.json.format(raw, indent=2))


def show_rows(title: str, rows: Iterable[tuple[str, str]], lines: Iterable[str] = ()) -> None:
    """What is found, for people: a title, each value behind its name, and lines below."""
    click.echo(one_line(title))
    for name, value in rows:
        click.echo(f"  {name:<{ROW_NAME_WIDTH}}{one_line(value)}")
    for line in lines:
        click.echo(f"  {one_line(line)}")


def say(text: str) -> None:
    """One line for a person, on stderr. Where that cannot be written, nothing fails by it."""
    try:
        click.echo(one_line(text), err=True)
    except OSError:
        give_up(sys.stderr)


def count(number: float) -> str:
    """A whole number with its thousands apart."""
    return f"{round(number):,}"


def many(number: int, what: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count(number)} {what}{'' if number == 1 else 's'}"


def compact(number: float) -> str:
    """A number in at most six characters: ``999``, ``12.3k``, ``28.9M``."""
    for unit in ("", "k", "M", "G", "T"):
        # 999.95 would be shown as 1000.0.
        if abs(number) < (1000 if not unit else 999.95):
            return f"{number:.0f}" if not unit else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f}P"


def dollars(cost: float) -> str:
    """Money: cents from one dollar on, more below."""
    if cost and abs(cost) < 0.00005:
        return "<$0.0001"
    return f"${cost:,.2f}" if abs(cost) >= 1 or not cost else f"${cost:.4f}"


def cost_of(cost: float, unpriced: int) -> str:
    """Money, of which so many usages have no price: what is unknown is never shown as free."""
    if not unpriced:
        return dollars(cost)
    return f"≥ {dollars(cost).lstrip('<')}" if cost else UNKNOWN


def fewer(columns: Sequence[str], dropped_first: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The columns, and ever fewer of them, without those that are dropped first."""
    for number in range(len(dropped_first) + 1):
        yield tuple(name for name in columns if name not in dropped_first[:number])


def percent(share: float | None) -> str:
    """A share of 1 as per cent; what is not all is never shown as 100."""
    if share is None:
        return NOTHING
    shown = round(share * 100)
    if shown == 100 and share < 1:
        return ">99%"
    return "<1%" if shown == 0 and share > 0 else f"{shown}%"


def size(number: float) -> str:
    """Bytes in the largest unit that leaves a whole part."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def span(seconds: float) -> str:
    """A length of time in its two largest units: ``2 h 5 min``."""
    whole = max(0, int(seconds))
    parts = [
        f"{amount} {unit}"
        for amount, unit in (
            (whole // DAY, "d"),
            (whole % DAY // HOUR, "h"),
            (whole % HOUR // MINUTE, "min"),
            (whole % MINUTE, "s"),
        )
    ]
    first = next((at for at, part in enumerate(parts) if not part.startswith("0 ")), 3)
    return " ".join(part for part in parts[first : first + 2] if not part.startswith("0 ")) or "0 s"


def ago(time: str | datetime | None, now: datetime) -> str:
    """How long ago, in one unit; a date for what is long ago."""
    when = as_time(time)
    if when is None:
        return NOTHING
    seconds = (now - when).total_seconds()
    if seconds >= DATE_AFTER_SECONDS:
        return when.astimezone().strftime("%Y-%m-%d")
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} ago"
    return "now" if seconds < 1 else f"{int(seconds)} s ago"


def local(time: str | datetime | None) -> str:
    """A time as the clock here shows it, to the second."""
    when = as_time(time)
    return NOTHING if when is None else when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def as_time(time: str | datetime | None) -> datetime | None:
    """A time out of a report; None for what is none."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError:
            return None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time
