"""``tallymark repair``: what the daemon's start would do, and an account of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from tallymark.errors import TallymarkError
from tallymarkd.cli.output import count, many, print_json, show_rows, size
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.progress import Progress
from tallymarkd.cli.state_dir import (
    MeteredFileSystem,
    bytes_to_read,
    chosen_state_dir,
    journal_settings,
    no_answer,
    prepare_recovery,
    state_dir_argument,
)

if TYPE_CHECKING:
    from tallymarkd.core.recovery_report import RecoveryReport


@click.command(name="repair")
@state_dir_argument
@json_option
@with_place
def command(place: Place, given: Path | None) -> int:
    """Do what the daemon's start would do, and tell what was found.

    Torn bytes are cut off, damaged files kept aside in quarantine/, state files and
    index rebuilt from the journal, losses named and counted, once. Refuses while
    tallymarkd runs on the directory.

    Exit code 0 nothing was lost, 1 something was, be it history that the totals still
    have, 2 it could not be done: no state directory, a running tallymarkd.
    """
    root = chosen_state_dir(place, given)
    try:
        report = _repair(place, root)
    except (TallymarkError, OSError) as error:
        return no_answer(place, "repair", root, error)
    if place.as_json:
        print_json({"state_dir": str(root), **_as_dict(report)})
    else:
        show_rows(f"{root}: settled, {_verdict(report)}", rows(report), report.lines())
    return 1 if report.new_losses or report.new_history else 0


def _repair(place: Place, root: Path) -> RecoveryReport:
    from tallymarkd.cli.stopping import telling_how_to_stop
    from tallymarkd.core.repair import repair
    from tallymarkd.place import refuse_unsafe

    refuse_unsafe(root)
    settings = journal_settings(place, root)
    prepare_recovery()
    work = Progress(place, "repair", bytes_to_read(root), in_bytes=True)
    with telling_how_to_stop(place), work as progress:
        return repair(MeteredFileSystem(progress), root, settings)


def _as_dict(report: RecoveryReport) -> dict[str, object]:
    found: dict[str, object] = msgspec.to_builtins(report)
    return found


def rows(report: RecoveryReport) -> list[tuple[str, str]]:
    """What is shown, each with its name."""
    read = [
        many(report.segments, "segment"),
        many(report.records_read, "record"),
        many(report.events_read, "event"),
    ]
    return [
        ("stop", "clean" if report.clean else "unclean"),
        ("read", ", ".join(read)),
        ("replayed", many(report.events_replayed, "event")),
        ("cut", f"{size(report.cut_bytes)} torn, never acknowledged"),
        ("kept aside", many(len(report.quarantined), "file")),
        ("index", f"made anew: {report.index_reason}" if report.index_rebuilt else "whole"),
        ("lost", _lost(report)),
        ("next number", count(report.next_lsn)),
    ]


def _verdict(report: RecoveryReport) -> str:
    if report.new_losses:
        return "events were lost"
    return "some history was lost, and no total" if report.new_history else "nothing was lost"


def _lost(report: RecoveryReport) -> str:
    parts = []
    if report.new_losses:
        parts.append(many(report.new_losses, "place"))
    if report.new_history:
        parts.append(f"{many(report.new_history, 'place')} of the history, and no total")
    return "; ".join(parts) or "nothing"
