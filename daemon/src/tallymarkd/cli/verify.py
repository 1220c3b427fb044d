"""``tallymark verify``: what in a state directory is whole, torn, corrupt or lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tallymarkd.cli.output import count, many, print_json, size
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.progress import Progress
from tallymarkd.cli.state_dir import (
    MeteredFileSystem,
    bytes_to_read,
    chosen_state_dir,
    state_dir_argument,
)
from tallymarkd.text import one_line

if TYPE_CHECKING:
    from tallymarkd.core.recount import Counts
    from tallymarkd.core.verify_report import VerifyReport

WIDTH = 13

LINES_MAX = 20
"""Most lines of one kind that are shown."""

VERDICTS = {
    "whole": "whole",
    "unclean": "whole, after an unclean stop",
    "damaged": "damaged",
}


@click.command(name="verify")
@state_dir_argument
@json_option
@with_place
def command(place: Place, given: Path | None) -> int:
    """What in a state directory is whole, torn, corrupt or lost.

    Reads every file offline and changes nothing. Counts the events in the journal
    anew and holds them against the ledger, replays the state files, looks up the
    keys. Stop tallymarkd first: while it writes there is no answer.

    Exit code 0 whole, 1 something was found, 2 no state directory. An unclean stop
    and torn bytes, which were never acknowledged, are told and are no finding;
    neither is a loss that a start has told before.
    """
    from tallymarkd.core.verify import verify

    root = chosen_state_dir(place, given)
    with Progress(place, "verify", bytes_to_read(root), in_bytes=True) as progress:
        report = verify(MeteredFileSystem(progress), root)
    if place.as_json:
        print_json(report)
    else:
        show(report)
    return 1 if report.findings else 0


def show(report: VerifyReport) -> None:
    """Print it for people."""
    click.echo(f"{one_line(report.state_dir)}: {VERDICTS[report.verdict]}")
    for name, value in rows(report):
        click.echo(f"  {name:<{WIDTH}}{one_line(value)}")
    _show_lines([f"{each.code}: {each.message}" for each in report.findings])
    _show_lines([f"known: {text}" for text in report.known])
    _show_lines([f"note: {text}" for text in report.notes])


def _show_lines(lines: list[str]) -> None:
    for line in lines[:LINES_MAX]:
        click.echo(f"  {one_line(line)}")
    if len(lines) > LINES_MAX:
        more = count(len(lines) - LINES_MAX)
        click.echo(f"  {lines[LINES_MAX].partition(':')[0]}: {more} more; --json has all")


def rows(report: VerifyReport) -> list[tuple[str, str]]:
    """What is shown, each with its name."""
    journal = report.journal
    reach = f"numbers {count(journal.begins_after_lsn + 1)} to {count(journal.end_lsn)}"
    if not journal.begins_after_lsn:
        reach += ", from its beginning"
    journal_bytes = sum(each.bytes for each in journal.segments)
    kinds = [f"{count(number)} {kind}" for kind, number in journal.records.items()]
    return [
        ("journal", f"{many(len(journal.segments), 'segment')}, {size(journal_bytes)}, {reach}"),
        ("records", ", ".join(kinds) or "none"),
        ("events", _events(report)),
        ("producers", count(len(report.producers))),
        ("ledger", _ledger(report)),
        ("state files", _state_files(report)),
        ("index", _index(report)),
        ("quarantine", many(len(report.quarantine), "file")),
    ]


def _events(report: VerifyReport) -> str:
    text = counts_text(report.events)
    if not report.history_lost:
        return text
    if report.history_lost == report.events.lost:
        return f"{text}, from the history only"
    return f"{text}, {count(report.history_lost)} of them from the history only"


def counts_text(counts: Counts) -> str:
    """Events by what became of them."""
    rejected = ", ".join(f"{code} {count(number)}" for code, number in counts.rejected.items())
    parts = [
        f"{count(counts.received)} received: {count(counts.stored)} stored",
        f"{count(counts.duplicate)} duplicate",
        f"{count(sum(counts.rejected.values()))} rejected" + (f" ({rejected})" if rejected else ""),
        f"{count(counts.skipped)} skipped",
        f"{count(counts.lost)} lost",
    ]
    return ", ".join(parts)


def _agreement(agrees: bool | None) -> str:
    return {True: "agrees", False: "DISAGREES", None: "cannot be held against it"}[agrees]


def _ledger(report: VerifyReport) -> str:
    if report.ledger is None:
        return "no server.json"
    text = f"{_agreement(report.ledger_agrees)} with the count of the journal"
    after = report.after_ledger.received
    return f"{text}, which has {many(after, 'event')} more" if after else text


def _state_files(report: VerifyReport) -> str:
    generations = [each for file in report.state_files for each in file.generations]
    whole = [each for each in generations if each.whole]
    found = Counter(each.agrees for each in whole)
    text = f"{many(len(report.state_files), 'file')}, {many(len(whole), 'generation')} whole"
    if len(whole) < len(generations):
        text += f", {count(len(generations) - len(whole))} damaged"
    text += f"; {count(found[True])} agree with the journal"
    if found[False]:
        text += f", {count(found[False])} DISAGREE"
    if found[None]:
        text += f", {count(found[None])} cannot be held against it"
    return text


def _index(report: VerifyReport) -> str:
    index = report.index
    if index.state != "whole":
        return index.state
    return f"{many(index.keys, 'key')}, {_agreement(index.agrees)} with the journal"
