"""``tallymark emit``: record one event, or a line of JSON each from stdin."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from tallymark.ids import uuid7
from tallymark.settings import is_disabled
from tallymarkd.cli.event_options import event_of, event_of_line, event_options
from tallymarkd.cli.output import count, print_json, say
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.project import chosen_project, project_option
from tallymarkd.cli.recording import NotRecorded, Outcome, Recorder

EXIT_SPOOLED = 75
"""That of sysexits.h for what is to be settled later."""

LINES_TOLD_MAX = 10
"""Bad lines that are told one by one."""


@click.command(name="emit")
@click.argument("lines", required=False, metavar="[-]")
@event_options
@project_option
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(0.0, 3600.0),
    default=5.0,
    metavar="SECONDS",
    help="How long to wait until it is on disk.  [default: 5]",
)
@json_option
@with_place
def command(
    place: Place,
    /,
    lines: str | None,
    project: str | None,
    timeout_seconds: float,
    **options: Any,
) -> int:
    """Record one event, or with - one for each line of JSON from stdin.

    \b
    tallymark emit --type run.end --agent coding --status success \\
        --input-tokens 1000 --output-tokens 200
    tallymark emit - < events.ndjson

    With tallymarkd out of reach the events are spooled, and delivered when it can be reached.

    Exit code 0 when the daemon has everything on disk, 75 when something is spooled, 1 when
    something is not recorded.
    """
    name = chosen_project(place, project)
    given = {key: value for key, value in options.items() if value not in (None, ())}
    if lines not in (None, "-"):
        raise click.UsageError(f"{lines!r} is not understood: only - is, for stdin")
    if lines is not None and given:
        raise click.UsageError("with - the events come from stdin, and options of one do not fit")
    event = event_of(given, place.env, datetime.now(UTC)) if lines is None else None
    if is_disabled(place.env):
        say("nothing is recorded: TALLYMARK_DISABLED is set")
        return 0
    with Recorder(place, name, timeout_seconds) as recorder:
        if event is None:
            return _emit_lines(place, recorder)
        return _emit_one(place, recorder, event)


def _emit_one(place: Place, recorder: Recorder, event: dict[str, Any]) -> int:
    event.setdefault("event_id", event.get("run_id") or uuid7())
    recorder.put(event)
    try:
        recorder.settle()
    except NotRecorded as error:
        raise NotRecorded(_not_recorded(recorder, event, str(error))) from None
    outcome = recorder.outcome()
    if place.as_json:
        report = {"event_id": event["event_id"], "project": recorder.project}
        print_json({**report, **_as_dict(recorder, outcome)})
    elif not outcome.refused:
        known = f"known already: {event.get('dedupe_key')}"
        became = "stored" if outcome.stored else "spooled" if outcome.spooled else ""
        click.echo(f"{became} {event['event_id']}" if became else known)
    if outcome.refused:
        raise NotRecorded(f"cannot record the event: tallymarkd rejected it: {_codes(outcome)}")
    return _tell_spooled(recorder, outcome)


def _as_dict(recorder: Recorder, outcome: Outcome) -> dict[str, Any]:
    where = {"spool_dir": str(recorder.spool_dir)} if outcome.spooled else {}
    return {**outcome.as_dict(), **where}


def _tell_spooled(recorder: Recorder, outcome: Outcome) -> int:
    """Say where it is, if anything is spooled; gives the exit code."""
    if not outcome.spooled:
        return 0
    say(
        f"spooled in {recorder.spool_dir}, to be delivered when tallymarkd can be reached, "
        f"and not to be emitted again: {recorder.trouble()}"
    )
    return EXIT_SPOOLED


def _not_recorded(recorder: Recorder, event: dict[str, Any], cause: str) -> str:
    if not recorder.may_be_recorded:
        return f"cannot record the event: {cause}; nothing was recorded"
    again = "emitting it again is harmless"
    if not event.get("dedupe_key"):
        again = "emitting it again may count it twice (a --dedupe-key prevents that)"
    return f"cannot tell whether the event was recorded: {cause}; {again}"


def _codes(outcome: Outcome) -> str:
    return ", ".join(
        code if number == 1 else f"{code} ({count(number)} times)"
        for code, number in sorted(outcome.rejected.items())
    )


def _emit_lines(place: Place, recorder: Recorder) -> int:
    read = 0
    unusable: Counter[str] = Counter()
    cause = ""
    try:
        for number, line in _lines():
            read += 1
            try:
                event = event_of_line(line)
            except ValueError as error:
                unusable["unusable_line"] += 1
                _tell_line(number, error, unusable.total())
                continue
            recorder.put(event)
        recorder.settle()
    except NotRecorded as error:
        cause = str(error)
    outcome = recorder.outcome()
    outcome.rejected += unusable
    return _tell(place, recorder, outcome, read, cause)


def _lines() -> Iterator[tuple[int, bytes]]:
    """Every line of stdin that is not blank, with its number."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        if line.strip():
            yield number, line


def _tell_line(number: int, error: ValueError, told: int) -> None:
    if told <= LINES_TOLD_MAX:
        say(f"cannot use line {number}: {error}")
    elif told == LINES_TOLD_MAX + 1:
        say("cannot use more lines, which are only counted from here on")


def _tell(place: Place, recorder: Recorder, outcome: Outcome, read: int, cause: str) -> int:
    if place.as_json:
        print_json(_as_dict(recorder, outcome))
    else:
        parts = [f"{count(outcome.stored)} stored", f"{count(outcome.duplicate)} known already"]
        if outcome.spooled:
            parts.append(f"{count(outcome.spooled)} spooled")
        if outcome.refused:
            parts.append(f"{count(outcome.refused)} rejected: {_codes(outcome)}")
        click.echo(", ".join(parts))
    if cause:
        raise NotRecorded(
            f"cannot record all events: {cause}; {count(read)} lines were read, and what is not "
            "among the above may or may not be recorded"
        )
    spooled = _tell_spooled(recorder, outcome)
    return 1 if outcome.refused else spooled
