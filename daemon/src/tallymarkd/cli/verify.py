"""``tallymark verify``: what in a state directory is whole, torn, corrupt or lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tallymark.errors import TallymarkError
from tallymark.fs import OsFileSystem
from tallymarkd.cli.output import count, local, many, print_json, show_rows, size
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.progress import Progress
from tallymarkd.cli.state_dir import (
    PASSES,
    MeteredFileSystem,
    bytes_to_read,
    chosen_state_dir,
    no_answer,
    state_dir_argument,
)
from tallymarkd.text import one_line

if TYPE_CHECKING:
    from tallymarkd.core.recount import Counts
    from tallymarkd.core.verify_report import (
        BackupPart,
        GenerationPart,
        JournalPart,
        VerifyReport,
    )

LINES_MAX = 20
"""Most lines of one kind that are shown."""

ASK_IT = "or ask it how it is: `tallymark health --deep`"

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
    """What in a state directory, or in a backup, is whole, torn, corrupt or lost.

    Reads every file offline and changes nothing. Counts the events in the journal
    anew and holds them against the ledger, replays the state files, looks up the
    keys. Stop tallymarkd first: while it writes there is no answer. Of a backup it
    also checks every file against the manifest; that may be done at any time.

    Exit code 0 whole, 1 something was found, 2 no answer: no state directory, a
    running tallymarkd, a file that cannot be read. An unclean stop and torn bytes,
    which were never acknowledged, are told and are no finding; neither is a loss
    that a start has told before.
    """
    root = chosen_state_dir(place, given)
    try:
        report = _look(place, root)
    except (TallymarkError, OSError) as error:
        return no_answer(place, "verify", root, error)
    if place.as_json:
        print_json(report)
    else:
        show(root, report)
    return 1 if report.findings else 0


def _look(place: Place, root: Path) -> VerifyReport:
    from tallymarkd.cli.stopping import telling_how_to_stop
    from tallymarkd.core.verify import verify
    from tallymarkd.core.verify_backup import is_backup, verify_backup

    backup = is_backup(OsFileSystem(), root)
    total = bytes_to_read(root / "state") * (1 + PASSES) // PASSES
    total = total if backup else bytes_to_read(root)
    work = Progress(place, "verify", total, in_bytes=True)
    with telling_how_to_stop(place, ASK_IT), work as progress:
        fs = MeteredFileSystem(progress)
        return verify_backup(fs, root) if backup else verify(fs, root)


def show(root: Path, report: VerifyReport) -> None:
    """Print it for people."""
    show_rows(f"{root}: {VERDICTS[report.verdict]}", rows(report))
    _show_lines([f"{each.code}: {each.message}" for each in report.findings])
    _show_lines([f"known: {text}" for text in report.known])
    _show_lines([f"note: {text}" for text in report.notes])
    _show_lines([f"next: {report.next}"])


def _show_lines(lines: list[str]) -> None:
    for line in lines[:LINES_MAX]:
        click.echo(f"  {one_line(line)}")
    if len(lines) > LINES_MAX:
        more = count(len(lines) - LINES_MAX)
        click.echo(f"  {lines[LINES_MAX].partition(':')[0]}: {more} more; --json has all")


def rows(report: VerifyReport) -> list[tuple[str, str]]:
    """What is shown, each with its name."""
    journal = report.journal
    journal_bytes = sum(each.bytes for each in journal.segments)
    kinds = [f"{count(number)} {kind}" for kind, number in journal.records.items()]
    segments = f"{many(len(journal.segments), 'segment')}, {size(journal_bytes)}"
    return [
        *_backup(report.backup),
        ("journal", f"{segments}, {_reach(journal)}"),
        ("records", ", ".join(kinds) or "none"),
        ("events", _events(report)),
        ("producers", count(len(report.producers))),
        ("ledger", _ledger(report)),
        ("state files", _state_files(report)),
        ("index", _index(report)),
        ("quarantine", many(len(report.quarantine), "file")),
    ]


def _backup(backup: BackupPart | None) -> list[tuple[str, str]]:
    if backup is None:
        return []
    how = "while tallymarkd ran" if backup.live else "while tallymarkd was stopped"
    files = f"{many(backup.files, 'file')}, {size(backup.size_bytes)}"
    held = "every checksum holds"
    if backup.damaged:
        held = f"{count(len(backup.damaged))} of them not as they were"
    return [
        ("backup", f"begun {local(backup.begun_at)}, of {backup.state_dir}, {how}"),
        ("files", f"{files}; {held}"),
    ]


def _reach(journal: JournalPart) -> str:
    if journal.end_lsn <= journal.begins_after_lsn:
        return f"no number after {count(journal.end_lsn)}" if journal.end_lsn else "no number"
    reach = f"numbers {count(journal.begins_after_lsn + 1)} to {count(journal.end_lsn)}"
    return reach if journal.begins_after_lsn else f"{reach}, from its beginning"


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


def _agreement(agrees: bool | None, reason: str = "") -> str:
    if agrees is None:
        return "cannot be held against the journal" + (f": {reason}" if reason else "")
    return "agrees with the journal" if agrees else "DISAGREES with the journal"


def _ledger(report: VerifyReport) -> str:
    if report.ledger is None:
        return "no server.json"
    reasons = [
        each.reason
        for file in report.state_files
        if not file.project
        for each in file.generations
        if each.whole
    ]
    text = _agreement(report.ledger_agrees, next(iter(reasons), ""))
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
        text += f", {count(found[None])} cannot be held against it: {_reasons(whole)}"
    return text


def _reasons(generations: list[GenerationPart]) -> str:
    reasons = {each.reason for each in generations if each.agrees is None and each.reason}
    return ", ".join(sorted(reasons)) or "it does not say why"


def _index(report: VerifyReport) -> str:
    index = report.index
    if index.state != "whole":
        return index.state
    return f"{many(index.keys, 'key')}, {_agreement(index.agrees)}"
