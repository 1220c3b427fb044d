"""``tallymark`` alone: every project and its agents on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tallymarkd.cli.output import (
    NOTHING,
    ago,
    compact,
    count,
    dollars,
    first_that_fits,
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
"""Most agents of a project; the others are one line. ``--json`` has all."""

NAME_CHARS_MAX = 24

SEPARATOR = " · "


def show_numbers(place: Place) -> int:
    """Print the numbers; gives the exit code."""
    projects = read_projects(place)
    if place.as_json:
        print_json(projects)
        return 0
    console = make_console(place.env)
    if not projects:
        console.print("Nothing is recorded yet.")
        return 0
    now = datetime.now(UTC)
    for at, project in enumerate(sorted(projects, key=_updated, reverse=True)):
        if at:
            console.print()
        show_project(console, project, now)
    return 0


def _updated(project: dict[str, Any]) -> str:
    return str(project.get("updated_at") or "")


def show_project(console: Console, project: dict[str, Any], now: datetime) -> None:
    """One project: a line of totals, a table of agents, their last errors."""
    from rich.cells import cell_len
    from rich.text import Text

    totals = [
        many(project["runs"], "run"),
        many(project["total_sessions"], "session"),
        f"{compact(project['total_tokens'])} tokens",
        dollars(project["total_cost_usd"]),
    ]
    if project["unpriced_usages"]:
        totals.append(f"{count(project['unpriced_usages'])} unpriced")
    totals.append(f"updated {ago(project['updated_at'], now)}")
    name = one_line(project["project"])
    lines = fill(totals, console.width, indent=2, first=cell_len(name) + 2)
    title = Text(name, style="bold").append("  " + lines[0], style="not bold")
    for line in [title, *lines[1:]]:
        console.print(line, no_wrap=True, overflow="ellipsis")
    agents = project["agents"]
    if agents:
        tables = (agents_table(agents[:AGENTS_SHOWN], now, n) for n in range(len(COLUMNS), 0, -1))
        console.print(first_that_fits(console, tables))
    if len(agents) > AGENTS_SHOWN:
        console.print(f"  and {many(len(agents) - AGENTS_SHOWN, 'more agent')}", style="dim")
    for agent in agents[:AGENTS_SHOWN]:
        if agent["last_error"]:
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


def agents_table(agents: list[dict[str, Any]], now: datetime, columns: int) -> Table:
    """A row for each agent, with its name and the first ``columns`` figures."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("  agent", no_wrap=True, overflow="ellipsis", max_width=NAME_CHARS_MAX + 2)
    for name in COLUMNS[:columns]:
        table.add_column(name, justify="right", no_wrap=True)
    for agent in agents:
        figures = (
            compact(agent["runs"]),
            percent(agent["success_rate"]),
            compact(agent["total_tokens"]),
            dollars(agent["total_cost_usd"]),
            compact(agent["unpriced_usages"]) if agent["unpriced_usages"] else NOTHING,
            ago(agent["last_active"], now),
        )
        table.add_row("  " + _name(agent), *figures[:columns])
    return table


def _name(agent: dict[str, Any]) -> str:
    return one_line(agent["agent_name"]) or "(no name)"
