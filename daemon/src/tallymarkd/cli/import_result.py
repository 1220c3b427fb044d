"""What an import gave, in figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from tallymark.events import Usage
from tallymarkd.cli.output import (
    compact,
    cost_of,
    count,
    fewer,
    first_that_fits,
    make_console,
    many,
    say,
)
from tallymarkd.cli.place import Place
from tallymarkd.cli.recording import Outcome
from tallymarkd.core.pricing import Pricer
from tallymarkd.core.runs import NANOS
from tallymarkd.sources.claude_code import ImportPlan
from tallymarkd.sources.claude_lines import TokenCount
from tallymarkd.sources.claude_report import ImportReport, SessionReport
from tallymarkd.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

SESSIONS_SHOWN = 30
"""Most sessions in the table, the last ones; ``--json`` has all."""

ID_CHARS = 8
"""A session is known by the beginning of its id."""


@dataclass
class Cost:
    """Money in nano-dollars, and how many usages have no price."""

    nanos: int = 0
    unpriced: int = 0

    @property
    def dollars(self) -> float:
        """The same in dollars."""
        return self.nanos / NANOS


@dataclass
class Costs:
    """What usages cost, by the prices that the daemon uses."""

    pricer: Pricer = field(default_factory=Pricer)
    total: Cost = field(default_factory=Cost)
    sessions: dict[str, Cost] = field(default_factory=dict)
    agents: dict[str, Cost] = field(default_factory=dict)

    def add(self, event: Usage) -> None:
        """Price one usage."""
        price = self.pricer.price_event(event)
        for cost in (
            self.total,
            self.sessions.setdefault(event.session_id, Cost()),
            self.agents.setdefault(event.agent_name, Cost()),
        ):
            if price is None:
                cost.unpriced += 1
            else:
                cost.nanos += price.nanos


def result_as_dict(plan: ImportPlan, outcome: Outcome, costs: Costs) -> dict[str, Any]:
    """Everything, for JSON."""
    report = plan.report
    return {
        "projects": plan.projects,
        "files": report.files,
        "lines": report.lines,
        "sessions": [_session(session, costs) for session in report.sessions],
        "agents": {
            name: {**_share(share), **_cost(costs.agents.get(name, Cost()))}
            for name, share in report.agents.items()
        },
        "total": {
            "sessions": len(report.sessions),
            "runs": report.runs,
            "responses": report.responses,
            **_tokens(report.tokens),
            **_cost(costs.total),
        },
        "waiting": {"runs": report.runs_waiting, "responses": report.responses_waiting},
        "responses_without_usage": report.responses_without_usage,
        "sessions_unanswered": report.sessions_unanswered,
        "not_understood": report.faults.counts,
        "unreadable": report.unreadable,
        "events": {
            "stored": outcome.stored,
            "already_known": outcome.duplicate,
            "rejected": dict(outcome.rejected),
        },
    }


def _session(session: SessionReport, costs: Costs) -> dict[str, Any]:
    return {
        "session_id": session.session_id,
        "project": session.project,
        "started_at": session.started_at,
        "ended_at": session.ended_at,
        "runs": session.runs,
        "responses": session.responses,
        **_tokens(session.tokens),
        **_cost(costs.sessions.get(session.session_id, Cost())),
        "agents": {name: _share(share) for name, share in session.agents.items()},
    }


def _share(share: Any) -> dict[str, Any]:
    return {"runs": share.runs, "responses": share.responses, **_tokens(share.tokens)}


def _tokens(tokens: TokenCount) -> dict[str, int]:
    return {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cache_read_tokens": tokens.cache_read,
        "cache_write_tokens": tokens.cache_write,
    }


def _cost(cost: Cost) -> dict[str, Any]:
    return {"cost_usd": cost.dollars, "unpriced_usages": cost.unpriced}


def print_result(place: Place, plan: ImportPlan, outcome: Outcome, costs: Costs) -> None:
    """The tables to stdout, what is worth a remark to stderr."""
    console = make_console(place.env)
    report = plan.report
    if report.sessions:
        for make_table in (_sessions_table, _agents_table):
            shapes = [
                (count, COLUMNS),
                *((compact, columns) for columns in fewer(COLUMNS, DROPPED_FIRST)),
            ]
            tables = (make_table(report, costs, show, columns) for show, columns in shapes)
            console.print(first_that_fits(console, tables))
            click.echo()
    click.echo(summary(plan, outcome))
    for remark in remarks(report, outcome):
        say(remark)


def summary(plan: ImportPlan, outcome: Outcome) -> str:
    """What the daemon said, in one line."""
    where = ", ".join(one_line(project) for project in plan.projects) or "no project"
    text = f"{where}: {many(outcome.stored, 'event')} stored, "
    text += f"{count(outcome.duplicate)} already known"
    return f"{text}, {count(outcome.refused)} rejected" if outcome.refused else text


def remarks(report: ImportReport, outcome: Outcome) -> list[str]:
    """What was left out, and why; each one line."""
    found = []
    if report.runs_waiting or report.responses_waiting:
        found.append(
            f"{many(report.runs_waiting, 'run')} and {many(report.responses_waiting, 'response')} "
            "may still be written, and wait for the next import"
        )
    if report.responses_without_usage:
        number = many(report.responses_without_usage, "response")
        found.append(f"{number} without a word on tokens, which count nothing")
    for kind, lines in sorted(report.faults.counts.items()):
        first = report.faults.first[kind]
        found.append(f"{many(lines, 'line')} not understood: {kind}; the first is {first}")
    found += [f"cannot read {path}: {cause}" for path, cause in sorted(report.unreadable.items())]
    found += [
        f"tallymarkd rejected {many(number, 'event')}: {code}"
        for code, number in sorted(outcome.rejected.items())
    ]
    return found


Show = Callable[[float], str]


COLUMNS = (
    "runs",
    "responses",
    "input",
    "cache read",
    "cache write",
    "output",
    "cost",
    "unpriced",
)

DROPPED_FIRST = ("unpriced", "cache write", "cache read", "responses", "runs", "input", "output")
"""What a narrow terminal does without, in this order."""


def _sessions_table(
    report: ImportReport, costs: Costs, show: Show, columns: Sequence[str]
) -> Table:
    table = _table("session", columns)
    left_out = report.sessions[:-SESSIONS_SHOWN]
    if left_out:
        table.add_row(f"({count(len(left_out))} more)")
    for session in report.sessions[-SESSIONS_SHOWN:]:
        cells = _cells(session, show, costs.sessions.get(session.session_id, Cost()))
        table.add_row(one_line(session.session_id[:ID_CHARS]), *_pick(cells, columns))
    table.add_section()
    total = _pick(_cells(report, show, costs.total), columns)
    table.add_row("total", *total, style="bold")
    return table


def _agents_table(report: ImportReport, costs: Costs, show: Show, columns: Sequence[str]) -> Table:
    table = _table("agent", columns)
    for name, share in report.agents.items():
        cells = _cells(share, show, costs.agents.get(name, Cost()))
        table.add_row(one_line(name), *_pick(cells, columns))
    return table


def _table(first: str, others: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, show_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True, vertical="bottom")
    return table


def _pick(cells: Mapping[str, str], columns: Sequence[str]) -> list[str]:
    return [cells[name] for name in columns]


def _cells(found: Any, show: Show, cost: Cost) -> dict[str, str]:
    """What stands in ``COLUMNS``."""
    tokens = found.tokens
    return {
        "runs": show(found.runs),
        "responses": show(found.responses),
        "input": show(tokens.input),
        "cache read": show(tokens.cache_read),
        "cache write": show(tokens.cache_write),
        "output": show(tokens.output),
        "cost": cost_of(cost.dollars, cost.unpriced),
        "unpriced": show(cost.unpriced),
    }
