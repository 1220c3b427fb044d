"""File descriptors: how many there may be, and how many of them connections get."""

from __future__ import annotations

import logging
import resource

from tallymarkd.server.server import TURNED_AWAY_MAX

OWN_DESCRIPTORS = 48
"""For the daemon itself: the journal and its next segment, the index, state files,
locks, spools that it takes in, the loop. An idle daemon has about 20 open."""

RESERVE = OWN_DESCRIPTORS + TURNED_AWAY_MAX
"""Descriptors that no connection that is served may have."""

log = logging.getLogger("tallymarkd")


def make_room(connections_max: int) -> int:
    """Raise this process's limit on open files as far as these connections need it.

    Gives how many of them there are descriptors for, which is told in the log when
    they are fewer: the limit is never raised beyond what the user may have.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + RESERVE
    limit = _raised(soft, hard, wanted)
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        return connections_max
    found = max(1, limit - RESERVE)
    log.warning("cannot serve connections_max = %d connections: the limit on open files is %d, "
                "which leaves %d; raise it (LimitNOFILE= of the unit, ulimit -Hn) and restart",
                connections_max, limit, found)  # fmt: skip
    return found


def _raised(soft: int, hard: int, wanted: int) -> int:
    """The limit in force after the try to have ``wanted``."""
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError):  # macOS has another limit behind the one it tells
        return soft
    return target
