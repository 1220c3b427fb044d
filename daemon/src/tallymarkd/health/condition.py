"""How the daemon is, at one moment."""

from __future__ import annotations

from tallymark.protocol.messages import HealthStatus, Reason
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
    free = vitals.free_bytes()
    reasons = _reasons(vitals, free, probe_failed)
    weight = _weight(reasons)
    return Condition(_status(weight), reasons, report(vitals, free), weight <= Weight.NOTICE)


def status_line(vitals: Vitals) -> str:
    """How it is, in a few words, for a service manager's status. Loop thread."""
    reasons = _reasons(vitals, vitals.free_bytes())
    if reasons:
        codes = ", ".join(reason.code for reason in reasons)
        return f"{_status(_weight(reasons))} ({codes}); tallymark health tells more"
    stored = vitals.engine.books.server.ledger.stored
    return f"{_count(vitals.connections(), 'connection')}, {_count(stored, 'event')} stored"


def _reasons(vitals: Vitals, free: int | None, probe_failed: str = "") -> list[Reason]:
    now = vitals.clock()
    return sorted(
        [
            *commit_reasons(vitals, now, probe_failed),
            *file_reasons(vitals, free),
            *loss_reasons(vitals, now),
            *limit_reasons(vitals),
        ],
        key=lambda each: -TROUBLES[each.code].weight,
    )


def _weight(reasons: list[Reason]) -> int:
    """The gravest, which stands first; 0 without any."""
    return TROUBLES[reasons[0].code].weight if reasons else 0


def _status(weight: int) -> HealthStatus:
    if weight >= Weight.FAILING:
        return "failing"
    return "degraded" if weight else "ok"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
