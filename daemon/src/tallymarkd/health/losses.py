"""Reasons about what is missing: found by the last start, told by agents, or in the sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tallymark.protocol.messages import Reason
from tallymarkd.core.books import Skipped
from tallymarkd.core.layout import PROJECT_FILE, SERVER_FILE
from tallymarkd.core.ledger import Loss
from tallymarkd.health.troubles import reason
from tallymarkd.health.vitals import Vitals

LOSSES_TOLD_MAX = 5
"""Losses named in a reason; the report has more."""

DROPS_TOLD_SECONDS = 24 * 3600.0
"""For so long after the last of them are dropped events told, so that somebody who looks
once a day sees them. The ledger has them for ever."""


def loss_reasons(vitals: Vitals, now: float) -> Iterator[Reason]:
    """What is missing, named."""
    yield from _found_at_the_start(vitals)
    _, since = vitals.look(now)
    books = vitals.engine.books
    if since is not None and since <= DROPS_TOLD_SECONDS:
        yield reason(
            "events_dropped",
            "agents have lost events before the daemon had them: "
            + _named(books.skips, books.new_skips),
        )
    if not books.server.ledger.adds_up:
        yield reason(
            "ledger_differs",
            "the ledger does not add up: events that were received have no verdict",
        )


def _found_at_the_start(vitals: Vitals) -> Iterator[Reason]:
    found = vitals.recovery
    if found.new_losses:
        yield reason(
            "events_lost",
            "the last start found acknowledged events missing: "
            + _named(found.losses, found.new_losses, newest=False),
        )
    elif found.new_damage:
        yield reason(
            "journal_damaged",
            f"the last start found {found.new_damage} corrupt places in the "
            "journal; the state files have what stood there",
        )
    files = [
        name for name in found.quarantined if PROJECT_FILE in name or name.startswith(SERVER_FILE)
    ]
    if files and not found.new_losses:  # else it was not all made again
        yield reason(
            "state_files_damaged",
            f"the last start found {len(files)} damaged state files and keeps them in "
            f"quarantine/: {', '.join(files[:LOSSES_TOLD_MAX])}",
        )


def _named(losses: Sequence[Loss | Skipped], count: int, *, newest: bool = True) -> str:
    """Some of them, each by producer and range, and how many more there are."""
    shown = losses[-LOSSES_TOLD_MAX:] if newest else losses[:LOSSES_TOLD_MAX]
    told = "; ".join(loss.text() for loss in shown)
    more = count - len(shown)
    return told + (f"; and {more} more" if more > 0 else "")
