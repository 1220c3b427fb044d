"""The pause before the next try: it doubles, has a ceiling, and is random."""

from __future__ import annotations

from tallymark.backoff import Backoff


def test_the_ceiling_doubles_up_to_the_limit() -> None:
    backoff = Backoff(0.05, 1.0, lambda: 1.0)
    assert [backoff.next_seconds() for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_the_jitter_is_full() -> None:
    fractions = iter([0.0, 0.5, 1.0])
    backoff = Backoff(0.1, 5.0, lambda: next(fractions))
    assert [backoff.next_seconds() for _ in range(3)] == [0.0, 0.1, 0.4]


def test_success_begins_again() -> None:
    backoff = Backoff(0.05, 5.0, lambda: 1.0)
    for _ in range(5):
        backoff.next_seconds()
    backoff.reset()
    assert backoff.next_seconds() == 0.05


def test_years_of_failure_stay_at_the_limit() -> None:
    backoff = Backoff(0.05, 5.0, lambda: 1.0)
    assert {backoff.next_seconds() for _ in range(5000)} >= {5.0}
    assert backoff.next_seconds() == 5.0
