from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymark.events import RunEnd
from tallymark.state import SessionSummary
from tallymarkd.core.runs import (
    NOTHING,
    Tally,
    add_nanos,
    finished_run,
    nanos_of,
    seconds_of,
    total_of,
    utc,
)

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given_time", "expected"),
    [
        (T0, T0),
        (T0.replace(tzinfo=None), T0),
        (T0.astimezone(timezone(timedelta(hours=3))), T0),
        (
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
            datetime.max.replace(tzinfo=UTC),
        ),
    ],
)
def test_utc(given_time: datetime, expected: datetime) -> None:
    assert utc(given_time) == expected
    assert utc(given_time).tzinfo is UTC


cents = st.integers(0, 10**15)


@given(st.lists(cents, max_size=20))
def test_sums_of_nano_dollars_are_exact(amounts: list[int]) -> None:
    """Up to 4.5 million dollars, whatever the order, and back to nothing."""
    amounts = [amount // 4 for amount in amounts][:16]
    total = 0.0
    for amount in amounts:
        total = add_nanos(total, amount)
    assert nanos_of(total) == sum(amounts)
    for amount in sorted(amounts):
        total = add_nanos(total, -amount)
    assert total == 0.0


figures = st.builds(Tally, *[st.integers(0, 10**9)] * 8)


@given(figures, figures)
def test_what_is_added_can_be_taken_back(first: Tally, second: Tally) -> None:
    both, one_by_one = SessionSummary(session_id="s"), SessionSummary(session_id="s")
    first.plus(second).add_to(both)
    first.add_to(one_by_one)
    second.add_to(one_by_one)
    assert both == one_by_one

    second.add_to(both, -1)
    first.add_to(both, -1)
    assert both == SessionSummary(session_id="s")
    assert first.plus(NOTHING) == first


def test_the_tokens_of_a_run() -> None:
    assert total_of(RunEnd(input_tokens=2, output_tokens=3)) == 5
    assert total_of(RunEnd(input_tokens=2, output_tokens=3, total_tokens=0)) == 0


def test_the_seconds_of_a_run() -> None:
    later = T0 + timedelta(seconds=1.5)
    assert seconds_of(RunEnd(duration_seconds=7.0), T0, later) == 7.0
    assert seconds_of(RunEnd(), T0, later) == 1.5
    assert seconds_of(RunEnd(), later, T0) == 0.0
    assert seconds_of(RunEnd(), None, later) == 0.0
    assert seconds_of(RunEnd(), T0.replace(tzinfo=None), later) == 1.5


def test_a_finished_run_stays_as_it_is() -> None:
    run = finished_run(RunEnd(event_id="r", agent_name="a", estimated_cost_usd=1.001))

    assert finished_run(run) is run
    assert run.estimated_cost_usd == 1.001
    assert run.tokens_from == "run.end"
