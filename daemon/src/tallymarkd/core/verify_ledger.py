"""The ledger, the marks and the last numbers of ``server.json``, held against a recount."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from tallymarkd.core.ledger import Ledger, Mark, ServerState
from tallymarkd.core.recount import Counts, Recount
from tallymarkd.core.verify_report import GenerationPart, VerifyReport
from tallymarkd.core.verify_state import LOSSES_BETWEEN, RETIRED, Losses


@dataclass(slots=True)
class _Seen:
    """What the walk had counted where a generation ends."""

    part: GenerationPart
    server: ServerState
    counts: Counts = field(default_factory=Counts)
    last_lsn: dict[str, int] = field(default_factory=dict)
    producers: dict[str, tuple[int, Counts]] = field(default_factory=dict)
    """Each producer's seq, and what had been counted of it."""


class LedgerCheck:
    """Goes along with the recount, and compares at the end."""

    def __init__(self, servers: list[tuple[GenerationPart, ServerState]], recount: Recount) -> None:
        self._recount = recount
        self._todo = sorted(
            (_Seen(part, server) for part, server in servers),
            key=lambda each: each.server.applied_lsn,
        )
        self._done: list[_Seen] = []

    def before(self, lsn: int | None) -> None:
        """The record of this number comes next; None at the end."""
        while self._todo and (lsn is None or self._todo[0].server.applied_lsn < lsn):
            seen = self._todo.pop(0)
            seen.counts = self._recount.total.copy()
            seen.last_lsn = dict(self._recount.last_lsn)
            seen.producers = {
                name: (each.through_seq, each.events.copy())
                for name, each in self._recount.producers.items()
                if each.through_seq and not each.said_goodbye
            }
            self._done.append(seen)

    def finish(self, report: VerifyReport, losses: Losses, begins_after_lsn: int) -> None:
        """Compare each generation with the one before and the records in between."""
        self.before(None)
        report.after_ledger = self._recount.total.copy()
        base: _Seen | None = None
        for seen in self._done:
            reach, after = seen.server.applied_lsn, 0 if base is None else base.server.applied_lsn
            reachable = after >= begins_after_lsn if base else begins_after_lsn == 0
            if reachable:
                _compare(report, seen, base, after, losses)
            else:
                seen.part.reason = RETIRED
            if reach >= begins_after_lsn or seen is self._done[-1]:
                base = seen
        if self._done:
            newest = self._done[-1]
            report.ledger = counts_of(newest.server.ledger)
            report.after_ledger = self._recount.total.minus(newest.counts)
            report.ledger_agrees = newest.part.agrees
            if not losses.within(0, newest.server.applied_lsn):
                _compare_places(report, newest, begins_after_lsn)


def counts_of(ledger: Ledger) -> Counts:
    """The figures of a ledger."""
    return Counts(
        received=ledger.received,
        stored=ledger.stored,
        duplicate=ledger.duplicate,
        rejected=dict(sorted(ledger.rejected.items())),
        skipped=ledger.skipped,
        lost=ledger.lost,
    )


def _compare(
    report: VerifyReport, seen: _Seen, base: _Seen | None, after: int, losses: Losses
) -> None:
    counted = seen.counts if base is None else seen.counts.minus(base.counts)
    ledger = counts_of(seen.server.ledger)
    if base is not None:
        ledger = ledger.minus(counts_of(base.server.ledger))
    wrong = _differences(ledger, counted)
    seen.part.agrees = not wrong
    if not wrong:
        return
    if losses.within(after, seen.server.applied_lsn):
        seen.part.agrees, seen.part.reason = None, LOSSES_BETWEEN
        return
    seen.part.reason = "; ".join(wrong)
    since = f"since number {after}, " if base is not None else ""
    report.find("disagrees", f"{seen.part.path}: {since}{'; '.join(wrong)}")


def _differences(ledger: Counts, counted: Counts) -> list[str]:
    """In words, where the ledger says other than the records. It may have lost more:
    what an older generation of a state file lacks is counted there as well."""
    ours, theirs = msgspec.structs.asdict(counted), msgspec.structs.asdict(ledger)
    if ledger.lost >= counted.lost:
        ours["lost"] = theirs["lost"]
    ours["rejected"] = {code: n for code, n in sorted(counted.rejected.items()) if n}
    theirs["rejected"] = {code: n for code, n in sorted(ledger.rejected.items()) if n}
    return [
        f"the ledger says {theirs[name]} {name}, the journal has {ours[name]}"
        for name in ours
        if ours[name] != theirs[name]
    ]


def _compare_places(report: VerifyReport, newest: _Seen, begins_after_lsn: int) -> None:
    """Each project's last number, and each producer's mark."""
    server, path = newest.server, newest.part.path
    for name in sorted({*server.last_lsn, *newest.last_lsn}):
        told, found = server.last_lsn.get(name, 0), newest.last_lsn.get(name, 0)
        if told != found and max(told, found) > begins_after_lsn:
            report.find(
                "disagrees",
                f"{path}: the last number of {name} is {told}, in the journal it is {found}",
            )
    for name in sorted({*server.marks, *newest.producers}):
        mark, (seq, counts) = server.marks.get(name), newest.producers.get(name, (None, None))
        if mark is None:
            report.notes.append(f"producer {name} has no mark any more: its time was over")
        elif mark.seq != seq and (seq is not None or not begins_after_lsn):
            report.find(
                "disagrees",
                f"{path}: the mark of producer {name} is {mark.seq}, in the journal it is {seq}",
            )
        elif counts is not None and not begins_after_lsn and not _says(mark, counts):
            report.find("disagrees", f"{path}: of producer {name} it has counted other events")


def _says(mark: Mark, counts: Counts) -> bool:
    rejected = sum(counts.rejected.values())
    counted = (counts.received, counts.stored, counts.duplicate, rejected, counts.skipped)
    told = (mark.received, mark.stored, mark.duplicate, mark.rejected, mark.skipped)
    return counted == told
