"""Events without a seq, as they come over HTTP: several batches, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tallymarkd.core.admission import Decision, Fault


@dataclass(slots=True)
class PostResult:
    """What became of events that came over HTTP. With ``faults`` nothing was stored."""

    stored: int = 0
    duplicate: int = 0
    faults: list[Fault] = field(default_factory=list)

    @classmethod
    def of(cls, decisions: Sequence[Decision]) -> PostResult:
        """What was decided about them together."""
        result = cls()
        for number, decision in enumerate(decisions):
            result.faults.extend(replace(fault, batch=number) for fault in decision.faults)
            stored, duplicate, _ = decision.counts
            result.stored += stored
            result.duplicate += duplicate
        return result


def when_all(
    count: int, done: Callable[[Exception | None], None]
) -> Callable[[Exception | None], None]:
    """What is to be called for each of ``count``; the last calls ``done`` with the first error."""
    failure: Exception | None = None

    def one_done(error: Exception | None) -> None:
        nonlocal count, failure
        count -= 1
        failure = failure or error
        if count == 0:
            done(failure)

    return one_done
