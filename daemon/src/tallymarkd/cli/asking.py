"""Questions to the daemon."""

from __future__ import annotations

from tallymark.errors import DeliveryError, TallymarkError
from tallymark.protocol.messages import Health, HealthReport, Query, Reply
from tallymark.transport import ask
from tallymarkd._version import __version__
from tallymarkd.cli.place import Place

CLIENT = f"tallymark/{__version__}"

HEALTH_TIMEOUT_SECONDS = 0.5
"""Who is well answers in milliseconds; ``tallymark health`` is to end within a second."""

PATIENT_TIMEOUT_SECONDS = 3.0
"""For whoever is not in such a hurry: a daemon that is only now being started may answer."""

DEEP_TIMEOUT_SECONDS = 8.0
"""Longer than the daemon waits for its probe, so that what it says of one that failed is
heard, on a busy machine as well."""


class QuestionRefused(TallymarkError):
    """The daemon answered that there is no answer."""


def ask_health(
    place: Place, *, deep: bool = False, timeout_seconds: float = PATIENT_TIMEOUT_SECONDS
) -> HealthReport:
    """How the daemon is. Raises ``DeliveryError``, also for one that is stopped.

    ``deep`` asks a second time, for a probe, and waits longer for the answer.
    """
    report = _ask(place, Health(id=1), timeout_seconds)
    if deep:
        report = _ask(place, Health(id=1, deep=True), DEEP_TIMEOUT_SECONDS)
    if not isinstance(report, HealthReport):
        raise DeliveryError("cannot understand tallymarkd's answer: it is no health report")
    return report


def ask_projects(place: Place) -> bytes:
    """Every project's overview, a JSON list. Raises ``DeliveryError``."""
    return _reply(place, Query(id=1, what="projects"))


def ask_state(place: Place, project: str) -> bytes:
    """A project's state, as JSON. Raises ``DeliveryError``, ``QuestionRefused``."""
    return _reply(place, Query(id=1, what="state", project=project))


def _reply(place: Place, query: Query) -> bytes:
    reply = _ask(place, query, PATIENT_TIMEOUT_SECONDS)
    if not isinstance(reply, Reply):
        raise DeliveryError("cannot understand tallymarkd's answer: it is no reply")
    if reply.error:
        raise QuestionRefused(reply.error)
    return reply.body


def _ask(place: Place, question: Query | Health, timeout_seconds: float) -> Reply | HealthReport:
    (answer,) = ask(place.sockets(), [question], timeout_seconds, client=CLIENT)
    return answer
