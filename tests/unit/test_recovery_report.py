from __future__ import annotations

import errno
import logging
from pathlib import Path

import msgspec
import pytest

from tallymark.fs import OsFileSystem
from tallymarkd.core.layout import Layout
from tallymarkd.core.ledger import Loss
from tallymarkd.core.recovery_report import (
    REPORTS_MAX,
    Counted,
    RecoveryHistory,
    RecoveryReport,
    damage_text,
    keep_report,
    read_history,
    read_report,
)
from tallymarkd.storage.survey import Damage
from tests.daemon_parts import PRODUCERS, producer_bytes
from tests.faulty_fs import FaultyFs

ALICE = f"producer {PRODUCERS[0]}"
WHERE = "segment 3, bytes 8192 to 8292"


def a_damage(
    start: int = 8192,
    *,
    torn: bool = False,
    numbers: int = 2,
    events: int = 0,
    reason: str = "rot",
    segment: int = 3,
) -> Damage:
    return Damage(
        segment=segment, start=start, end=start + 100, from_lsn=5, through_lsn=4 + numbers,
        torn=torn, reason=reason, producer=producer_bytes(PRODUCERS[0]), from_seq=2,
        through_seq=3, events=events,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            a_damage(torn=True),
            "torn: segment 3, bytes 8192 to 8292: rot; it was never acknowledged",
        ),
        (
            a_damage(numbers=0),
            "corrupt: segment 3, bytes 8192 to 8292: rot; no number is missing",
        ),
        (
            a_damage(),
            f"corrupt: {WHERE}: rot; cannot be read: numbers 5 to 6 of {ALICE} (seq 2 to 3)",
        ),
        (
            a_damage(reason="restored on D", segment=0, events=2),
            f"restored on D; not in the backup: numbers 5 to 6 of {ALICE} (seq 2 to 3)",
        ),
        (
            a_damage(reason="restored on D", segment=0),
            f"restored on D; never used: numbers 5 to 6 of {ALICE} (seq 2 to 3)",
        ),
    ],
)
def test_damage_in_words(damage: Damage, text: str) -> None:
    assert damage_text(damage) == text


def test_an_account_reads_as_lines() -> None:
    report = RecoveryReport(damage=[a_damage()], losses=[Loss(reason="gone", events=2)])

    assert [line.partition(":")[0] for line in report.lines()] == ["corrupt", "lost"]


def test_a_later_start_does_not_take_the_only_account_away(tmp_path: Path) -> None:
    fs, layout = OsFileSystem(), Layout(tmp_path)
    for number in range(3):
        losses = number % 2
        report = RecoveryReport(at=f"{number}", new_losses=losses, damage=[a_damage(number)])
        keep_report(fs, layout, report, read_history(fs, layout))

    assert read_report(fs, layout) == report
    history = read_history(fs, layout)
    assert [each.at for each in history.reports] == ["1"]
    assert history.tells(a_damage(1))
    assert not history.tells(a_damage(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "recovery-history.json",
        "recovery.json",
    ]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_the_newest_accounts_are_kept(tmp_path: Path) -> None:
    fs, layout = OsFileSystem(), Layout(tmp_path)
    for number in range(REPORTS_MAX + 3):
        report = RecoveryReport(at=f"{number}", new_damage=1)
        keep_report(fs, layout, report, read_history(fs, layout))

    kept = [each.at for each in read_history(fs, layout).reports]
    assert kept == [f"{number}" for number in range(3, REPORTS_MAX + 3)]


def test_damaged_accounts_are_no_accounts(tmp_path: Path) -> None:
    fs, layout = OsFileSystem(), Layout(tmp_path)
    for body in (b"", b"{", b"[]", b"\xff\xfe"):
        layout.recovery_history.write_bytes(body)
        layout.recovery_report.write_bytes(body)
        assert read_history(fs, layout) == RecoveryHistory()
        assert read_report(fs, layout) is None


@pytest.mark.parametrize("kind", ["create", "write", "sync", "replace"])
def test_what_cannot_be_kept_is_told_and_the_former_stays(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    fs, layout = FaultyFs(), Layout(tmp_path)
    keep_report(fs, layout, RecoveryReport(at="1"), RecoveryHistory())
    fs.fail(kind, errno.ENOSPC, times=9)

    with caplog.at_level(logging.WARNING):
        keep_report(fs, layout, RecoveryReport(at="2"), RecoveryHistory())

    kept = msgspec.json.decode(layout.recovery_report.read_bytes(), type=RecoveryReport)
    assert kept.at == "1"
    assert "cannot keep the account" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["recovery.json"]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (3, "the index still has their keys, so no repeat counts again"),
        (0, "no key of theirs is left, so a repeat of one that had a key counts again"),
    ],
)
def test_history_that_the_totals_have_in_words(keys: int, text: str) -> None:
    damage = a_damage(events=2)
    counted = Counted(from_lsn=5, through_lsn=6, keys=keys)
    gone = f"2 events, numbers 5 to 6 of {ALICE} (seq 2 to 3)"

    assert RecoveryReport(damage=[damage], counted=[counted]).lines() == [
        f"history: {WHERE}: rot; gone from the history, and not from the totals: {gone}; {text}"
    ]


@pytest.mark.parametrize(
    ("damage", "losses", "counted"),
    [
        (a_damage(), [], True),
        (a_damage(), [Loss(reason="", from_lsn=7, through_lsn=9)], True),
        (a_damage(), [Loss(reason="", from_lsn=6, through_lsn=9)], False),
        (a_damage(torn=True), [], False),
        (a_damage(numbers=0), [], False),
        (a_damage(reason="restored on D", segment=0), [], False),
    ],
)
def test_what_no_loss_names_the_totals_have(
    damage: Damage, losses: list[Loss], counted: bool
) -> None:
    assert RecoveryHistory().is_counted(damage, losses) == counted


def test_what_was_told_when_it_was_found_is_believed_later() -> None:
    lost, kept = a_damage(1), a_damage(2, numbers=9)
    numbers = Counted(from_lsn=kept.from_lsn, through_lsn=kept.through_lsn, keys=0)
    history = RecoveryHistory(reports=[RecoveryReport(damage=[lost, kept], counted=[numbers])])

    assert not history.is_counted(lost, [])
    assert history.is_counted(kept, [Loss(reason="", from_lsn=1, through_lsn=99)])
