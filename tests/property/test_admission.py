"""Whatever bytes come as a batch: a verdict for each event, and replay agrees."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tallymark.events import EVENT_TYPES, ID_CHARS_MAX, TEXT_CHARS_MAX, RunEnd, Usage
from tallymark.record import Kind
from tallymarkd.core import project_file
from tallymarkd.core.admission import Admission, Decision
from tallymarkd.core.books import Books
from tallymarkd.core.entry import Cost, Verdict, encode_entry
from tallymarkd.core.keys import Keys, unpack_keys
from tallymarkd.core.ledger import ServerState
from tallymarkd.core.project_state import snapshot
from tests.daemon_parts import (
    NOON_NS,
    PRODUCERS,
    SERVER_ID,
    UID,
    a_record,
    fleeting_keys,
    image,
    producer_bytes,
    run_end,
)

ENCODE = msgspec.msgpack.Encoder().encode
FIELDS = sorted({name for kind in EVENT_TYPES.values() for name in kind.__struct_fields__})
IDS = ["", "a", "b", "run-1", "é" * ID_CHARS_MAX, "i" * (ID_CHARS_MAX + 1)]


def times() -> st.SearchStrategy[datetime]:
    zones = st.sampled_from([UTC, timezone(timedelta(hours=-11)), timezone(timedelta(hours=14))])
    return st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30),  # noqa: DTZ001 - the zone is drawn beside it
                        timezones=zones)  # fmt: skip


texts = st.one_of(
    st.sampled_from(IDS),
    st.sampled_from(["", "commit:abc", "x" * (TEXT_CHARS_MAX + 1), "success", "claude-opus-4-1"]),
    st.text(max_size=8),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(0, 50),
    st.floats(),
    texts,
    st.binary(max_size=9),
    times(),
    st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=17)),
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.one_of(texts, st.integers(-3, 3)), inner, max_size=3)
    ),
    max_leaves=6,
)
plausible: dict[str, st.SearchStrategy[Any]] = {
    "input_tokens": st.integers(0, 50),
    "output_tokens": st.integers(0, 50),
    "cache_read_tokens": st.integers(0, 20),
    "estimated_cost_usd": st.one_of(st.none(), st.floats(0, 1e6)),
    "started_at": times(),
    "ended_at": times(),
    "at": times(),
    "duration_seconds": st.floats(0, 1e9),
    "artifacts": st.lists(texts, max_size=3),
    "attrs": st.dictionaries(texts, anything, max_size=2),
    "status": st.sampled_from(["success", "error", "timeout", "blocked", "complete"]),
    "session_type": st.sampled_from(["initializer", "continuation"]),
}
fields = st.dictionaries(st.sampled_from(FIELDS), anything, max_size=2)
good_fields = st.fixed_dictionaries(
    {"agent_name": st.sampled_from(["coding", "Explore"]), "session_id": st.sampled_from("st")},
    optional={
        **plausible,
        "dedupe_key": st.sampled_from(["", "k1", "k2", "k3"]),
        "event_id": st.sampled_from(["", "run-1", "run-2"]),
        "run_id": st.sampled_from(["", "run-1", "run-2"]),
        "error_message": texts,
        "from_tomorrow": anything,
    },
)
types: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([*EVENT_TYPES]), st.sampled_from(["run.pause", "", 7, [], {}, None])
)
known_types = st.sampled_from([*EVENT_TYPES])


def fitting(event: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that its type does not have."""
    names = {"type", "from_tomorrow", *EVENT_TYPES[event["type"]].__struct_fields__}
    return {name: value for name, value in event.items() if name in names}


likely = st.builds(lambda kind, good: fitting({"type": kind, **good}), known_types, good_fields)
twisted = st.builds(
    lambda kind, good, bad: {"type": kind, **good, **bad}, types, good_fields, fields
)
event_bytes = st.one_of(
    likely.map(ENCODE),
    twisted.map(ENCODE),
    anything.map(ENCODE),
    # Whole to whoever skips over it, and no UTF-8 to whoever decodes it.
    st.sampled_from([b"\x81\xa4type\xa1\xff", b"\x82\xa4type\xa5usage\xaamodel_used\xa1\xff"]),
    st.integers(1, 1100).map(
        lambda depth: b"\x82\xa4type\xa5usage\xa5attrs\x81\xa1a" + b"\x91" * depth + b"\xc0"
    ),
)
batches = st.lists(event_bytes, min_size=1, max_size=6)


def joined(parts: list[bytes]) -> bytes:
    return b"\xdd" + len(parts).to_bytes(4, "big") + b"".join(parts)


@contextmanager
def fresh_keys() -> Iterator[Keys]:
    keys = fleeting_keys()
    yield keys
    keys.close()


def price(event: Usage | RunEnd) -> Cost | None:
    return Cost(nanos=event.input_tokens, source="here") if event.model_used else None


def decide(keys: Keys, raw: bytes, count: int, *, key_by_id: bool = False) -> Decision:
    ids = itertools.count(1)
    return Admission(keys, price, lambda: f"assigned-{next(ids)}").decide(
        raw, count, project="spotter", uid=UID, received_ns=NOON_NS, key_by_id=key_by_id
    )


def one_by_one(decision: Decision) -> list[Verdict]:
    return [Verdict(value) for value in decision.entry.verdicts or bytes(decision.entry.count)]


def check(decision: Decision, count: int) -> None:
    """What holds for every decision."""
    assert decision.entry.count == count
    assert len(one_by_one(decision)) == count
    assert sum(decision.counts) == count
    assert unpack_keys(decision.entry.keys) == decision.keys
    rejected = [index for index, each in enumerate(one_by_one(decision)) if each.rejected]
    if decision.batch is None:
        assert set(one_by_one(decision)) == {Verdict.BAD_BATCH}
    else:
        assert sorted(fault.index for fault in decision.faults) == rejected
        assert len(decision.batch.events) == count
        stored = [event is not None for event in decision.batch.events]
        assert stored == [each is Verdict.STORED for each in one_by_one(decision)]


@given(raw=st.binary(max_size=60), count=st.integers(1, 5))
@example(raw=b"\x91\x81\xa4type\xa1\xff", count=1)
@example(raw=b"\x91" * 5000 + b"\xc0", count=1)
def test_any_bytes_at_all_get_their_verdicts(raw: bytes, count: int) -> None:
    with fresh_keys() as keys:
        check(decide(keys, raw, count), count)


@given(value=anything, count=st.integers(1, 3))
def test_any_value_at_all_gets_its_verdicts(value: Any, count: int) -> None:
    with fresh_keys() as keys:
        check(decide(keys, ENCODE(value), count), count)


@given(parts=batches, key_by_id=st.booleans())
@example(parts=[ENCODE({"type": []})], key_by_id=True)
def test_each_event_of_any_batch_has_a_verdict(parts: list[bytes], key_by_id: bool) -> None:
    with fresh_keys() as keys:
        check(decide(keys, joined(parts), len(parts), key_by_id=key_by_id), len(parts))


@given(parts=batches, bad=event_bytes, place=st.integers(0, 6))
@example(parts=[ENCODE(run_end(1))], bad=ENCODE({"type": []}), place=0)
def test_a_bad_event_never_changes_the_verdicts_of_its_neighbours(
    parts: list[bytes], bad: bytes, place: int
) -> None:
    with fresh_keys() as keys:
        (verdict,) = one_by_one(decide(keys, joined([bad]), 1))
        assume(verdict.rejected)
        place = min(place, len(parts))
        without = decide(keys, joined(parts), len(parts))

        with_it = decide(keys, joined([*parts[:place], bad, *parts[place:]]), len(parts) + 1)

        found = one_by_one(with_it)
        assert found.pop(place) is verdict
        assert found == one_by_one(without)
        assert with_it.keys == without.keys


@settings(max_examples=150)
@given(several=st.lists(batches, min_size=1, max_size=4))
def test_replay_gives_exactly_the_state_and_the_ledger_that_were(
    several: list[list[bytes]],
) -> None:
    live = Books(ServerState(server_id=SERVER_ID), {})
    replayed = Books(ServerState(server_id=SERVER_ID), {})
    lsn = 1
    with fresh_keys() as keys:
        for seq, parts in enumerate(several, 1):
            decision = decide(keys, joined(parts), len(parts))
            entry, count = decision.entry, len(parts)
            kind = Kind.TOMBSTONE if decision.batch is None else Kind.BATCH
            payload = encode_entry(entry)

            live.batch(lsn, count, producer_bytes(PRODUCERS[0]), seq, entry, decision.batch)
            keys.settle(decision.keys, lsn)
            found = replayed.record(
                a_record(kind, payload, lsn=lsn, count=count, producer=PRODUCERS[0], seq=seq)
            )

            assert found is not None
            assert unpack_keys(found.keys) == decision.keys
            lsn += count
    assert_same(live, replayed)


@settings(max_examples=150)
@given(parts=batches)
def test_what_was_admitted_can_be_saved_and_read_back(parts: list[bytes]) -> None:
    books = Books(ServerState(server_id=SERVER_ID), {})
    with fresh_keys() as keys:
        decision = decide(keys, joined(parts), len(parts))
        books.batch(1, len(parts), bytes(16), 0, decision.entry, decision.batch)
    state = books.projects["spotter"]

    body = project_file.encode(state, server_id=SERVER_ID)

    again = project_file.decode(body)
    assert project_file.encode(again, server_id=SERVER_ID) == body
    msgspec.json.encode(snapshot(state))


def assert_same(live: Books, replayed: Books) -> None:
    """Compared as JSON, where a NaN equals itself."""
    assert msgspec.json.encode(image(live)) == msgspec.json.encode(image(replayed))
