from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tallymarkd.core.ledger import Loss
from tallymarkd.health.losses import DROPS_TOLD_SECONDS
from tests.daemon_parts import PRODUCERS, UID, Bench, run_end
from tests.patient import Patient


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with Bench() as bench:
        yield Patient(bench, tmp_path)


def events_lost(patient: Patient) -> None:
    patient.recovery.new_losses = 7
    patient.recovery.losses = [
        Loss(reason="rot", producer=PRODUCERS[0], from_seq=3, through_seq=4, events=number)
        for number in range(1, 8)
    ]


def journal_damaged(patient: Patient) -> None:
    patient.recovery.new_damage = 2


def state_files_damaged(patient: Patient) -> None:
    patient.recovery.quarantined = [
        "spotter-0123456789.agent_metrics.json.1",
        "000000000001.seg.torn-4096-0badcafe",
        "server.json.bak-3c4d",
    ]


def events_dropped(patient: Patient) -> None:
    alice = patient.bench.join()
    alice.publish(1, run_end(1))
    for seq in range(2, 10):
        alice.skip(seq, seq, events=seq, reason="queue_full")
    patient.bench.settle()
    patient.commit()


def ledger_differs(patient: Patient) -> None:
    patient.bench.books.server.ledger.stored += 1


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (events_lost, f"1 event of producer {PRODUCERS[0]} (seq 3 to 4): rot; 2 events of"),
        (events_lost, "and 2 more"),
        (journal_damaged, "2 corrupt places"),
        (state_files_damaged, "2 damaged state files"),
        (state_files_damaged, ": spotter-0123456789.agent_metrics.json.1, server.json.bak-3c4d"),
        (
            events_dropped,
            f"spotter (uid {UID}): 5 events of producer {PRODUCERS[0]} (seq 5): queue_full",
        ),
        (events_dropped, f"9 events of producer {PRODUCERS[0]} (seq 9): queue_full; and 3"),
        (ledger_differs, "does not add up"),
    ],
)
def test_every_trouble_is_named_with_what_to_do(
    patient: Patient, make: Callable[[Patient], None], named: str
) -> None:
    make(patient)

    patient.complains(make.__name__, named)
    assert patient.condition.taking


def test_dropped_events_are_told_for_a_day_after_the_last(patient: Patient) -> None:
    events_dropped(patient)
    patient.pass_time(DROPS_TOLD_SECONDS)
    assert patient.codes == ["events_dropped"]

    bob = patient.bench.join(PRODUCERS[1])
    bob.skip(1, 1, events=1)
    patient.bench.settle()
    patient.commit()
    patient.pass_time(DROPS_TOLD_SECONDS)
    assert patient.codes == ["events_dropped"]

    patient.pass_time(1.0)
    assert patient.codes == []
    assert patient.bench.books.server.ledger.skipped > 0


def test_events_that_an_older_daemon_knows_as_dropped_are_not_told_again(
    patient: Patient,
) -> None:
    """They stand in the ledger, and were told by the daemon that had been told of them."""
    ledger = patient.bench.books.server.ledger
    ledger.skipped, ledger.skips = 3, {"queue_full": 3}

    assert patient.codes == []


def test_torn_bytes_are_no_loss(patient: Patient) -> None:
    patient.recovery.clean = False
    patient.recovery.cut_bytes = 4096
    patient.recovery.quarantined = ["000000000001.seg.torn-4096-0badcafe"]

    assert patient.codes == []


def test_files_that_were_put_aside_are_not_called_made_again_when_something_is_lost(
    patient: Patient,
) -> None:
    state_files_damaged(patient)
    events_lost(patient)

    assert patient.codes == ["events_lost"]
