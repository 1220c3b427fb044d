"""Recording: what is filled in, sessions, and that nothing raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tallymark.errors import DeliveryError, PathError, SettingError, UsageError
from tallymark.events import EventBase, RunEnd, RunStart, SessionEnd, SessionStart, Usage
from tallymark.recorder import Recorder
from tallymark.runs import Run
from tallymark.settings import Settings
from tests.derived import Text

Make = Callable[..., Recorder]
WHEN = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Recorder] = []
    (tmp_path / "spotter").mkdir()
    monkeypatch.chdir(tmp_path / "spotter")

    def make_one(env: dict[str, str] | None = None, **given: Any) -> Recorder:
        arguments: dict[str, Any] = {
            "project": None,
            "socket": tmp_path / "s.sock",
            "source": "",
            "settings": Settings(queue_events_max=100),
        }
        recorder = Recorder(**(arguments | given), env={"HOME": str(tmp_path), **(env or {})})
        # Nobody delivers: what is queued stays for the test to look at.
        recorder.delivery._intake.quiet = False
        made.append(recorder)
        return recorder

    yield make_one
    for recorder in made:
        recorder.delivery.close(0.0)


def queued(recorder: Recorder) -> list[Any]:
    return list(recorder.delivery._intake.queue)


def only(recorder: Recorder) -> Any:
    (event,) = queued(recorder)
    return event


# Making one.


def test_the_project_is_the_directorys(make: Make, tmp_path: Path) -> None:
    assert make().project == "spotter"
    assert make({"TALLYMARK_PROJECT": "of-env"}).project == "of-env"
    assert make({"TALLYMARK_PROJECT": "of-env"}, project="given").project == "given"


def test_a_working_directory_that_is_gone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "spotter").rmdir()
    recorder = make()
    assert recorder.project == "unnamed"
    assert recorder.place[0] == ""


@pytest.mark.parametrize(
    ("env", "given", "error", "said"),
    [
        ({}, {"project": "x" * 600}, SettingError, "project="),
        ({}, {"project": "two\nlines"}, SettingError, "project="),
        ({"TALLYMARK_PROJECT": "\0"}, {}, SettingError, "project="),
        ({}, {"source": "\n"}, SettingError, "source="),
        ({}, {"socket": "/" + "x" * 200}, PathError, "201 bytes"),
        ({}, {"socket": "~nosuch/s.sock"}, PathError, "path ~nosuch/s.sock: .*absolute"),
        ({}, {"spool_dir": "~nosuch/spool"}, PathError, "path ~nosuch/spool: .*absolute"),
        ({"TALLYMARK_DISABLED": "maybe"}, {}, SettingError, "TALLYMARK_DISABLED"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    make: Make, env: dict[str, str], given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        make(env, **given)


# Events.


def test_what_is_absent_is_filled_in_a_copy(make: Make) -> None:
    recorder = make(source="importer")
    given = Usage(input_tokens=5)
    before = datetime.now(UTC)
    assert recorder.emit(given)
    assert recorder.emit(given)
    assert given == Usage(input_tokens=5)
    first, second = queued(recorder)
    assert first.event_id != second.event_id
    assert first.event_id.rpartition("-")[2] == "1"
    assert before <= first.at <= datetime.now(UTC)
    assert (first.input_tokens, first.source) == (5, "importer")


def test_a_complete_event_is_queued_as_it_is(make: Make) -> None:
    recorder = make()
    given = Usage(event_id="e", at=WHEN)
    recorder.emit(given)
    assert only(recorder) is given


def test_a_source_that_is_given_stands(make: Make) -> None:
    recorder = make(source="mine")
    recorder.emit(Usage(event_id="e", at=WHEN, source="its"))
    recorder.emit(Usage(event_id="e", at=WHEN))
    assert [event.source for event in queued(recorder)] == ["its", "mine"]


def test_a_finished_run_is_named_and_dated_by_itself(make: Make) -> None:
    recorder = make()
    recorder.emit(RunEnd(run_id="r-1", ended_at=WHEN))
    recorder.emit(RunEnd())
    first, second = queued(recorder)
    assert (first.event_id, first.at) == ("r-1", WHEN)
    assert second.event_id
    assert second.at is not None


def test_a_mapping_may_have_fields_that_nobody_knows(make: Make) -> None:
    recorder = make(source="mine")
    given = {"type": "tool.call", "colour": "blue"}
    assert recorder.emit(given)
    event = only(recorder)
    assert given == {"type": "tool.call", "colour": "blue"}
    assert event | {"event_id": "", "at": None} == {
        "type": "tool.call",
        "colour": "blue",
        "event_id": "",
        "at": None,
        "source": "mine",
    }
    assert event["event_id"]
    assert event["at"] is not None


def test_a_mapping_of_a_finished_run_is_named_by_it(make: Make) -> None:
    recorder = make()
    recorder.emit({"type": "run.end", "run_id": "r-1", "at": WHEN})
    assert only(recorder) == {"type": "run.end", "run_id": "r-1", "at": WHEN, "event_id": "r-1"}


class Unreadable(dict[str, Any]):
    def get(self, *_: object) -> Any:
        raise RuntimeError("do not look")


class Evasive:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("do not ask")


class Frozen(Usage, frozen=True):  # type: ignore[misc]
    """Of which no copy can be completed."""


NO_EVENTS: list[Any] = [
    None,
    "event",
    5,
    [],
    {},
    {"type": 5},
    Usage,
    Unreadable({"type": "usage"}),
    Frozen(),
    # pytest asks what it is.
    Evasive,
]


@pytest.mark.parametrize("given", NO_EVENTS)
def test_what_is_no_event_is_dropped_counted_and_said_once(
    make: Make, given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = make()
    if given is Evasive:
        given = Evasive()
    assert not recorder.emit(given)
    assert not recorder.emit(given)
    stats = recorder.stats()
    assert (stats.dropped, stats.ignored) == ({"not_an_event": 2}, {"event": 2})
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("tallymark cannot record a ")
    with pytest.raises(UsageError, match="^cannot record a "):
        recorder.emit_before_flush(given)
    assert queued(recorder) == []


def test_recording_after_close_is_said_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    recorder = make()
    recorder.delivery.close()
    for _ in range(3):
        assert not recorder.emit(Usage())
    assert recorder.stats().dropped == {"closed": 3}
    assert caplog.messages == ["tallymark cannot record: the client is closed; this is said once"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no event", "not an event"),
        (Usage(attrs={"x": object()}), "cannot be encoded"),
        (Usage(attrs={"x": "\ud800"}), "cannot be encoded"),
        (Usage(attrs={"x": "y" * 70_000}), "the limit is 65536"),
        (Usage(input_tokens=-5), "input_tokens"),
        (Usage(project="other"), "`project` is 'other', the sender's is 'spotter'"),
        ({"type": "usage", "input_tokens": "x"}, "input_tokens"),
    ],
)
def test_what_is_to_be_durable_and_cannot_be_is_the_callers_fault(
    make: Make, given: Any, said: str
) -> None:
    recorder = make()
    with pytest.raises(UsageError, match=said):
        recorder.emit_before_flush(given)
    assert queued(recorder) == []


def test_why_an_event_that_was_to_be_durable_is_not_taken(make: Make) -> None:
    recorder = make(settings=Settings(queue_events_max=1))
    recorder.emit_before_flush(Usage())
    with pytest.raises(DeliveryError, match="the queue is full"):
        recorder.emit_before_flush(Usage())
    other = make()
    other.delivery.close()
    with pytest.raises(DeliveryError, match="the client is closed"):
        other.emit_before_flush(Usage())


# Sessions.


def test_a_session_of_its_own(make: Make) -> None:
    recorder = make()
    session_id = recorder.start_session("initializer")
    recorder.end_session(session_id, "continue")
    start, end = queued(recorder)
    assert isinstance(start, SessionStart)
    assert isinstance(end, SessionEnd)
    assert (start.session_id, start.session_type) == (session_id, "initializer")
    assert (end.session_id, end.status) == (session_id, "continue")


def test_sessions_of_nonsense(make: Make) -> None:
    recorder = make()
    session_id = recorder.start_session("sometimes")  # type: ignore[arg-type]
    recorder.end_session(session_id, "finished")  # type: ignore[arg-type]
    recorder.end_session("")
    recorder.end_session(None)  # type: ignore[arg-type]
    start, end = queued(recorder)
    assert (start.session_type, end.status) == (None, "complete")
    assert recorder.stats().ignored == {
        "session_type": 1,
        "session_status": 1,
        "session_id": 2,
    }


def of_kind(recorder: Recorder, kind: type[EventBase]) -> list[Any]:
    return [event for event in queued(recorder) if isinstance(event, kind)]


def test_runs_without_a_session_share_one_that_is_begun_by_the_first(make: Make) -> None:
    recorder = make()
    assert queued(recorder) == []
    for _ in range(2):
        with Run(recorder, "coding"):
            pass
    kinds = [type(event) for event in queued(recorder)]
    assert kinds == [SessionStart, RunStart, RunEnd, RunStart, RunEnd]
    (start,) = of_kind(recorder, SessionStart)
    assert {end.session_id for end in of_kind(recorder, RunEnd)} == {start.session_id}
    recorder._end_own_session()
    recorder._end_own_session()
    (end,) = of_kind(recorder, SessionEnd)
    assert (end.session_id, end.status) == (start.session_id, "complete")


def test_a_run_that_begins_while_another_begins_the_session_belongs_to_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = make()
    seen: list[str] = []
    say = recorder._say_session_start

    def say_late(session_id: str, session_type: Any) -> None:
        # As if another thread, or a signal handler, came right here.
        seen.append(recorder.default_session())
        say(session_id, session_type)

    class Between(dict[str, object]):
        def setdefault(self, key: str, value: Any = None) -> Any:
            first = super().setdefault(key, value)
            if first is value:
                seen.append(recorder.default_session())
            return first

    monkeypatch.setattr(recorder, "_say_session_start", say_late)
    recorder._session_beginners = Between()
    seen.append(recorder.default_session())
    (start,) = of_kind(recorder, SessionStart)
    assert seen == [start.session_id] * 3


def test_a_child_that_was_forked_while_the_session_began_has_its_own(make: Make) -> None:
    recorder = make()
    recorder._session_beginners[recorder.incarnation] = object()
    recorder.delivery.begin_again_in_child()
    recorder.delivery._intake.quiet = False
    session_id = recorder.default_session()
    assert [start.session_id for start in of_kind(recorder, SessionStart)] == [session_id]
    recorder._end_own_session()
    assert [end.session_id for end in of_kind(recorder, SessionEnd)] == [session_id]


def test_values_of_derived_types_become_plain(make: Make) -> None:
    recorder = make(project=Text("p"), source=Text("s"))
    assert (type(recorder.project), type(recorder.source)) == (str, str)
    recorder.start_session(Text("continuation"))  # type: ignore[arg-type]
    recorder.end_session(Text("s-1"), Text("error"))  # type: ignore[arg-type]
    (start,) = of_kind(recorder, SessionStart)
    (end,) = of_kind(recorder, SessionEnd)
    assert type(start.session_type) is type(end.session_id) is type(end.status) is str
    assert (start.session_type, end.session_id, end.status) == ("continuation", "s-1", "error")
    recorder.emit_before_flush(Usage(agent_name=Text("coding")))
    assert recorder.stats().ignored == {}


def test_a_session_of_the_environment_is_neither_begun_nor_ended(make: Make) -> None:
    recorder = make({"TALLYMARK_SESSION_ID": "s-env", "TALLYMARK_PARENT_RUN_ID": "r-env"})
    with Run(recorder, "coding"), Run(recorder, "inner"):
        pass
    recorder._end_own_session()
    assert {type(event) for event in queued(recorder)} == {RunStart, RunEnd}
    inner, outer = of_kind(recorder, RunEnd)
    assert (outer.session_id, outer.parent_run_id) == ("s-env", "r-env")
    assert (inner.session_id, inner.parent_run_id) == ("s-env", outer.run_id)


def test_a_given_session_begins_none(make: Make) -> None:
    recorder = make()
    with Run(recorder, "coding", session_id="given"):
        pass
    assert of_kind(recorder, SessionStart) == []


def test_a_forked_child_goes_on_with_the_session_and_leaves_its_end_to_the_parent(
    make: Make,
) -> None:
    recorder = make()
    with Run(recorder, "coding"):
        pass
    session_id = recorder.default_session()
    recorder.delivery.begin_again_in_child()
    recorder.delivery._intake.quiet = False
    with Run(recorder, "coding"):
        pass
    recorder._end_own_session()
    assert {type(event) for event in queued(recorder)} == {RunStart, RunEnd}
    assert of_kind(recorder, RunEnd)[0].session_id == session_id


def test_what_a_child_process_needs(make: Make, tmp_path: Path) -> None:
    recorder = make(project="p")
    assert recorder.environment_for("s", "r") == {
        "TALLYMARK_PROJECT": "p",
        "TALLYMARK_SESSION_ID": "s",
        "TALLYMARK_PARENT_RUN_ID": "r",
        "TALLYMARK_SOCKET": str(tmp_path / "s.sock"),
    }
    # A socket that was found is found by the child as well.
    assert "TALLYMARK_SOCKET" not in make(socket=None).environment_for("s", "r")
    found = make(spool_dir=tmp_path / "kept").environment_for("s", "r")
    assert found["TALLYMARK_SPOOL_DIR"] == str(tmp_path / "kept")


@pytest.mark.parametrize(
    "given",
    [
        {"env": {"HOME": ""}},
        {"socket": "~nosuch/x.sock"},
        {"spool_dir": "~nosuch"},
        {"socket": "/" + "x" * 200},
        {"project": "two\nlines"},
        {"source": "\n"},
    ],
)
def test_disabled_it_looks_for_nothing(
    make: Make, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallymark.paths.project_of_directory", None)
    monkeypatch.setattr("tallymark.paths.state_dir", None)
    arguments: dict[str, Any] = {"env": {}, "socket": None} | given
    recorder = make({**arguments.pop("env"), "TALLYMARK_DISABLED": "1"}, **arguments)
    assert recorder.disabled
    with Run(recorder, "coding") as run:
        assert run.environment()["TALLYMARK_PARENT_RUN_ID"] == run.run_id


def test_a_child_in_another_directory_finds_what_a_variable_said(
    make: Make, tmp_path: Path
) -> None:
    variables = {"TALLYMARK_STATE_DIR": "../run", "TALLYMARK_SPOOL_DIR": "kept"}
    found = make(variables, socket=None).environment_for("s", "r")
    assert found["TALLYMARK_SOCKET"] == str(tmp_path / "run" / "run" / "tallymark.sock")
    assert found["TALLYMARK_SPOOL_DIR"] == str(tmp_path / "spotter" / "kept")


def test_disabled_it_does_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    recorder = make({"TALLYMARK_DISABLED": "1"})
    assert not recorder.emit(Usage())
    assert not recorder.emit("no event")  # type: ignore[arg-type]
    with Run(recorder, "coding") as run:
        run.add_tokens(input_tokens=-1)
    assert recorder.start_session()
    assert queued(recorder) == []
    assert recorder.stats().dropped == {}
    assert not caplog.messages
