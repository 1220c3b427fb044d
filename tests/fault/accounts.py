"""What agents sent and were promised, held against what a daemon has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tallymark.errors import DeliveryError, StorageError
from tallymark.questions import ask_state
from tallymark.state import AgentProfile
from tests.daemon import Daemon, wait_for
from tests.fault.raw_agent import BATCH_EVENTS, number_of, tokens_of
from tests.stored_ids import ids_in_journal

NOTES_MAX = 8
"""Notes that are printed of all that went wrong."""


@dataclass(frozen=True)
class Account:
    """One agent's: events 1 to ``sent`` may be there, 1 to ``acked`` must be."""

    name: str
    project: str
    sent: int
    acked: int


@dataclass
class Findings:
    """What is not as it was promised, added up over an ordeal."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    def blame(self, where: str, what: str, *, lost: int = 0, doubled: int = 0) -> None:
        """Count it: as lost, as doubled, or else as wrong."""
        self.lost += lost
        self.doubled += doubled
        self.wrong += not (lost or doubled)
        if len(self.notes) < NOTES_MAX:
            self.notes.append(f"{where}: {what}")

    def check(self, holds: bool, where: str, what: str) -> None:
        """Blame what does not hold."""
        if not holds:
            self.blame(where, what)


def judge(
    daemon: Daemon,
    accounts: Iterable[Account],
    findings: Findings,
    where: str,
    *,
    whole_history: bool = True,
) -> list[Account]:
    """Hold a running daemon, to which nobody is sending, against the accounts.

    Its books and its journal are read each for itself. An agent's events come in
    order: so what is there must be the events 1 to n, n between ``acked`` and ``sent``.
    Without ``whole_history`` the oldest may have been retired from the journal.
    Gives the accounts of agents that are gone: what is there now has to stay.
    """
    accounts = list(accounts)
    in_journal: dict[str, list[int]] = defaultdict(list)
    looked = wait_for("a whole look at the journal", lambda: _look(daemon))
    for found in looked.ids:
        try:
            name, number = number_of(found)
        except ValueError:
            findings.blame(where, f"{found} was stored, a duplicate by its key", doubled=1)
        else:
            in_journal[name].append(number)
    known = {account.name for account in accounts}
    for name in in_journal.keys() - known:
        findings.blame(where, f"nobody is named {name}", doubled=len(in_journal[name]))
    profiles = _profiles(daemon, {account.project for account in accounts})
    counts = []
    for account in accounts:
        profile = profiles.get((account.project, account.name))
        counts.append(0 if profile is None else profile.total_invocations)
        tokens = 0 if profile is None else profile.total_tokens
        _judge_books(account, counts[-1], tokens, findings, where)
        numbers = in_journal[account.name]
        _judge_journal(account, counts[-1], numbers, findings, where, whole_history)
    _judge_health(daemon, counts, findings, where)
    return [replace(a, sent=n, acked=n) for a, n in zip(accounts, counts, strict=True)]


@dataclass(frozen=True)
class _Looked:
    ids: list[str]


def _look(daemon: Daemon) -> _Looked | None:
    """What is in the journal; None when a segment was retired while it was read."""
    try:
        return _Looked(ids_in_journal(daemon.state_dir))
    except StorageError:
        return None


def _profiles(daemon: Daemon, projects: Iterable[str]) -> dict[tuple[str, str], AgentProfile]:
    found: dict[tuple[str, str], AgentProfile] = {}
    for project in projects:
        try:
            state = ask_state([daemon.socket], project)
        except DeliveryError:
            continue  # nothing was kept of it: its accounts tell whether that is right
        found.update({(project, name): profile for name, profile in state.agents.items()})
    return found


def _judge_books(account: Account, count: int, tokens: int, findings: Findings, where: str) -> None:
    name = account.name
    if count < account.acked:
        findings.blame(where, f"the books have {count} events of {name}, of {account.acked} "
                       "acknowledged", lost=account.acked - count)  # fmt: skip
    if count > account.sent:
        findings.blame(where, f"the books have {count} events of {name}, of {account.sent} sent",
                       doubled=count - account.sent)  # fmt: skip
    expected = sum(tokens_of(name, number) for number in range(1, count + 1))
    findings.check(tokens == expected, where, f"{name}: other tokens than those of {count} events")
    findings.check(count % BATCH_EVENTS == 0, where, f"{name}: half a batch was counted")


def _judge_journal(
    account: Account,
    count: int,
    numbers: Sequence[int],
    findings: Findings,
    where: str,
    whole_history: bool,
) -> None:
    name = account.name
    times = Counter(numbers)
    extra = sum(times.values()) - len(times)
    if extra:
        findings.blame(where, f"{name}: {extra} events twice in the journal", doubled=extra)
    unsent = sum(number > account.sent for number in times)
    if unsent:
        findings.blame(where, f"{name}: {unsent} events that nobody sent", doubled=unsent)
    if whole_history:
        missing = sum(number not in times for number in range(1, account.acked + 1))
        if missing:
            findings.blame(where, f"{name}: {missing} events not in the journal", lost=missing)
    findings.check(all(b == a + 1 for a, b in pairwise(sorted(times))), where,
                   f"{name}: a hole in the journal")  # fmt: skip
    last = max(times, default=count)
    findings.check(last == count, where, f"{name}: the journal ends at {last}, not at {count}")


def _judge_health(daemon: Daemon, counts: Sequence[int], findings: Findings, where: str) -> None:
    report = daemon.health().report
    ledger = report["ledger"]
    repeated = sum(max(0, count // BATCH_EVENTS - 1) for count in counts)
    found = {key: ledger[key] for key in ("stored", "duplicate", "rejected", "skipped", "lost")}
    expected = {
        "stored": sum(counts), "duplicate": repeated, "rejected": {}, "skipped": 0, "lost": 0,
    }  # fmt: skip
    findings.check(found == expected, where, f"the ledger is {found}, not {expected}")
    damage = report["recovery"]["new_losses"]
    findings.check(damage == 0, where, f"recovery tells of {damage} losses")
