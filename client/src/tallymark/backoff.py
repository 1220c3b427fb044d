"""How long to pause before the next try."""

from __future__ import annotations

from collections.abc import Callable

DOUBLINGS_MAX = 30


class Backoff:
    """Exponential, with full jitter: clients that lost one daemon do not come back at once."""

    def __init__(
        self, seconds_min: float, seconds_max: float, random_fraction: Callable[[], float]
    ) -> None:
        self._seconds_min = seconds_min
        self._seconds_max = seconds_max
        self._random = random_fraction
        self._failures = 0

    def next_seconds(self) -> float:
        """The pause after one more failure: between 0 and a ceiling that doubles."""
        ceiling = min(self._seconds_max, self._seconds_min * 2.0**self._failures)
        self._failures = min(self._failures + 1, DOUBLINGS_MAX)
        return self._random() * ceiling

    def reset(self) -> None:
        """A try succeeded."""
        self._failures = 0
