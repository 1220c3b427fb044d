"""Damage of the journal, as ``verify`` tells it: a loss, history, or known already.

In the words of a start (core/recovery_report.py): what that would tell of the same bytes.
"""

from __future__ import annotations

import contextlib

from tallymark.errors import DamagedError
from tallymarkd.core.ledger import LOSSES_MAX, Loss
from tallymarkd.core.recovery_report import RecoveryHistory, damage_text, damage_words
from tallymarkd.core.verify_report import Code, VerifyReport
from tallymarkd.core.verify_state import Loaded
from tallymarkd.storage.damage import Damage
from tallymarkd.storage.index_reading import IndexReading


class DamageCheck:
    """Tells one place after the other. The index is asked as long as it is open."""

    def __init__(
        self,
        report: VerifyReport,
        loaded: Loaded,
        history: RecoveryHistory,
        index: IndexReading | None,
    ) -> None:
        self._report = report
        self._files = loaded.files
        self._history = history
        self._index = index
        server = loaded.servers[0][1] if loaded.servers else None
        self._reach = server.applied_lsn if server else 0
        self._losses: list[Loss] = server.ledger.losses[-LOSSES_MAX:] if server else []

    def found(self, damage: Damage) -> None:
        """Bytes that do not verify, or records that are missing."""
        keys = self._keys(damage)
        if self._is_told(damage):
            self._report.known.append(damage_text(damage, keys))
            return
        word, text = damage_words(damage, keys)
        if word == "history":
            self._report.find("history", text)
        else:
            self._report.find("lost" if damage.numbers else "corrupt", text)

    def recorded(self, damage: Damage, lsn: int) -> None:
        """What a start has put into the journal, under this number."""
        keys = self._keys(damage)
        if lsn <= self._reach:
            self._report.known.append(damage_text(damage, keys))
            return
        word, text = damage_words(damage, keys)
        code: Code = "history" if word == "history" else "lost"
        self._report.find(code, f"{text}; the ledger does not have it yet")

    def _keys(self, damage: Damage) -> dict[tuple[int, int], int]:
        """Its numbers with how many of their keys the index has; nothing where the totals
        do not have what stood there."""
        if not self._history.is_counted(damage, self._losses):
            return {}
        if not self._history.tells(damage) and self._files.lacks(damage.through_lsn):
            return {}
        self._report.history_lost += damage.events
        numbers, keys = (damage.from_lsn, damage.through_lsn), 0
        with contextlib.suppress(DamagedError):  # the check of the keys tells it
            keys = self._index.count_between(*numbers) if self._index else 0
        return {numbers: keys}

    def _is_told(self, damage: Damage) -> bool:
        """Whether a start has told of it: it keeps an account, and the ledger names losses."""
        if self._history.tells(damage):
            return True
        return damage.numbers > 0 and any(
            (each.from_lsn, each.through_lsn) == (damage.from_lsn, damage.through_lsn)
            for each in self._losses
        )
