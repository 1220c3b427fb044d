from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from tallymark.errors import DamagedError, NewerFormatError
from tallymark.events import RunEnd, RunStart, SessionStart, Usage
from tallymark.state import DashboardState
from tallymarkd.core.apply import ProjectState, apply, empty, snapshot
from tallymarkd.core.entry import Batch
from tallymarkd.core.project_file import (
    CLOSING,
    decode,
    decode_owned,
    encode,
    encode_view,
    versions_of,
)
from tallymarkd.core.project_state import freeze
from tallymarkd.storage.sealed import verify_seal

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
SERVER = "0198c0de-0000-7000-8000-000000000000"


def put(state: ProjectState, *events: Any, **more: Any) -> None:
    apply(state, Batch(list(events), received_at=T0, **more), state.applied_lsn + 1)


def run(number: int, **fields: Any) -> RunEnd:
    given: dict[str, Any] = {
        "event_id": f"run-{number}",
        "agent_name": "coding",
        "session_id": "s1",
        "started_at": T0,
        "ended_at": T0 + timedelta(seconds=number),
        "duration_seconds": number + 0.1,
        "input_tokens": 10,
        "output_tokens": 5,
        "estimated_cost_usd": 0.1,
    }
    return RunEnd(**(given | fields))


def lived_in() -> ProjectState:
    """A state with something in every corner."""
    state = empty("p", T0)
    put(state, SessionStart(session_id="s1"), *[run(n) for n in range(5)], None)
    put(state, run(6, attrs={"é": [1, {"deep": None}]}), extras={0: {"mood": 'a "good" one'}})
    put(state, Usage(agent_name="coding", run_id="open", input_tokens=3, cache_read_tokens=1))
    put(state, RunStart(run_id="started", agent_name="review", pid=7, attrs={"k": 2.5}))
    put(state, run(7, status="error", error_message="boom", session_id="s2"))
    return state


def resealed(document: Any) -> bytes:
    """A document with a checksum that holds."""
    document["tallymark"] = document.pop("tallymark")  # it stands last
    document["tallymark"].pop("checksum", None)
    body = json.dumps(document, separators=(",", ":")).encode()[:-2]
    return body + b',"checksum":"crc32:%08x"}}\n' % zlib.crc32(body)


def test_it_is_plain_json_of_the_dashboards_state() -> None:
    state = lived_in()
    document = json.loads(encode(state, server_id=SERVER))

    added = document.pop("tallymark")
    assert set(document) == set(DashboardState.__struct_fields__)
    assert document == json.loads(msgspec.json.encode(snapshot(state)))
    assert document["created_at"] == "2026-01-01T12:00:00Z"
    assert document["events"][0]["ended_at"] == "2026-01-01T12:00:00Z"
    assert document["agents"]["coding"]["success_rate"] == 6 / 7
    assert set(added) == {
        "format",
        "server_id",
        "applied_lsn",
        "apply_failures",
        "open_runs",
        "known_sessions",
        "checksum",
    }
    assert (added["format"], added["server_id"]) == (1, SERVER)
    assert (added["applied_lsn"], added["apply_failures"]) == (11, 1)
    assert set(added["open_runs"]) == {"open", "started"}
    assert added["known_sessions"] == ["s1", "s2"]


def test_the_file_ends_in_a_checksum_over_everything_before_it() -> None:
    body = encode(lived_in(), server_id=SERVER)

    covered, _, tail = body.rpartition(b',"checksum"')
    assert tail == b':"crc32:%08x"}}\n' % zlib.crc32(covered)


def test_an_empty_project_round_trips() -> None:
    body = encode(empty("p", T0), server_id=SERVER)

    assert snapshot(decode(body)) == snapshot(empty("p", T0))
    assert encode(decode(body), server_id=SERVER) == body


def test_what_is_read_goes_on_as_what_was_written() -> None:
    state = lived_in()
    read, server_id = decode_owned(encode(state, server_id=SERVER))

    assert server_id == SERVER
    for each in (state, read):
        put(each, run(8), Usage(run_id="open", input_tokens=1), run(9, event_id="open"))
        put(each, Usage(run_id="run-7", input_tokens=2), SessionStart(session_id="s2"))
        put(each, RunEnd(event_id="started", ended_at=T0 + timedelta(seconds=9)))
    assert encode(read, server_id=SERVER) == encode(state, server_id=SERVER)
    assert snapshot(read).agents["review"].total_invocations == 1


def test_sums_beyond_64_bits_and_odd_names_round_trip() -> None:
    state = empty('p "quoted" \\ é', T0)
    state.board.total_tokens = 2**70
    put(state, run(1, agent_name='a,"agents":{}'), run(2, agent_name=""), run(3, session_id="\0"))
    body = encode(state, server_id=SERVER)

    assert encode(decode(body), server_id=SERVER) == body
    assert json.loads(body)["total_tokens"] == 2**70 + 15 * 3


def test_whatever_a_client_put_into_attrs_can_be_written() -> None:
    attrs: dict[str, Any] = {
        "bytes": b"\xff",
        "ext": msgspec.msgpack.Ext(3, b"x"),
        "nan": float("nan"),
        "time": T0,
        "big": 2**80,
        "keys": {1: "int", None: "none"},
    }
    deep: dict[str, Any] = {}
    attrs["deep"] = deep
    for _ in range(200):
        deep["deep"] = deep = {}
    state = empty("p", T0)
    put(state, run(1, attrs=attrs), RunStart(run_id="r", agent_name="a", attrs=attrs))
    put(state, run(2), extras={0: attrs})
    body = encode(state, server_id=SERVER)

    assert encode(decode(body), server_id=SERVER) == body
    (first, second) = json.loads(body)["events"]
    assert first["attrs"] == second["extra"]
    assert first["attrs"]["bytes"] == "/w=="
    assert first["attrs"]["keys"] == {"1": "int", "None": "none"}


def test_times_with_another_offset_are_written_with_z() -> None:
    east = timezone(timedelta(hours=5))
    state = empty("p", T0)
    put(state, *[run(n, ended_at=T0.astimezone(east)) for n in range(4)])
    document = json.loads(encode(state, server_id=SERVER))

    assert {each["ended_at"] for each in document["events"]} == {"2026-01-01T12:00:00Z"}
    assert document["agents"]["coding"]["last_active"] == "2026-01-01T12:00:00Z"
    assert document["sessions"][0]["ended_at"] == "2026-01-01T12:00:00Z"


def test_slices_are_the_same_file_and_of_the_moment_of_the_call() -> None:
    state = empty("p", T0)
    put(state, *[run(n, agent_name=f"a{n}", session_id=f"s{n}") for n in range(700)])
    body = encode(state, server_id=SERVER)
    slices = encode_view(freeze(state), server_id=SERVER)
    put(state, *[run(n, agent_name="a699") for n in range(800, 900)])

    found = []
    for piece in slices:
        found.append(piece)
        put(state, run(1000, agent_name="a699"), run(1001, agent_name=f"later{len(found)}"))
    assert b"".join(found) == body
    assert len(found) > 5
    assert max(map(len, found)) < len(body) / 2


def test_every_flipped_byte_is_noticed() -> None:
    state = empty("p", T0)
    put(state, run(1))
    body = encode(state, server_id=SERVER)
    for place in range(len(body)):
        broken = bytearray(body)
        broken[place] ^= 0x20 if place % 2 else 0x01
        with pytest.raises(DamagedError):
            decode(bytes(broken))


def test_every_truncation_is_noticed() -> None:
    state = empty("p", T0)
    put(state, run(1))
    body = encode(state, server_id=SERVER)
    for length in range(len(body)):
        with pytest.raises(DamagedError):
            decode(body[:length])


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4096])
def test_zeros_and_noise_are_damaged(size: int) -> None:
    for body in (bytes(size), b"{" * size, b"\xff" * size, b'"}}\n' * size):
        with pytest.raises(DamagedError):
            decode(body)


def test_zeroed_sectors_are_noticed() -> None:
    body = encode(lived_in(), server_id=SERVER)
    for start in range(0, len(body), 512):
        broken = bytearray(body)
        broken[start : start + 512] = bytes(len(broken[start : start + 512]))
        with pytest.raises(DamagedError):
            decode(bytes(broken))


def test_a_plain_state_without_checksum_is_not_a_daemons_file() -> None:
    body = msgspec.json.encode(snapshot(lived_in()))

    with pytest.raises(DamagedError, match="no checksum at its end"):
        decode(body)


def test_a_whole_file_that_is_no_state_is_damaged() -> None:
    document = json.loads(encode(lived_in(), server_id=SERVER))
    wrongs: list[dict[str, Any]] = [{"agents": []}, {"total_tokens": "many"}, {"events": [{}]}]
    for wrong in wrongs:
        with pytest.raises(DamagedError, match="it is no state"):
            decode(resealed(document | wrong))
    del document["created_at"]
    with pytest.raises(DamagedError, match="it is no state"):
        decode(resealed(document))


@pytest.mark.parametrize("where", ["format", "version"])
def test_a_newer_format_is_refused_if_its_checksum_holds(where: str) -> None:
    document = json.loads(encode(lived_in(), server_id=SERVER))
    (document if where == "version" else document["tallymark"])[where] = 2
    document["agents"] = "something newer"
    body = resealed(document)

    verify_seal(body, CLOSING)
    with pytest.raises(NewerFormatError, match="newer version"):
        decode(body)
    with pytest.raises(DamagedError):
        decode(body.replace(b"something", b"some-thin"))


def test_unknown_keys_of_a_later_minor_version_are_no_damage() -> None:
    document = json.loads(encode(lived_in(), server_id=SERVER))
    document["novelty"] = document["tallymark"]["novelty"] = 1

    assert snapshot(decode(resealed(document))) == snapshot(lived_in())


def test_versions_are_read_before_anything_else() -> None:
    body = encode(empty("p", T0), server_id=SERVER)

    found = versions_of(body)
    assert found is not None
    assert (found.server_id, found.newer) == (SERVER, False)
    assert versions_of(b"[" * 10_000) is None
    assert versions_of(b'{"version":"one"}') is None
    plain = versions_of(b'{"version":3}')
    assert plain is not None
    assert (plain.server_id, plain.newer) == ("", True)
