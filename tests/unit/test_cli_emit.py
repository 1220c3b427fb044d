from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from tallymark.adoption import Adopter
from tallymark.fs import OsFileSystem
from tallymark.protocol.messages import Ack, HealthReport, Publish, Reason
from tallymark.texts import clean
from tallymarkd.cli import emit
from tallymarkd.cli.recording import Recorder
from tests.fake_daemon import FakeDaemon
from tests.speed import Times, quick, with_enough_time
from tests.tallymark_command import Done, Tallymark

RUN = ["emit", "--type", "run.end", "--agent", "coding", "--project", "demo"]


def acknowledge(**counts: int) -> object:
    def answer(publish: Publish) -> Ack:
        reasons = {name: number for name, number in counts.items() if name != "duplicate"}
        return Ack(
            through_seq=publish.seq,
            duplicate=counts.get("duplicate", 0),
            rejected=sum(reasons.values()),
            reasons=reasons,
        )

    return answer


def lines(*events: object) -> bytes:
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)


def test_one_event_is_recorded_and_named(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        done = tallymark(*RUN, "--input-tokens", "10")
        assert (done.code, done.err) == (0, "")
        (event,) = daemon.events
        assert done.out == f"stored {event['event_id']}\n"
        assert event["agent_name"] == "coding"
        assert event["input_tokens"] == 10
        assert event["at"] is not None
        (hello,) = [hello for hello in daemon.hellos if hello.producer]
        assert hello.project == "demo"
        daemon.wait(lambda: daemon.producer.goodbye, "a Goodbye, which retires the producer")
        assert daemon.wrong == []


def test_a_runs_event_is_named_by_its_run(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        done = tallymark(*RUN, "--run-id", "r-1", "--json")
        assert daemon.events[0]["event_id"] == "r-1"
    assert done.json == {
        "event_id": "r-1", "project": "demo", "stored": 1, "duplicate": 0, "rejected": {},
        "spooled": 0,
    }  # fmt: skip


def test_what_was_known_is_said_and_is_well(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.answer = acknowledge(duplicate=1)  # type: ignore[assignment]
        done = tallymark(*RUN, "--dedupe-key", "k-1")
    assert (done.code, done.out) == (0, "known already: k-1\n")


def test_what_is_rejected_is_1_with_the_reason(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.answer = acknowledge(cache_exceeds_input=1)  # type: ignore[assignment]
        done = tallymark(*RUN)
        as_json = tallymark(*RUN, "--json")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "tallymark: cannot record the event: tallymarkd rejected it: cache_exceeds_input\n"
    )
    assert as_json.code == 1
    assert as_json.json["rejected"] == {"cache_exceeds_input": 1}


@pytest.fixture
def no_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no place to spool to."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TALLYMARK_SPOOL_DIR", str(tmp_path / "file" / "spool"))


def test_without_a_daemon_it_is_spooled_and_75(tallymark: Tallymark) -> None:
    spools = tallymark.state_dir / "spool"

    def attempt() -> tuple[Times, Done]:
        began = time.monotonic()
        done = tallymark(*RUN, "--event-id", "e-1")
        return {"emit": time.monotonic() - began}, done

    done = quick({"emit": 1.0}, attempt)
    assert (done.code, done.out) == (75, "spooled e-1\n")
    assert done.err.startswith(
        f"spooled in {spools}, to be delivered when tallymarkd can be reached, "
    )
    assert "it is not running" in done.err
    assert done.err.count("\n") == 1
    as_json = tallymark(*RUN, "--event-id", "e-2", "--json")
    assert as_json.code == 75
    assert as_json.json == {
        "event_id": "e-2", "project": "demo", "stored": 0, "duplicate": 0, "rejected": {},
        "spooled": 1, "spool_dir": str(spools),
    }  # fmt: skip
    with FakeDaemon(tallymark.socket) as daemon:
        adopter = Adopter(OsFileSystem(), spools, [tallymark.socket], client="test/1")
        assert adopter.run().left == {}
        assert {event["event_id"] for event in daemon.events} == {"e-1", "e-2"}
    assert list(spools.iterdir()) == []


def test_lines_without_a_daemon_are_spooled_and_75(tallymark: Tallymark) -> None:
    events = [{"type": "usage", "event_id": f"e-{number}"} for number in range(30)]
    done = tallymark("emit", "-", stdin=lines(*events))
    assert (done.code, done.out) == (75, "0 stored, 0 known already, 30 spooled\n")
    assert f"spooled in {tallymark.state_dir / 'spool'}" in done.err
    bad = tallymark("emit", "-", "--json", stdin=b"?\n" + lines(*events))
    assert bad.code == 1
    assert bad.json["spooled"] == 30
    assert bad.json["spool_dir"] == str(tallymark.state_dir / "spool")


@pytest.mark.usefixtures("no_spool")
def test_with_no_place_to_spool_it_is_1_and_nothing_is_claimed(tallymark: Tallymark) -> None:
    done = tallymark(*RUN, "--timeout", "0.3")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("tallymark: cannot record the event: cannot reach tallymarkd at ")
    assert "it is not running" in done.err
    assert "cannot spool events: [Errno 20] Not a directory" in done.err
    assert done.err.endswith("nothing was recorded\n")
    assert done.err.count("\n") == 1


@pytest.mark.usefixtures("no_spool")
def test_a_daemon_that_comes_too_late_gets_nothing_that_was_said_not_to_be_recorded(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = FakeDaemon(tallymark.socket)

    def look_and_be_slow(recorder: Recorder) -> int:
        sent = recorder._client.stats().sent
        daemon.start()
        with daemon.changed:
            daemon.changed.wait_for(lambda: daemon.events, 1.0)
        return sent

    monkeypatch.setattr(Recorder, "sent", property(look_and_be_slow))
    try:
        done = tallymark(*RUN, "--timeout", "0.3")
        events = daemon.events
    finally:
        daemon.stop()
    assert done.err.endswith("nothing was recorded\n")
    assert events == []


@pytest.mark.usefixtures("no_spool")
def test_a_daemon_that_comes_in_time_is_waited_for(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = FakeDaemon(tallymark.socket)
    settle = Recorder.settle

    def start_late(recorder: Recorder) -> None:
        daemon.start()
        settle(recorder)

    monkeypatch.setattr(Recorder, "settle", start_late)
    try:
        assert tallymark(*RUN, "--timeout", "30").code == 0
    finally:
        daemon.stop()


def test_sent_and_not_acknowledged_in_time_is_spooled(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.acks = False
        done = with_enough_time(
            lambda seconds: tallymark(*RUN, "--timeout", f"{seconds}"), lambda _: daemon.events
        )
    assert done.code == 75
    assert done.out.startswith("spooled ")


@pytest.mark.usefixtures("no_spool")
@pytest.mark.parametrize(
    ("key", "told"), [([], "may count it twice"), (["--dedupe-key", "k"], "is harmless")]
)
def test_sent_and_not_acknowledged_is_said_to_be_unknown(
    tallymark: Tallymark, key: list[str], told: str
) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.acks = False
        daemon.health = HealthReport(
            id=0,
            status="degraded",
            reasons=[Reason(code="disk_full", message="no room", remedy="free space")],
        )
        done = with_enough_time(
            lambda seconds: tallymark(*RUN, "--timeout", f"{seconds}", *key),
            lambda _: daemon.events,
        )
    assert (done.code, done.out) == (1, "")
    assert "cannot tell whether the event was recorded" in done.err
    assert "tallymarkd is degraded: no room; free space" in done.err
    assert told in done.err
    assert done.err.count("\n") == 1


def test_a_daemon_that_refuses_is_believed_at_once(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.refusal = "wrong_user"
        done = tallymark(*RUN, "--timeout", "30")
    assert done.code == 1
    assert "wrong_user" in done.err
    assert done.err.count("\n") == 1


def test_disabled_records_nothing_and_is_well(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYMARK_DISABLED", "1")
    with FakeDaemon(tallymark.socket) as daemon:
        done = tallymark(*RUN)
        assert daemon.events == []
    assert (done.code, done.out) == (0, "")
    assert "TALLYMARK_DISABLED" in done.err


def test_lines_from_stdin(tallymark: Tallymark) -> None:
    events = [
        {"type": "run.end", "agent_name": "a", "run_id": "r-1", "surprise": [1]},
        {"type": "made.up", "n": 1, "event_id": "mine"},
    ]
    with FakeDaemon(tallymark.socket) as daemon:
        done = tallymark("emit", "-", "--project", "demo", stdin=b"\n" + lines(*events) + b" \n")
        first, second = daemon.events
    assert (done.code, done.out, done.err) == (
        0, '2 stored (1 of unknown type "made.up": counted in no total), 0 known already\n', ""
    )  # fmt: skip
    assert first["surprise"] == [1]
    assert first["event_id"] == "r-1"
    assert second["event_id"] == "mine"
    assert second["n"] == 1


def test_many_lines_pass_through_a_bounded_queue(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallymarkd.cli.recording.PENDING_EVENTS_MAX", 10)
    events = [{"type": "usage", "event_id": f"e-{number}"} for number in range(105)]
    with FakeDaemon(tallymark.socket) as daemon:
        done = tallymark("emit", "-", stdin=lines(*events))
        assert [event["event_id"] for event in daemon.events] == [
            event["event_id"] for event in events
        ]
    assert done.out == "105 stored, 0 known already\n"


def test_bad_lines_are_named_and_do_not_harm_the_others(tallymark: Tallymark) -> None:
    good = lines({"type": "usage", "event_id": "good"})
    with FakeDaemon(tallymark.socket) as daemon:
        done = tallymark("emit", "-", stdin=b"[1]\n" + good + b'{"type":"usage","pid":1,"at":3}\n')
        as_json = tallymark("emit", "-", "--json", stdin=b"{}\n" + good)
        assert [event["event_id"] for event in daemon.events] == ["good", "good"]
    assert done.code == as_json.code == 1
    assert done.out == "1 stored, 0 known already, 2 rejected: unusable_line (2 times)\n"
    first, second = done.err.splitlines()
    assert first == "cannot use line 1: it is not a JSON object"
    assert second.startswith("cannot use line 3: at: ")
    assert as_json.json == {
        "stored": 1, "duplicate": 0, "rejected": {"unusable_line": 1}, "spooled": 0,
        "unknown_types": {},
    }  # fmt: skip


def test_of_very_many_bad_lines_only_some_are_told_one_by_one(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket):
        done = tallymark("emit", "-", stdin=b"?\n" * 50)
    assert "50 rejected" in done.out
    assert len(done.err.splitlines()) == emit.LINES_TOLD_MAX + 1
    assert done.err.endswith("\nand 40 more\n")


def test_what_lacks_a_field_is_refused_before_it_is_sent(tallymark: Tallymark) -> None:
    done = tallymark("emit", "--type", "run.end")
    assert (done.code, done.out) == (2, "")
    assert done.err == "tallymark: cannot record it: run.end needs agent_name; give --agent\n"
    assert not (tallymark.state_dir / "spool").exists()


def test_a_line_that_lacks_fields_is_named_with_them(tallymark: Tallymark) -> None:
    good = lines({"type": "usage", "event_id": "good"})
    done = tallymark("emit", "-", stdin=good + lines({"type": "run.start"}) + good)
    assert (done.code, done.out) == (
        1, "0 stored, 0 known already, 2 spooled, 1 rejected: unusable_line\n"
    )  # fmt: skip
    assert done.err.startswith("cannot use line 2: run.start needs agent_name, run_id\n")


def test_events_that_nobody_counts_are_told(tallymark: Tallymark) -> None:
    events = [{"type": f"odd\x1b{number}"} for number in range(5)]
    with FakeDaemon(tallymark.socket):
        done = tallymark("emit", "-", stdin=lines(*events, events[3]))
        as_json = tallymark("emit", "-", "--json", stdin=lines(*events[:1]))
    assert done.code == 0
    assert done.out == (
        '6 stored (6 of unknown types "odd\\x1b3", "odd\\x1b0", "odd\\x1b1" and 2 more: '
        "counted in no total), 0 known already\n"
    )
    spooled = tallymark("emit", "-", stdin=lines({"type": "odd"}))
    assert spooled.out == (
        '0 stored, 0 known already, 1 spooled (1 of unknown type "odd": counted in no total)\n'
    )
    assert as_json.json["unknown_types"] == {"odd\x1b0": 1}


def test_a_long_text_is_cut_and_stored(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        assert tallymark(*RUN, "--error", "x" * 70_000).code == 0
        assert daemon.events[0]["error_message"] == clean("x" * 70_000)


@pytest.mark.usefixtures("no_spool")
def test_lines_that_do_not_get_through_are_1_with_what_is_known(tallymark: Tallymark) -> None:
    events = [{"type": "usage"}] * 3
    done = tallymark("emit", "-", "--timeout", "0.1", stdin=lines(*events))
    assert done.code == 1
    assert done.out == "0 stored, 0 known already\n"
    assert "it is not running" in done.err
    assert "3 lines were read" in done.err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["emit", "file.json"], "only - is"),
        (["emit", "-", "--agent", "x"], "stdin"),
        (["emit", "--type", "x"], "usage"),
        (["emit", "--agent", "x"], "--type"),
        ([*RUN, "--timeout", "-1"], "--timeout"),
        ([*RUN, "--project", "a\nb"], "project"),
    ],
)
def test_wrong_usage_is_2_and_reaches_no_daemon(
    tallymark: Tallymark, args: list[str], told: str
) -> None:
    done = tallymark(*args)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("\n") == 1
