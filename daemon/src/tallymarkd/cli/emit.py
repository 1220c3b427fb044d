"""``tallymark emit``: record one event, or a line of JSON each from stdin."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from tallymark.events import EVENT_TYPES
from tallymark.ids import uuid7
from tallymark.settings import is_disabled
from tallymarkd.cli.event_checks import event_of, event_of_line
from tallymarkd.cli.event_options import event_options
from tallymarkd.cli.output import count, print_json, say
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.project import chosen_project, project_option
from tallymarkd.cli.recording import NotRecorded, Outcome, Recorder
from tallymarkd.streams import give_up
from tallymarkd.text import one_line

EXIT_SPOOLED = 75
"""That of sysexits.h for what is to be settled later."""

LINES_TOLD_MAX = 10
"""Bad lines that are told one by one."""

TYPES_TOLD_MAX = 3
"""Unknown types that are named."""


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
    something is not recorded, 2 for an event that cannot be right, of which nothing is sent. A
    result that cannot be printed changes none of them.
    """
    name = chosen_project(place, project)
    given = {key: value for key, value in options.items() if value not in (None, ())}
    if lines not in (None, "-"):
        raise click.UsageError(f"{lines!r} is not understood: only - is, for stdin")
    if lines is not None and given:
        raise click.UsageError("with - the events come from stdin, and options of one do not fit")
    event = event_of(given, place.env, datetime.now(UTC), name) if lines is None else None
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
    with _printing():
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


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Print what became of events; the exit code tells it also where that fails.

    Whoever goes by the code would emit again what is recorded.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        give_up(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            cause = error.strerror or str(error)
            say(f"cannot print the result: {cause}; the exit code tells what became of it")


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
    lines = _Lines(recorder.project)
    cause = ""
    try:
        for event in lines.events():
            recorder.put(event)
        recorder.settle()
    except NotRecorded as error:
        cause = str(error)
    lines.tell_others()
    outcome = recorder.outcome()
    if lines.unusable:
        outcome.rejected["unusable_line"] += lines.unusable
    return _tell(place, recorder, outcome, lines, cause)


class _Lines:
    """The lines of stdin, and what was found in them."""

    def __init__(self, project: str) -> None:
        self._project = project
        self.read = 0
        self.unusable = 0
        self.unknown: Counter[str] = Counter()
        """Events of types that this version does not know."""

    def events(self) -> Iterator[dict[str, Any]]:
        """The event in each line; a line that has none is told. Blank ones are nothing."""
        for number, line in enumerate(sys.stdin.buffer, 1):
            if not line.strip():
                continue
            self.read += 1
            try:
                event = event_of_line(line, self._project)
            except ValueError as error:
                self.unusable += 1
                if self.unusable <= LINES_TOLD_MAX:
                    say(f"cannot use line {number}: {error}")
                continue
            if event["type"] not in EVENT_TYPES:
                self.unknown[event["type"]] += 1
            yield event

    def tell_others(self) -> None:
        """How many lines were not told one by one."""
        others = self.unusable - LINES_TOLD_MAX
        if others > 0:
            say(f"and {count(others)} more")

    def tell_unknown(self) -> str:
        """What is to be said of types that nobody counts; empty when there are none."""
        if not self.unknown:
            return ""
        shown = [f'"{one_line(kind[:60])}"' for kind, _ in self.unknown.most_common(TYPES_TOLD_MAX)]
        others = len(self.unknown) - len(shown)
        kinds = ", ".join(shown) + (f" and {count(others)} more" if others else "")
        plural = "" if len(self.unknown) == 1 else "s"
        number = count(self.unknown.total())
        return f" ({number} of unknown type{plural} {kinds}: counted in no total)"


def _tell(place: Place, recorder: Recorder, outcome: Outcome, lines: _Lines, cause: str) -> int:
    with _printing():
        if place.as_json:
            print_json({**_as_dict(recorder, outcome), "unknown_types": dict(lines.unknown)})
        else:
            click.echo(_summary(outcome, lines.tell_unknown()))
    if cause:
        raise NotRecorded(
            f"cannot record all events: {cause}; {count(lines.read)} lines were read, and what "
            "is not among the above may or may not be recorded"
        )
    spooled = _tell_spooled(recorder, outcome)
    return 1 if outcome.refused else spooled


def _summary(outcome: Outcome, unknown: str) -> str:
    """One line; what is unknown stands beside what it is part of."""
    stored, spooled = f"{count(outcome.stored)} stored", f"{count(outcome.spooled)} spooled"
    if outcome.stored:
        stored += unknown
    else:
        spooled += unknown
    parts = [stored, f"{count(outcome.duplicate)} known already"]
    if outcome.spooled:
        parts.append(spooled)
    if outcome.refused:
        parts.append(f"{count(outcome.refused)} rejected: {_codes(outcome)}")
    return ", ".join(parts)
