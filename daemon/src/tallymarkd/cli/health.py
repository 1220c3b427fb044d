"""``tallymark health``: what is wrong, and what to do about it."""

from __future__ import annotations

import click

from tallymark.errors import ConnectError, DeliveryError
from tallymark.protocol.messages import HealthReport, Reason
from tallymarkd.cli.asking import HEALTH_TIMEOUT_SECONDS, PATIENT_TIMEOUT_SECONDS, ask_health
from tallymarkd.cli.output import print_json
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.report import as_dict, print_reasons

START = "start or restart tallymarkd, or say with --socket or TALLYMARK_SOCKET where it listens"
"""What to do where the error itself knows nothing better."""

EXIT_CODES = {"ok": 0, "degraded": 1, "failing": 2}


@click.command(name="health")
@click.option(
    "--deep",
    is_flag=True,
    help="Write a probe through the whole commit path, to the disk; wait longer.",
)
@json_option
@with_place
def command(place: Place, deep: bool) -> int:
    """What is wrong, and what to do about it.

    Exit code 0 ok, 1 degraded, 2 failing or unreachable.
    """
    try:
        seconds = PATIENT_TIMEOUT_SECONDS if deep else HEALTH_TIMEOUT_SECONDS
        answer = ask_health(place, deep=deep, timeout_seconds=seconds)
    except DeliveryError as error:
        answer = unreachable(error)
    if place.as_json:
        print_json(as_dict(answer))
    else:
        click.echo(answer.status)
        print_reasons(answer)
    return EXIT_CODES[answer.status]


def unreachable(error: DeliveryError) -> HealthReport:
    """The report about a daemon that gives none."""
    message, remedy = str(error), ""
    if isinstance(error, ConnectError):
        message, remedy = error.message, error.remedy
    reason = Reason(code="unreachable", message=message, remedy=remedy or START)
    return HealthReport(id=0, status="failing", reasons=[reason])
