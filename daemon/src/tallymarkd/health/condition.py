"""How the daemon is, at one moment."""

from __future__ import annotations

from tallymark.protocol.messages import HealthStatus
from tallymarkd.health.commits import commit_reasons
from tallymarkd.health.files import file_reasons
from tallymarkd.health.limits import limit_reasons
from tallymarkd.health.losses import loss_reasons
from tallymarkd.health.report import report
from tallymarkd.health.troubles import TROUBLES, Weight
from tallymarkd.health.vitals import Vitals
from tallymarkd.server.desk import Condition


def condition(vitals: Vitals, *, probe_failed: str = "") -> Condition:
    """Every reason, the gravest first, and the report.

    ``probe_failed`` says what a deep probe met. Loop thread.
    """
    now = vitals.clock()
    free = vitals.free_bytes()
    reasons = sorted(
        [
            *commit_reasons(vitals, now, probe_failed),
            *file_reasons(vitals, free),
            *loss_reasons(vitals, now),
            *limit_reasons(vitals),
        ],
        key=lambda each: -TROUBLES[each.code].weight,
    )
    gravest = TROUBLES[reasons[0].code].weight if reasons else None
    status: HealthStatus = "ok"
    if gravest is not None:
        status = "failing" if gravest is Weight.FAILING else "degraded"
    taking = gravest in (None, Weight.NOTICE)
    return Condition(status, reasons, report(vitals, free), taking)


def status_line(vitals: Vitals) -> str:
    """How it is, in a few words, for a service manager's status. Loop thread."""
    found = condition(vitals)
    if found.reasons:
        codes = ", ".join(reason.code for reason in found.reasons)
        return f"{found.status} ({codes}); tallymark health tells more"
    stored = vitals.engine.books.server.ledger.stored
    return f"{_count(vitals.connections(), 'connection')}, {_count(stored, 'event')} stored"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
