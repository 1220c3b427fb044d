"""What a client counts."""

from __future__ import annotations

import msgspec


class ClientStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of events since the client was made (in a forked child: since the fork).

    Every event recorded is in one of ``queued``, ``unacknowledged``, ``spooled``,
    ``acknowledged`` and ``dropped``. Of the acknowledged, ``duplicate`` were
    known already and ``rejected`` (by code) refused. ``ignored`` counts calls
    that were not understood, by what was wrong.
    """

    queued: int = 0
    unacknowledged: int = 0
    spooled: int = 0
    sent: int = 0
    acknowledged: int = 0
    duplicate: int = 0
    dropped: dict[str, int] = {}
    rejected: dict[str, int] = {}
    ignored: dict[str, int] = {}
