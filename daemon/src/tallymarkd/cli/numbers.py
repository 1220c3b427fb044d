"""``tallymark`` alone: every project and its agents on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tallymark.errors import TallymarkError
from tallymarkd.cli.output import (
    NOTHING,
    ago,
    compact,
    cost_of,
    count,
    fewer,
    first_that_fits,
    is_bounded,
    make_console,
    many,
    percent,
    print_json,
)
from tallymarkd.cli.place import Place
from tallymarkd.cli.reading import read_projects
from tallymarkd.text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

AGENTS_SHOWN = 12
"""Most agents of a project; the others are one line. ``--all`` and ``--json`` have all."""

NAME_CHARS_MAX = 24
"""Where the width is bounded."""

SEPARATOR = " · "

NOTHING_YET = """Nothing is recorded yet. To begin:
  tallymark run -- COMMAND           record any command as a run of an agent
  tallymark import claude-code       record what Claude Code wrote down"""


class UnknownProject(TallymarkError):
    """Nothing is recorded of it."""


def show_numbers(place: Place, *, every_agent: bool = False, project: str | None = None) -> int:
    """Print the numbers, of all projects or of one; gives the exit code."""
    projects = read_projects(place)
    if project is not None:
        projects = [_named(projects, project)]
    if place.as_json:
        print_json(projects)
        return 0
    console = make_console(place.env)
    if not projects:
        console.print(NOTHING_YET)
        return 0
    now = datetime.now(UTC)
    agents_shown = None if every_agent else AGENTS_SHOWN
    for at, found in enumerate(sorted(projects, key=_updated, reverse=True)):
        if at:
            console.print()
        show_project(console, found, now, agents_shown)
    return 0


def _named(projects: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for project in projects:
        if project["project"] == name:
            return project
    known = ", ".join(sorted(project["project"] for project in projects)) or "none"
    raise UnknownProject(f"cannot show project {name!r}: nothing is recorded of it; known: {known}")


def _updated(project: dict[str, Any]) -> str:
    return str(project.get("updated_at") or "")


def show_project(
    console: Console, project: dict[str, Any], now: datetime, agents_shown: int | None
) -> None:
    """One project: a line of totals, a table of agents, their last errors."""
    _show_totals(console, project, now)
    agents = project["agents"][:agents_shown]
    if agents:
        name_chars = NAME_CHARS_MAX if is_bounded(console) else None
        tables = (
            agents_table(agents, now, columns, name_chars)
            for columns in fewer(COLUMNS, DROPPED_FIRST)
        )
        console.print(first_that_fits(console, tables))
    others = len(project["agents"]) - len(agents)
    if others:
        line = f"  and {many(others, 'more agent')}; tallymark --all shows them"
        console.print(line, style="dim")
    for agent in agents:
        if agent["last_error"]:
            _show_error(console, agent)


def _show_totals(console: Console, project: dict[str, Any], now: datetime) -> None:
    from rich.cells import cell_len
    from rich.text import Text

    unpriced, unknown = project["unpriced_usages"], project.get("other_events", 0)
    totals = [
        many(project["runs"], "run"),
        many(project["total_sessions"], "session"),
        f"{compact(project['total_tokens'])} tokens",
        cost_of(project["total_cost_usd"], unpriced),
    ]
    if unpriced:
        totals.append(f"{count(unpriced)} unpriced")
    if unknown:
        totals.append(f"{many(unknown, 'event')} of unknown type")
    totals.append(f"updated {ago(project['updated_at'], now)}")
    name = one_line(project["project"])
    lines = fill(totals, console.width, indent=2, first=cell_len(name) + 2)
    title = Text(name, style="bold").append("  " + lines[0], style="not bold")
    for line in [title, *lines[1:]]:
        console.print(line, no_wrap=True, overflow="ellipsis")


def _show_error(console: Console, agent: dict[str, Any]) -> None:
    from rich.text import Text

    line = Text(f"  last error of {_name(agent)}: ", style="red", no_wrap=True)
    line.append(one_line(agent["last_error"].replace("\n", " ")), style="not red")
    console.print(line, overflow="ellipsis", no_wrap=True)


def fill(items: Sequence[str], width: int, *, indent: int, first: int) -> list[str]:
    """Items with dots between them on as few lines as hold them whole.

    ``first`` columns of the first line are taken; the others are indented.
    """
    lines = [""]
    left = width - first
    for item in items:
        if lines[-1] and len(SEPARATOR) + len(item) > left:
            lines.append(" " * indent + item)
            left = width - indent - len(item)
        else:
            piece = SEPARATOR + item if lines[-1] else item
            lines[-1] += piece
            left -= len(piece)
    return lines


COLUMNS = ("runs", "success", "tokens", "cost", "unpriced", "last active")

DROPPED_FIRST = ("unpriced", "last active", "success", "runs", "tokens")
"""What a narrow terminal does without, in this order."""


def agents_table(
    agents: list[dict[str, Any]], now: datetime, columns: Sequence[str], name_chars: int | None
) -> Table:
    """A row for each agent, with its name, of so many characters at most, and its figures."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    width = None if name_chars is None else name_chars + 2
    table.add_column("  agent", no_wrap=True, overflow="ellipsis", max_width=width)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for agent in agents:
        figures = _figures(agent, now)
        table.add_row("  " + _name(agent), *(figures[name] for name in columns))
    return table


def _figures(agent: dict[str, Any], now: datetime) -> dict[str, str]:
    """What stands in ``COLUMNS``."""
    unpriced = agent["unpriced_usages"]
    return {
        "runs": compact(agent["runs"]),
        "success": percent(agent["success_rate"]),
        "tokens": compact(agent["total_tokens"]),
        "cost": cost_of(agent["total_cost_usd"], unpriced),
        "unpriced": compact(unpriced) if unpriced else NOTHING,
        "last active": ago(agent["last_active"], now),
    }


def _name(agent: dict[str, Any]) -> str:
    return one_line(agent["agent_name"]) or "(no name)"
