from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from tallymarkd.core.admission import Fault
from tallymarkd.core.entry import Verdict
from tallymarkd.server.posting import Posted, PostFault, read_events


def read(body: bytes, *, many: bool = True, project: str = "spotter") -> Posted:
    ids = itertools.count(1)
    return read_events(body, many=many, project=project, new_id=lambda: f"id-{next(ids)}")


def decoded(posted: Posted) -> list[tuple[str, list[Any]]]:
    for _, events, count in posted.batches:
        assert len(msgspec.msgpack.decode(events)) == count
    return [(name, msgspec.msgpack.decode(events)) for name, events, _ in posted.batches]


def test_one_event() -> None:
    posted = read(b'\n {"type": "usage",\n "event_id": "e"} \n', many=False)

    assert decoded(posted) == [("spotter", [{"type": "usage", "event_id": "e"}])]
    assert posted.event_ids == ["e"]


def test_many_events_of_several_projects() -> None:
    body = (
        b'{"type":"a","event_id":"1"}\r\n\n'
        b'{"type":"b","event_id":"2","project":"other"}\n'
        b'  \n{"type":"c","event_id":"3","project":"spotter"}'
    )

    posted = read(body)

    assert [(name, [event["type"] for event in events]) for name, events in decoded(posted)] == [
        ("spotter", ["a", "c"]),
        ("other", ["b"]),
    ]
    assert posted.event_ids == ["1", "2", "3"]


@pytest.mark.parametrize("event_id", ['"event_id":""', '"event_id":null', '"x":1'])
def test_an_event_without_an_id_gets_one_that_is_told(event_id: str) -> None:
    posted = read(b'{"event_id":"mine"}\n{' + event_id.encode() + b"}")

    assert posted.event_ids == ["mine", "id-1"]
    assert decoded(posted)[0][1][1]["event_id"] == "id-1"


def test_every_value_of_json_is_kept() -> None:
    event = {"event_id": "e", "a": [1, -1, 2**63, 1.5, "é", None, True, {"b": []}]}

    assert decoded(read(msgspec.json.encode(event))) == [("spotter", [event])]


@pytest.mark.parametrize(
    ("body", "index", "code", "named"),
    [
        (b"", 0, "malformed", "no event"),
        (b" \n\n", 0, "malformed", "no event"),
        (b"{}\nnot json", 1, "malformed", "no JSON: invalid character"),
        (b"{}\n{}\n[{}]", 2, "malformed", "object"),
        (b'"text"', 0, "malformed", "object"),
        (b'{"a":"\xff"}', 0, "malformed", "no JSON"),
        (b'{"a":"\\ud800"}', 0, "malformed", ""),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0, "malformed", ""),
        (b'{"a":' + b"9" * 40 + b"}", 0, "malformed", ""),
        (b'{"event_id":7}', 0, "invalid_field", "event_id"),
        (b'{"project":7}', 0, "invalid_field", "project"),
        (b'{"project":"' + b"p" * 513 + b'"}', 0, "invalid_field", "512"),
    ],
)
def test_what_cannot_be_taken_is_named(body: bytes, index: int, code: str, named: str) -> None:
    with pytest.raises(PostFault) as caught:
        read(body)

    assert caught.value.as_dict() == {"index": index, "code": code, "message": str(caught.value)}
    assert named in str(caught.value)


def test_a_number_too_large_for_the_record_is_named_or_kept() -> None:
    """msgpack ends at 64 bits."""
    for number in (2**64 - 1, -(2**63)):
        assert decoded(read(b'{"a":%d}' % number))[0][1][0]["a"] == number
    for number in (2**64, -(2**63) - 1):
        with pytest.raises(PostFault):
            read(b'{"a":%d}' % number)


@pytest.mark.parametrize("project", ['"project":""', '"project":null', '"x":1'])
def test_an_event_needs_a_project(project: str) -> None:
    body = b"{" + project.encode() + b"}"

    with pytest.raises(PostFault) as caught:
        read(body, project="")
    assert caught.value.code == "missing_field"
    assert "?project=" in str(caught.value)
    assert decoded(read(body))[0][0] == "spotter"


def test_a_single_body_with_two_events_is_no_json() -> None:
    with pytest.raises(PostFault):
        read(b"{}\n{}", many=False)


def test_at_most_a_batch_is_taken_at_once() -> None:
    assert read(b"{}\n" * 4096).batches[0][2] == 4096
    with pytest.raises(PostFault) as caught:
        read(b"{}\n" * 4097)
    assert (caught.value.index, caught.value.code) == (4096, "too_large")


def test_a_fault_of_admission_is_told_by_its_place_in_the_request() -> None:
    posted = read(b'{"project":"a"}\n{"project":"b"}\n{"project":"a"}\n{"project":"b"}')

    found = posted.fault(Fault(1, Verdict.INVALID_FIELD, "too many", batch=1))

    assert found == {"index": 3, "code": "invalid_field", "message": "too many"}
    assert posted.fault(Fault(1, Verdict.MALFORMED, "", batch=0))["index"] == 2


def test_types_that_nobody_knows_are_counted_by_name() -> None:
    lines = [{"type": "run_end"}, {"type": "usage"}, {"type": "run_end"}, {"type": 7}, {}]
    body = b"\n".join(map(msgspec.json.encode, lines))

    posted = read_events(body, many=True, project="p", new_id=lambda: "made")

    assert posted.unknown_types == {"run_end": 2}
    assert posted.stored(4, 1) == {
        "stored": 4,
        "duplicate": 1,
        "event_ids": ["made"] * 5,
        "unknown_types": {"run_end": 2},
    }
