"""``tallymark status``: is it running, since when, how well."""

from __future__ import annotations

import click

from tallymark.errors import DeliveryError
from tallymark.protocol.messages import HealthReport
from tallymarkd.cli.asking import ask_health
from tallymarkd.cli.output import NOTHING, count, local, many, print_json, say, size, span
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.report import as_dict, print_reasons
from tallymarkd.cli.unreached import remedy, where
from tallymarkd.text import one_line

WIDTH = 13


@click.command(name="status")
@json_option
@with_place
def command(place: Place) -> int:
    """Is tallymarkd running, since when, how well.

    Exit code 0 when it runs, 1 when it does not.
    """
    try:
        answer = ask_health(place)
    except DeliveryError as error:
        if place.as_json:
            print_json({"running": False, "cause": str(error)})
        first, *others = [*where(error), *remedy(error)]
        say(f"tallymark: {first}")
        for line in others:
            say(f"  {line}")
        return 1
    if place.as_json:
        print_json({"running": True, **as_dict(answer)})
        return 0
    show_status(answer)
    return 0


def show_status(answer: HealthReport) -> None:
    """Print the report for people."""
    report = answer.report
    click.echo(f"tallymarkd {report.get('version', '')} is running")
    for name, value in rows(answer):
        click.echo(f"  {name:<{WIDTH}}{one_line(value)}")
    print_reasons(answer)


def rows(answer: HealthReport) -> list[tuple[str, str]]:
    """What is shown, each with its name."""
    report = answer.report
    ledger = report.get("ledger") or {}
    rejected = ledger.get("rejected") or {}
    free = report.get("disk_free_bytes")  # None for a state directory that is gone
    kept = [
        f"{count(ledger.get('stored', 0))} stored",
        f"{count(ledger.get('duplicate', 0))} duplicate",
        f"{count(sum(rejected.values()))} rejected",
        f"{count(ledger.get('lost', 0))} lost",
    ]
    waiting = report.get("spools_waiting", 0)
    found = [
        ("health", answer.status),
        ("since", f"{local(report.get('started_at'))} ({span(report.get('uptime_seconds', 0))})"),
        ("pid", str(report.get("pid", NOTHING))),
        ("socket", str(report.get("socket", NOTHING))),
        ("state", str(report.get("state_dir", NOTHING))),
        ("durable LSN", count(report.get("durable_lsn", 0))),
        ("events", ", ".join(kept)),
        ("projects", count(report.get("projects", 0))),
        ("connections", count(report.get("connections", 0))),
        ("memory", size(report.get("rss_bytes", 0))),
        ("disk free", NOTHING if free is None else size(free)),
    ]
    if waiting:
        found.append(
            ("waiting", f"{many(waiting, 'spool')} that this daemon cannot take; see its log")
        )
    return found
