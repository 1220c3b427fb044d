"""``tallymark import claude-code``: transcripts in, usages, runs and sessions recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import click

from tallymark import paths
from tallymark.errors import DeliveryError, TallymarkError, UsageError
from tallymark.events import Event, Usage
from tallymark.settings import is_disabled
from tallymarkd.cli.asking import ask_health
from tallymarkd.cli.import_result import Costs, print_result, remarks, result_as_dict
from tallymarkd.cli.output import print_json, say
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.progress import Progress
from tallymarkd.cli.recording import NotRecorded, Outcome, Recorder
from tallymarkd.cli.unreached import Unreached
from tallymarkd.sources.claude_code import SOURCE, ImportPlan, read_transcripts
from tallymarkd.sources.claude_files import default_root, find_transcripts, transcript_bytes

SOURCE_TEXT = "Claude Code transcripts"


@click.command(name="claude-code")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--project",
    metavar="NAME",
    help="The project of everything.  [default: TALLYMARK_PROJECT, else that of each "
    "session's directory]",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(0.1, 3600.0),
    default=30.0,
    metavar="SECONDS",
    help="How long to wait for a tallymarkd that goes away meanwhile.  [default: 30]",
)
@json_option
@with_place
def command(
    place: Place,
    /,
    path: Path | None,
    project: str | None,
    timeout_seconds: float,
) -> int:
    """Record the runs and tokens in Claude Code's transcripts.

    PATH is a transcript or a directory of them; without it CLAUDE_CONFIG_DIR/projects, else
    ~/.claude/projects. What was imported before is known and counts nothing; what is still
    being written waits for the next import.
    """
    files = find_transcripts(path, place.env)
    if not files and not place.as_json:
        say(f"nothing to import: there is no transcript in {path or default_root(place.env)}")
        return 0
    if is_disabled(place.env):
        raise UsageError(f"cannot import {SOURCE_TEXT}: TALLYMARK_DISABLED is set")
    try:
        ask_health(place)
    except DeliveryError as error:
        raise Unreached(f"cannot import {SOURCE_TEXT}", error) from None
    with Progress(place, "reading", transcript_bytes(files), in_bytes=True) as progress:
        plan = read_transcripts(
            files,
            now=datetime.now(UTC),
            project=project or place.env.get("TALLYMARK_PROJECT") or None,
            project_of=lambda directory: paths.project_of_directory(Path(directory)),
            on_progress=progress.advance,
        )
    if _is_something_else(plan) and not place.as_json:
        raise NoTranscript(path or default_root(place.env), remarks(plan.report, Outcome()))
    total = sum(1 for _ in plan.events())
    costs = Costs()
    with Progress(place, "recording", total) as progress:
        outcome = record(place, plan, timeout_seconds, costs, progress.advance)
    if place.as_json:
        print_json(result_as_dict(plan, outcome, costs))
    else:
        print_result(place, plan, outcome, costs)
    failed = outcome.refused or plan.report.unreadable or _is_something_else(plan)
    return 1 if failed else 0


class NoTranscript(TallymarkError):
    """What was given is no transcript. The notes say what is wrong with it."""

    def __init__(self, path: Path, notes: list[str]) -> None:
        super().__init__(
            f"cannot import {SOURCE_TEXT}: in {path} is none; give a transcript of Claude "
            "Code, or a directory of them"
        )
        self.__notes__ = notes


def _is_something_else(plan: ImportPlan) -> bool:
    """Whether there was something to read, and nothing of it was a session."""
    report = plan.report
    sessions = report.sessions or report.sessions_unanswered
    return not sessions and bool(report.faults.counts)


def record(
    place: Place,
    plan: ImportPlan,
    timeout_seconds: float,
    costs: Costs,
    on_progress: Callable[[int], None],
) -> Outcome:
    """Hand every event over, each project's from a producer of its own."""
    outcome = Outcome()
    for project, events in by_project(plan.events()):
        with Recorder(place, project, timeout_seconds, source=SOURCE, spools=False) as recorder:
            try:
                for event in events:
                    if isinstance(event, Usage):
                        costs.add(event)
                    recorder.put(event)
                    on_progress(1)
                recorder.settle()
            except NotRecorded as error:
                raise NotRecorded(
                    f"cannot import all {SOURCE_TEXT}: {error}; importing again is harmless: "
                    "what is recorded is known then"
                ) from None
            outcome.add(recorder.outcome())
    return outcome


def by_project(
    events: Iterable[tuple[str, Event]],
) -> Iterable[tuple[str, Iterable[Event]]]:
    """Events that stand in order of project, cut where the project changes."""
    for project, group in groupby(events, key=itemgetter(0)):
        yield project, (event for _, event in group)
