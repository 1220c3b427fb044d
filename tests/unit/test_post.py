from __future__ import annotations

from tallymarkd.core.admission import Admission
from tallymarkd.core.post import PostResult, when_all
from tests.daemon_parts import array, fleeting_keys, run_end, usage


def test_the_last_of_all_tells_the_first_error() -> None:
    told: list[Exception | None] = []
    one_done = when_all(3, told.append)
    first, second = OSError("first"), OSError("second")

    one_done(None)
    one_done(first)
    assert told == []
    one_done(second)

    assert told == [first]


def test_without_an_error_there_is_none_to_tell() -> None:
    told: list[Exception | None] = []
    one_done = when_all(1, told.append)

    one_done(None)

    assert told == [None]


def test_what_was_decided_about_several_batches() -> None:
    admission = Admission(fleeting_keys(), lambda event: None, lambda: "id")
    batches = [[run_end(1), usage("k"), usage("k")], [usage(), {"type": "usage", "at": 1}]]
    decisions = [
        admission.decide(array(*events), len(events), project="p", uid=1, received_ns=1)
        for events in batches
    ]

    result = PostResult.of(decisions)

    assert (result.stored, result.duplicate) == (3, 1)
    assert [(fault.batch, fault.index) for fault in result.faults] == [(1, 1)]
