"""A health report, for people and as one object."""

from __future__ import annotations

from typing import Any

import click

from tallymark.protocol.messages import HealthReport
from tallymarkd.text import one_line


def as_dict(answer: HealthReport) -> dict[str, Any]:
    """Status, reasons and the report's own fields, in one object."""
    return {"status": answer.status, "reasons": answer.reasons, **answer.report}


def print_reasons(answer: HealthReport) -> None:
    """Each reason with its remedy, if there are any."""
    for reason in answer.reasons:
        click.echo(f"  {reason.code}: {one_line(reason.message)}")
        if reason.remedy:
            click.echo(f"    {one_line(reason.remedy)}")
