"""Reasons about limits that are reached, and settings that were refused."""

from __future__ import annotations

from collections.abc import Iterator

from tallymark.protocol.messages import Reason
from tallymarkd.core.producers import SECONDS_PER_DAY
from tallymarkd.health.troubles import reason
from tallymarkd.health.vitals import Vitals

CONNECTIONS_SHARE_BAD = 0.9
"""Told before the last connection is taken: then nobody could ask for health any more."""

CONNECTIONS_SHARE_WELL = 0.8
"""What is told ends here, so that agents that come and go do not tell it anew."""


def limit_reasons(vitals: Vitals) -> Iterator[Reason]:
    """What has no room any more, and what was not taken over."""
    settings, books = vitals.settings, vitals.engine.books
    room = vitals.connections_max()
    share = vitals.connections() / room
    bad, well = share >= CONNECTIONS_SHARE_BAD, share < CONNECTIONS_SHARE_WELL
    if vitals.pulse.room.look(bad=bad, well=well):
        yield reason(
            "connections_full",
            f"{vitals.connections()} of {room} connections are open",
        )
    if room < settings.connections_max:
        yield reason(
            "connections_limited",
            f"cannot serve more than {room} connections, and connections_max is "
            f"{settings.connections_max}: the limit on open files leaves no more",
        )
    projects = vitals.engine.project_count
    if projects >= settings.projects_max:
        yield reason(
            "projects_full",
            f"cannot take events of a new project: there are {projects}, "
            f"and projects_max is {settings.projects_max}",
        )
    if len(books.server.marks) >= settings.producers_max and not _some_are_old(vitals):
        yield reason(
            "producers_full",
            f"cannot take a new producer: {len(books.server.marks)} are known, "
            f"and producers_max is {settings.producers_max}",
        )
    problem = vitals.config_problem()
    if problem:
        yield reason(
            "reload_refused",
            f"cannot reload, the settings of before are in force: {problem}",
        )


def _some_are_old(vitals: Vitals) -> bool:
    """Whether a new producer would take the place of one not heard of for long."""
    server, settings = vitals.engine.books.server, vitals.settings
    limit = server.running_seconds - settings.mark_days_max * SECONDS_PER_DAY
    return any(mark.contact_seconds < limit for mark in server.marks.values())
