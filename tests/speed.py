"""Promises about time, held on a machine that does other things as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

TRIES_MAX = 20

TIMEOUTS_SECONDS = (0.2, 1.0, 5.0, 30.0)

T = TypeVar("T")

Times = Mapping[str, float]


def quick(limits: Times, attempt: Callable[[], tuple[Times, T]]) -> T:
    """Try until everything was within its limit in one try; gives that try's result.

    A busy machine makes a try slow and never quick, so one quick try shows that
    the code does not wait. What slows every try fails.
    """
    tried = []
    for _ in range(TRIES_MAX):
        times, result = attempt()
        if all(times[name] <= limit for name, limit in limits.items()):
            return result
        tried.append(dict(times))
    raise AssertionError(f"no try was within {dict(limits)}: {tried}")


def with_enough_time(attempt: Callable[[float], T], came: Callable[[T], object]) -> T:
    """Try with a short timeout, then with longer ones; gives the first result that came so far.

    For what must time out, but not before something else has happened: that
    takes as long as the machine needs.
    """
    for seconds in TIMEOUTS_SECONDS:
        result = attempt(seconds)
        if came(result):
            return result
    raise AssertionError(f"no try came so far, nor the one of {TIMEOUTS_SECONDS[-1]:g} s")
