from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tallymark.events import (
    EVENT_BYTES_MAX,
    EVENT_DEPTH_MAX,
    ID_CHARS_MAX,
    TEXT_CHARS_MAX,
    RunEnd,
    Usage,
)
from tallymark.texts import CUT_MARK
from tallymarkd.core.admission import Admission, Decision, Fault
from tallymarkd.core.entry import Cost, OtherEvent, Verdict, decode_entry, encode_entry, open_entry
from tallymarkd.core.keys import Keys, key_hash, unpack_keys
from tests.daemon_parts import NOON_NS, UID, array, fleeting_keys, run_end, usage

LONG_TEXT = "x" * (TEXT_CHARS_MAX + 1)
LONG_ID = "i" * (ID_CHARS_MAX + 1)
OTHER = {"type": "run.pause", "why": "lunch"}


@pytest.fixture
def keys() -> Iterator[Keys]:
    found = fleeting_keys()
    yield found
    found.close()


Decide = Callable[..., Decision]


@pytest.fixture
def decide(keys: Keys) -> Decide:
    """Decides about a batch of the project ``spotter``; nothing is priced."""
    ids = itertools.count(1)
    admission = Admission(keys, lambda event: None, lambda: f"assigned-{next(ids)}")

    def call(*events: Any, raw: bytes | None = None, count: int | None = None,
             project: str = "spotter", key_by_id: bool = False) -> Decision:  # fmt: skip
        return admission.decide(
            array(*events) if raw is None else raw,
            len(events) if count is None else count,
            project=project,
            uid=UID,
            received_ns=NOON_NS,
            key_by_id=key_by_id,
        )

    return call


def verdicts(decision: Decision) -> list[Verdict]:
    found = decision.entry.verdicts or bytes(decision.entry.count)
    return [Verdict(value) for value in found]


def kept_events(decision: Decision) -> list[Any]:
    assert decision.batch is not None
    return decision.batch.events


def test_a_good_batch_goes_through_as_it_came(decide: Decide) -> None:
    events = [run_end(1), usage("k1", estimated_cost_usd=0.1)]

    decision = decide(*events)

    entry = decision.entry
    assert bytes(entry.events) == array(*events)
    assert (entry.project, entry.uid, entry.received_ns) == ("spotter", UID, NOON_NS)
    assert (entry.verdicts, entry.cut, entry.ids, entry.costs) == (b"", [], {}, {})
    assert decision.counts == (2, 0, 0)
    assert decision.faults == []
    assert [type(event) for event in kept_events(decision)] == [RunEnd, Usage]


@pytest.mark.parametrize(
    ("event", "verdict", "named"),
    [
        (usage(input_tokens=-1), Verdict.INVALID_FIELD, "input_tokens"),
        (usage(input_tokens="7"), Verdict.INVALID_FIELD, "input_tokens"),
        (usage(at="yesterday"), Verdict.INVALID_FIELD, "at"),
        (usage(at="2026-01-02T12:00:00"), Verdict.INVALID_FIELD, "at"),
        (usage(estimated_cost_usd=-0.5), Verdict.INVALID_FIELD, "estimated_cost_usd"),
        (run_end(status="splendid"), Verdict.INVALID_FIELD, "status"),
        (run_end(artifacts=["a"] * 1001), Verdict.INVALID_FIELD, "artifacts"),
        (run_end(agent_name=""), Verdict.MISSING_FIELD, "agent_name"),
        ({"type": "run.start", "run_id": "r"}, Verdict.MISSING_FIELD, "agent_name"),
        ({"type": "run.start", "agent_name": "coding"}, Verdict.MISSING_FIELD, "run_id"),
        ({"type": "session.start"}, Verdict.MISSING_FIELD, "session_id"),
        ({"type": "session.end"}, Verdict.MISSING_FIELD, "session_id"),
        (usage(project="elsewhere"), Verdict.WRONG_PROJECT, "elsewhere"),
        (usage(cache_read_tokens=5, cache_write_tokens=3), Verdict.CACHE_EXCEEDS_INPUT, "8 exceed"),
        (run_end(cache_read_tokens=11), Verdict.CACHE_EXCEEDS_INPUT, "cache_read_tokens"),
        (usage(event_id=LONG_ID), Verdict.ID_TOO_LONG, "event_id"),
        (usage(dedupe_key=LONG_ID), Verdict.ID_TOO_LONG, "dedupe_key"),
        (run_end(agent_name=LONG_ID), Verdict.ID_TOO_LONG, "agent_name"),
        (run_end(session_id=LONG_ID), Verdict.ID_TOO_LONG, "session_id"),
        (run_end(parent_run_id=LONG_ID, error_message=LONG_TEXT), Verdict.ID_TOO_LONG, "parent"),
        (usage(attrs={"a": msgspec.msgpack.Ext(5, b"x")}), Verdict.INVALID_FIELD, "attrs"),
        (usage(source="x" * EVENT_BYTES_MAX), Verdict.TOO_LARGE, str(EVENT_BYTES_MAX)),
        ({**OTHER, "why": "x" * EVENT_BYTES_MAX}, Verdict.TOO_LARGE, str(EVENT_BYTES_MAX)),
        ({"agent_name": "coding"}, Verdict.INVALID_FIELD, "type"),
        ({"type": ["usage"]}, Verdict.INVALID_FIELD, "type"),
        ({"type": {"usage": 1}}, Verdict.INVALID_FIELD, "type"),
        ({1: 2}, Verdict.MALFORMED, ""),
        ([run_end(2)], Verdict.MALFORMED, ""),
        (None, Verdict.MALFORMED, ""),
    ],
)
def test_a_bad_event_is_refused_and_its_neighbours_are_stored(
    decide: Decide, event: Any, verdict: Verdict, named: str
) -> None:
    decision = decide(run_end(1), event, OTHER, usage("k1"))

    assert verdicts(decision) == [Verdict.STORED, verdict, Verdict.STORED, Verdict.STORED]
    (fault,) = decision.faults
    assert (fault.index, fault.verdict, fault.batch) == (1, verdict, 0)
    assert named in fault.message
    assert decision.counts == (3, 0, 1)
    first, second, third, fourth = kept_events(decision)
    assert (type(first), second, type(third), type(fourth)) == (RunEnd, None, OtherEvent, Usage)
    assert unpack_keys(decision.entry.keys) == [key_hash("spotter", "k1")]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x81\xa4type\xa1\xff", id="type is no UTF-8"),
        pytest.param(b"\x82\xa4type\xa5usage\xaamodel_used\xa1\xff", id="a text is no UTF-8"),
        pytest.param(b"\x82\xa4type\xa5usage\xa2at\xd7\xff" + b"\xff" * 8, id="no such time"),
    ],
)
def test_an_event_that_cannot_be_decoded_is_refused_alone(decide: Decide, raw: bytes) -> None:
    good = msgspec.msgpack.encode(run_end(1))

    decision = decide(raw=b"\x93" + good + raw + good, count=3)

    assert verdicts(decision)[0] == verdicts(decision)[2] == Verdict.STORED
    assert verdicts(decision)[1].rejected


def test_a_nested_event_that_is_stored_can_be_written_as_json(decide: Decide) -> None:
    """State files and answers are JSON, with the attributes some levels down."""
    for depth in range(5, 1000, 5):
        raw = b"\x82\xa4type\xa5usage\xa5attrs\x81\xa1a" + b"\x91" * depth + b"\xc0"
        (verdict,) = verdicts(decision := decide(raw=b"\x91" + raw, count=1))
        if verdict is Verdict.STORED:
            (event,) = kept_events(decision)
            deeper: Any = event.attrs
            for _ in range(8):
                deeper = [deeper]
            msgspec.json.decode(msgspec.json.encode(deeper))


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (lambda levels: usage(attrs={"x": nested(levels - 2)}), Verdict.MALFORMED),
        (lambda levels: run_end(2, unknown=nested(levels - 1)), Verdict.MALFORMED),
        (lambda levels: {**OTHER, "x": nested(levels - 1)}, Verdict.MALFORMED),
        (lambda levels: usage(attrs=nested(levels - 1)), Verdict.INVALID_FIELD),
        (lambda levels: {**OTHER, "x": nested(levels - 1), "y": "x" * 70_000}, Verdict.TOO_LARGE),
    ],
    ids=["attrs", "unknown member", "unknown type", "wrong as well", "too large as well"],
)
def test_an_event_nested_too_deeply_is_refused_and_not_kept(
    decide: Decide, make: Callable[[int], Any], verdict: Verdict
) -> None:
    """Kept, it might be one that the replay of its record cannot get past."""
    for levels, deep in ((EVENT_DEPTH_MAX, False), (EVENT_DEPTH_MAX + 1, True)):
        decision = decide(run_end(1), make(levels), run_end(3))
        if deep or verdict is not Verdict.MALFORMED:
            assert verdicts(decision) == [Verdict.STORED, verdict, Verdict.STORED]
        else:
            assert verdicts(decision) == [Verdict.STORED] * 3
        kept = msgspec.msgpack.decode(decode_entry(encode_entry(decision.entry)).events)
        assert (kept[1] is None) is deep
        assert [event["event_id"] for event in (kept[0], kept[2])] == ["run-1", "run-3"]
        assert len([event for event in open_entry(decision.entry).events if event]) == (
            verdicts(decision).count(Verdict.STORED)
        )


def test_exactly_at_the_limits_an_event_is_stored_as_it_is(decide: Decide) -> None:
    event = run_end(1, error_message="x" * TEXT_CHARS_MAX, ticket_key="é" * TEXT_CHARS_MAX,
                    agent_name="i" * ID_CHARS_MAX)  # fmt: skip
    bulk = {**OTHER, "why": ""}
    room = EVENT_BYTES_MAX - len(msgspec.msgpack.encode({**OTHER, "why": "x" * 60_000})) + 60_000
    bulk["why"] = "x" * room
    assert len(msgspec.msgpack.encode(bulk)) == EVENT_BYTES_MAX

    decision = decide(event, bulk)

    assert verdicts(decision) == [Verdict.STORED, Verdict.STORED]
    assert (decision.entry.cut, bytes(decision.entry.events)) == ([], array(event, bulk))


def test_a_text_over_its_limit_is_cut_with_a_mark(decide: Decide) -> None:
    event = run_end(
        1,
        error_message=LONG_TEXT,
        artifacts=["commit:abc", "file:" + LONG_TEXT],
        from_tomorrow={"kept": [1, None, LONG_TEXT]},
    )

    decision = decide(run_end(0), event, run_end(2))

    assert decision.counts == (3, 0, 0)
    assert decision.entry.cut == [1]
    cut = kept_events(decision)[1]
    assert cut.error_message == "x" * (TEXT_CHARS_MAX - len(CUT_MARK)) + CUT_MARK
    assert len(cut.error_message) == TEXT_CHARS_MAX
    assert cut.artifacts[0] == "commit:abc"
    assert cut.artifacts[1].endswith(CUT_MARK)
    assert len(cut.artifacts[1]) == TEXT_CHARS_MAX


def test_a_batch_encoded_again_keeps_fields_that_are_not_known(decide: Decide) -> None:
    tomorrow = {"kept": [1, None, LONG_TEXT], "bytes": b"\x00\xff"}
    events = [run_end(0), run_end(1, error_message=LONG_TEXT, from_tomorrow=tomorrow)]

    decision = decide(*events)

    first, second = msgspec.msgpack.decode(decision.entry.events)
    assert first == events[0]
    assert second["from_tomorrow"] == tomorrow
    assert decision.batch is not None
    assert decision.batch.extras == {1: {"from_tomorrow": tomorrow}}
    assert {**second, "error_message": LONG_TEXT} == events[1]


def test_an_event_that_cutting_does_not_mend_is_refused(decide: Decide) -> None:
    decision = decide(run_end(1, error_message=LONG_TEXT, input_tokens=-1))

    assert verdicts(decision) == [Verdict.INVALID_FIELD]
    assert decision.entry.cut == []


def test_replay_obeys_the_record_of_a_mended_batch(decide: Decide) -> None:
    decision = decide(run_end(1, error_message=LONG_TEXT), usage(input_tokens=-1), run_end(3))

    replayed = open_entry(decode_entry(encode_entry(decision.entry)))

    assert replayed.events == kept_events(decision)
    assert replayed.verdicts == decision.entry.verdicts


def test_an_unknown_type_is_stored_with_its_key(decide: Decide, keys: Keys) -> None:
    decision = decide({**OTHER, "dedupe_key": "k1"}, {**OTHER, "dedupe_key": "k1"})

    assert verdicts(decision) == [Verdict.STORED, Verdict.DUPLICATE]
    assert decision.keys == [key_hash("spotter", "k1")]


def test_a_key_twice_in_one_batch_counts_once(decide: Decide) -> None:
    decision = decide(usage("k1"), usage("k2"), usage("k1"), usage())

    assert verdicts(decision) == [
        Verdict.STORED,
        Verdict.STORED,
        Verdict.DUPLICATE,
        Verdict.STORED,
    ]
    assert decision.counts == (3, 1, 0)
    assert decision.faults == []
    assert unpack_keys(decision.entry.keys) == decision.keys
    assert decision.keys == [key_hash("spotter", "k1"), key_hash("spotter", "k2")]


def test_a_key_in_flight_or_durable_is_a_duplicate(decide: Decide, keys: Keys) -> None:
    keys.admit([key_hash("spotter", "flying")])
    keys.settle([key_hash("spotter", "durable")], 7)

    decision = decide(usage("flying"), usage("durable"), usage("new"))

    assert verdicts(decision) == [Verdict.DUPLICATE, Verdict.DUPLICATE, Verdict.STORED]


def test_a_key_of_another_project_is_no_duplicate(decide: Decide, keys: Keys) -> None:
    keys.settle([key_hash("spotter", "k1")], 7)

    assert verdicts(decide(usage("k1"), project="other")) == [Verdict.STORED]


def test_a_refused_event_takes_no_key(decide: Decide) -> None:
    decision = decide(usage("k1", input_tokens=-1), usage("k1"))

    assert verdicts(decision) == [Verdict.INVALID_FIELD, Verdict.STORED]


def test_ids_are_keys_only_where_there_is_no_seq(decide: Decide) -> None:
    same = run_end(1)

    assert verdicts(decide(same, same)) == [Verdict.STORED, Verdict.STORED]
    assert verdicts(decide(same, same, key_by_id=True)) == [Verdict.STORED, Verdict.DUPLICATE]
    assert verdicts(decide(OTHER | {"event_id": "o"}, OTHER | {"event_id": "o"}, key_by_id=True)
                    ) == [Verdict.STORED, Verdict.DUPLICATE]  # fmt: skip


def test_an_id_and_a_key_of_the_same_text_are_two_things(decide: Decide) -> None:
    decision = decide(usage("one", event_id="a"), usage(event_id="one"), key_by_id=True)

    assert decision.counts == (2, 0, 0)


def test_a_dedupe_key_goes_before_the_id(decide: Decide) -> None:
    decision = decide(
        usage("k1", event_id="a"), usage("k1", event_id="b"), usage(event_id="a"), key_by_id=True
    )

    assert verdicts(decision) == [Verdict.STORED, Verdict.DUPLICATE, Verdict.STORED]


def test_a_run_without_an_id_gets_one(decide: Decide) -> None:
    decision = decide(
        run_end(1), run_end(event_id=""), run_end(event_id="", run_id="r"), run_end(event_id="")
    )

    assert decision.entry.ids == {1: "assigned-1", 3: "assigned-2"}
    assert decision.batch is not None
    assert decision.batch.ids == decision.entry.ids


def test_what_has_no_cost_is_priced_and_nothing_else(keys: Keys) -> None:
    asked: list[Usage | RunEnd] = []

    def price(event: Usage | RunEnd) -> Cost | None:
        asked.append(event)
        return Cost(nanos=12, source="here") if event.model_used == "known" else None

    admission = Admission(keys, price, lambda: "assigned")
    events = [
        usage(model_used="known"),
        usage(model_used="strange"),
        usage(model_used="known", estimated_cost_usd=0.0),
        run_end(4, model_used="known", estimated_cost_usd=None),
        usage(model_used="known", input_tokens=-1),
        usage("k1", model_used="known"),
        usage("k1", model_used="known"),
        OTHER,
    ]

    decision = admission.decide(
        array(*events), len(events), project="spotter", uid=UID, received_ns=NOON_NS
    )

    assert decision.entry.costs == dict.fromkeys([0, 3, 5], Cost(nanos=12, source="here"))
    assert decision.batch is not None
    assert decision.batch.costs == decision.entry.costs
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("raw", "count", "named"),
    [
        (array(run_end(1), run_end(2)), 3, "3 events were announced, 2 came"),
        (array(run_end(1), run_end(2), usage(input_tokens=-1)), 2, "2 events were announced"),
        (array(), 1, "1 events were announced, 0 came"),
        (msgspec.msgpack.encode(run_end(1)), 1, "no array"),
        (msgspec.msgpack.encode("x" * (EVENT_BYTES_MAX + 1)), 2, "no array"),
        (b"\xc0", 1, "no array"),
        (b"", 1, "no array"),
        (b"\xc1", 2, "no array"),
        (b"\x91" * 20_000 + b"\xc0", 1, ""),
    ],
)
def test_a_batch_that_cannot_be_split_becomes_a_tombstone(
    decide: Decide, raw: bytes, count: int, named: str
) -> None:
    decision = decide(raw=raw, count=count)

    assert decision.counts == (0, 0, count)
    assert decision.keys == []
    if decision.batch is None:
        assert decision.entry.verdicts == bytes([Verdict.BAD_BATCH]) * count
        assert bytes(decision.entry.events) == raw
        (fault,) = decision.faults
        assert fault == Fault(0, Verdict.BAD_BATCH, fault.message)
        assert named in fault.message
    else:
        assert count == 1  # one bad event in a whole array is refused alone
