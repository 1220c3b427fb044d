"""The original collector's signatures, over the client."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallymark.compat import AgentMetricsCollector, AgentTracker
from tallymark.errors import DeliveryError, SettingError
from tallymark.state import DashboardState
from tests.fake_daemon import FakeDaemon

MODEL = "claude-sonnet-4-5"


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setenv("TALLYMARK_SOCKET", str(tmp_path / "s.sock"))
    for name in ("SESSION_ID", "PARENT_RUN_ID", "PROJECT", "DISABLED"):
        monkeypatch.delenv(f"TALLYMARK_{name}", raising=False)
    with FakeDaemon(tmp_path / "s.sock") as running:
        yield running
        assert running.wrong == []


@pytest.fixture
def collector(daemon: FakeDaemon) -> Iterator[AgentMetricsCollector]:
    made = AgentMetricsCollector("shop", Path("/nowhere"))
    yield made
    made._client.close(60.0)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Undecided:
    def __bool__(self) -> bool:
        raise RuntimeError("neither")


def events(collector: AgentMetricsCollector, daemon: FakeDaemon) -> list[dict[str, Any]]:
    collector._client.flush(60.0)
    return daemon.events


def parameters(function: Any) -> list[tuple[str, object]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.default) for each in found if each.name != "self"]


def test_the_signatures_are_the_originals() -> None:
    need = inspect.Parameter.empty
    assert parameters(AgentMetricsCollector) == [("project_name", need), ("metrics_dir", None)]
    assert parameters(AgentMetricsCollector.start_session) == [("session_type", "initializer")]
    assert parameters(AgentMetricsCollector.end_session) == [
        ("session_id", need), ("status", "complete")
    ]  # fmt: skip
    assert parameters(AgentMetricsCollector.track_agent) == [
        ("agent_name", need), ("ticket_key", need), ("model_used", need), ("session_id", None)
    ]  # fmt: skip
    assert parameters(AgentTracker.add_tokens) == [("input_tokens", need), ("output_tokens", need)]
    assert parameters(AgentTracker.add_artifact) == [("artifact", need)]
    assert parameters(AgentTracker.set_error) == [("error_message", need)]


def test_a_run_in_a_session(collector: AgentMetricsCollector, daemon: FakeDaemon) -> None:
    session_id = collector.start_session()
    with collector.track_agent("coding", "AI-1", MODEL, session_id) as tracker:
        tracker.add_tokens(10, 20)
        tracker.add_tokens(input_tokens=1, output_tokens=2)
        tracker.add_artifact("commit:1")
        tracker.add_file_change("a.py", "created", 3, 0, "python", "+x")
        tracker.add_artifact("file:modified:b.py")
        tracker.add_file_change("b.py", "modified", 3, 0, "python", "+x")
        assert (tracker.session_id, tracker.agent_name) == (session_id, "coding")
    collector.end_session(session_id, status="continue")
    begin, start, end, over = events(collector, daemon)
    assert (begin["type"], begin["session_type"]) == ("session.start", "initializer")
    assert start["run_id"] == end["event_id"] == tracker.event_id
    assert (end["input_tokens"], end["output_tokens"]) == (11, 22)
    assert end["artifacts"] == ["commit:1", "file:modified:b.py", "file:created:a.py"]
    assert {begin["session_id"], end["session_id"], over["session_id"]} == {session_id}
    assert over["status"] == "continue"
    assert daemon.hellos[0].project == "shop"


def test_without_a_session_the_run_has_one_of_its_own(
    collector: AgentMetricsCollector, daemon: FakeDaemon
) -> None:
    with collector.track_agent("coding", "AI-1", MODEL):
        pass
    begin, _, end, over = events(collector, daemon)
    assert (begin["type"], begin["session_type"]) == ("session.start", "continuation")
    assert end["session_id"] == begin["session_id"] == over["session_id"]
    assert over["type"] == "session.end"


def test_in_a_session_of_the_process_it_begins_none(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYMARK_SESSION_ID", "s-1")
    collector = AgentMetricsCollector("shop")
    with collector.track_agent("coding", "AI-1", MODEL) as tracker:
        assert tracker.session_id == "s-1"
    assert [each["type"] for each in events(collector, daemon)] == ["run.start", "run.end"]
    collector._client.close(60.0)


def test_an_exception_is_an_error_with_its_text(
    collector: AgentMetricsCollector, daemon: FakeDaemon
) -> None:
    for error in (ValueError("boom"), ValueError()):
        with pytest.raises(ValueError), collector.track_agent("coding", "AI-1", MODEL, "s"):
            raise error
    with pytest.raises(OSError), collector.track_agent("coding", "AI-1", MODEL):
        raise OSError("the session of its own ends, too")
    assert events(collector, daemon)[-1]["type"] == "session.end"
    ends = [each for each in events(collector, daemon) if each["type"] == "run.end"]
    assert [each["status"] for each in ends] == ["error"] * 3
    assert [each["error_message"] for each in ends][:2] == ["boom", "ValueError"]


def test_attributes_may_be_changed_until_the_end(
    collector: AgentMetricsCollector, daemon: FakeDaemon
) -> None:
    with collector.track_agent("coding", "AI-1", MODEL, "s") as tracker:
        tracker.status = "timeout"
        tracker.error_message = "too slow"
        tracker.input_tokens = 7
        tracker.artifacts = ["pr:#1"]
        tracker.agent_name, tracker.ticket_key, tracker.model_used = "review", "AI-2", "gpt-5"
    start, end = events(collector, daemon)
    assert (start["agent_name"], start["run_id"]) == ("coding", end["run_id"])
    assert (end["agent_name"], end["ticket_key"], end["model_used"]) == ("review", "AI-2", "gpt-5")
    assert (end["status"], end["error_message"]) == ("timeout", "too slow")
    assert (end["input_tokens"], end["artifacts"]) == (7, ["pr:#1"])


def test_nonsense_is_counted_and_raises_nothing(
    collector: AgentMetricsCollector, daemon: FakeDaemon
) -> None:
    nonsense: Any = [1]
    with collector.track_agent(nonsense, None, nonsense, nonsense) as tracker:  # type: ignore[arg-type]
        tracker.add_tokens(-1, 5)
        tracker.add_tokens("a", None)  # type: ignore[arg-type]
        tracker.add_artifact(nonsense)
        tracker.set_error(nonsense)
        tracker.status = nonsense
    collector.end_session("of somebody else")
    collector.end_session(nonsense, nonsense)
    collector.start_session(nonsense)
    assert collector._client.stats().ignored == {
        "tokens": 2, "status": 1, "session_status": 1, "session_type": 1
    }  # fmt: skip
    end = events(collector, daemon)[1]
    assert (end.get("input_tokens", 0), end["status"]) == (0, "error")


NONSENSE: list[tuple[str, Any]] = [
    ("artifacts", None),
    ("artifacts", 5),
    ("file_changes", [{"path": "x"}, {"change_type": "created"}]),
    ("file_changes", [None]),
    ("file_changes", None),
    ("error_message", Undecided()),
    ("input_tokens", None),
    ("model_used", None),
    ("agent_name", None),
]


@pytest.mark.parametrize(("name", "value"), NONSENSE)
def test_an_attribute_that_makes_no_sense_hurts_neither_the_agent_nor_the_rest(
    collector: AgentMetricsCollector, daemon: FakeDaemon, name: str, value: Any
) -> None:
    collector.register_event_callback(lambda event: None)
    with (
        pytest.raises(RuntimeError, match="the agent's own"),
        collector.track_agent("coding", "AI-1", MODEL, "s") as tracker,
    ):
        tracker.add_tokens(7, 5)
        tracker.add_artifact("pr:#1")
        tracker.add_file_change("src/foo.py", "created", 1, 0, "python", "")
        setattr(tracker, name, value)
        raise RuntimeError("the agent's own")
    end = events(collector, daemon)[-1]
    assert (end["status"], end["error_message"]) == ("error", "the agent's own")
    assert end["agent_name"] == "coding"
    if name != "input_tokens":
        assert (end["input_tokens"], end["output_tokens"]) == (7, 5)
    if name == "artifacts":
        assert end["artifacts"] == ["file:created:src/foo.py"]
    elif name == "file_changes":
        assert end["artifacts"][0] == "pr:#1"
    else:
        assert end["artifacts"] == ["pr:#1", "file:created:src/foo.py"]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyboardInterrupt(), "task_failed", "KeyboardInterrupt"),
        (asyncio.CancelledError(), "task_failed", "CancelledError"),
        (SystemExit(3), "task_failed", "SystemExit: 3"),
        (SystemExit(0), "task_completed", ""),
        (Unspeakable(), "task_failed", "Unspeakable"),
    ],
)
def test_callbacks_hear_what_is_recorded_of_an_end(
    collector: AgentMetricsCollector,
    daemon: FakeDaemon,
    error: BaseException,
    kind: str,
    message: str,
) -> None:
    heard: list[tuple[str, str, str]] = []
    collector.subscribe(
        lambda kind, event: heard.append((kind, event["status"], event["error_message"]))
    )
    with pytest.raises(type(error)), collector.track_agent("coding", "AI-1", MODEL, "s"):
        raise error
    end = events(collector, daemon)[-1]
    status = "error" if kind == "task_failed" else "success"
    assert heard[-1] == (kind, status, message)
    assert (end.get("status", "success"), end.get("error_message", "")) == (status, message)


def test_a_project_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(SettingError):
        AgentMetricsCollector("a\nb")


def test_callbacks_hear_of_runs_and_cannot_hurt(collector: AgentMetricsCollector) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    ended: list[dict[str, Any]] = []

    def hear(kind: str, event: dict[str, Any]) -> None:
        heard.append((kind, event))
        raise RuntimeError("of the program")

    for _ in range(2):
        collector.subscribe(hear)
        collector.register_event_callback(ended.append)
    with collector.track_agent("coding", "AI-1", MODEL, "s") as tracker:
        tracker.add_tokens(1, 2)
    with pytest.raises(KeyError), collector.track_agent("coding", "AI-1", MODEL, "s"):
        raise KeyError("x")
    assert [kind for kind, _ in heard] == [
        "task_started", "task_completed", "task_started", "task_failed"
    ]  # fmt: skip
    assert [each["total_tokens"] for each in ended] == [3, 0]
    assert heard[1][1]["started_at"].endswith("Z")
    json.dumps(heard)
    collector.unsubscribe(hear)
    collector.unregister_event_callback(ended.append)
    collector.unsubscribe(hear)
    with collector.track_agent("coding", "AI-1", MODEL, "s"):
        pass
    assert (len(heard), len(ended)) == (4, 2)


# The state.


def test_the_state_is_plain_values(collector: AgentMetricsCollector, daemon: FakeDaemon) -> None:
    state = msgspec.convert(
        {"project_name": "shop", "created_at": "2026-01-01T00:00:00Z",
         "updated_at": "2026-01-02T00:00:00Z", "total_tokens": 5}, DashboardState
    )  # fmt: skip
    daemon.replies["state"] = [msgspec.json.encode(state)]
    found = collector.get_state()
    assert (found["total_tokens"], found["updated_at"]) == (5, "2026-01-02T00:00:00Z")
    json.dumps(found)


@pytest.mark.parametrize("known", [True, False])
def test_only_a_project_that_nothing_is_known_of_has_an_empty_state(
    collector: AgentMetricsCollector,
    daemon: FakeDaemon,
    monkeypatch: pytest.MonkeyPatch,
    known: bool,
) -> None:
    def refuse() -> DashboardState:
        raise DeliveryError("cannot read state from tallymarkd: no")

    monkeypatch.setattr(collector._client, "dump", refuse)
    daemon.replies["projects"] = [b'[{"project": "shop"}]' if known else b'[{"project": "x"}]']
    if known:
        with pytest.raises(DeliveryError):
            collector.get_state()
        return
    state = collector.get_state()
    assert (state["project_name"], state["events"], state["agents"]) == ("shop", [], {})


def test_without_a_daemon_there_is_no_state(
    collector: AgentMetricsCollector, daemon: FakeDaemon
) -> None:
    daemon.stop()
    with pytest.raises(DeliveryError):
        collector.get_state()


def test_disabled_it_records_nothing_and_its_state_is_empty(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYMARK_DISABLED", "1")
    collector = AgentMetricsCollector("shop")
    with collector.track_agent("coding", "AI-1", MODEL) as tracker:
        tracker.add_tokens(1, 2)
    assert collector.get_state()["total_tokens"] == 0
    assert daemon.hellos == []
