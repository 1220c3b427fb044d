"""The blocking client, from its surface, against a scripted daemon."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tallymark
from tallymark import Client
from tallymark.errors import ConnectError, DeliveryError, FlushTimeout, SettingError, UsageError
from tallymark.events import RunEnd, Usage
from tests.fake_daemon import FakeDaemon, until
from tests.speed import Times, quick
from tests.unit.test_questions import STATE

FLUSH_SECONDS = 60.0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "s.sock") as running:
        yield running
        assert not running.wrong


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client("p", socket=daemon.path, exit_timeout_seconds=FLUSH_SECONDS) as made:
        yield made


def test_everything_public_is_there() -> None:
    for name in tallymark.__all__:
        assert hasattr(tallymark, name), name
    assert list(tallymark.__all__) == sorted(tallymark.__all__)


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = tallymark.Nonsense  # type: ignore[attr-defined]


def test_the_example_of_the_readme(daemon: FakeDaemon) -> None:
    with Client("p", socket=daemon.path, exit_timeout_seconds=FLUSH_SECONDS) as client:
        session_id = client.start_session(session_type="initializer")
        with client.track_agent(
            "coding", ticket_key="AI-46", model="claude-sonnet-4-5", session_id=session_id
        ) as run:
            run.add_tokens(input_tokens=1000, output_tokens=2000)
            run.add_artifact("commit:abc123")
        client.end_session(session_id, status="complete")
        client.flush(timeout=FLUSH_SECONDS)
        kinds = [event["type"] for event in daemon.events]
        assert kinds == ["session.start", "run.start", "run.end", "session.end"]
        assert client.project == "p"
    daemon.wait(lambda: daemon.producer.goodbye)
    end = daemon.events[2]
    assert (end["input_tokens"], end["output_tokens"]) == (1000, 2000)
    assert (end["agent_name"], end["session_id"]) == ("coding", session_id)
    assert end["artifacts"] == ["commit:abc123"]


def test_its_own_session_ends_with_it(daemon: FakeDaemon) -> None:
    client = Client("p", socket=daemon.path, exit_timeout_seconds=FLUSH_SECONDS)
    with client, client.track_agent("coding"):
        pass
    daemon.wait(lambda: daemon.producer.goodbye)
    assert [event["type"] for event in daemon.events] == [
        "session.start",
        "run.start",
        "run.end",
        "session.end",
    ]
    assert len({event["session_id"] for event in daemon.events}) == 1


def test_emit_and_flush(daemon: FakeDaemon, client: Client) -> None:
    assert client.emit(RunEnd(agent_name="coding"))
    client.flush(FLUSH_SECONDS)
    (event,) = daemon.events
    assert event["agent_name"] == "coding"


def test_durable_returns_when_it_is(daemon: FakeDaemon, client: Client) -> None:
    assert client.emit(Usage(event_id="1"), durable=True, timeout=FLUSH_SECONDS)
    assert [event["event_id"] for event in daemon.events] == ["1"]
    assert client.stats().acknowledged == 1


def test_durable_in_vain_is_still_pending(daemon: FakeDaemon, client: Client) -> None:
    daemon.acks = False
    with pytest.raises(FlushTimeout, match="must not be emitted again") as told:
        client.emit(Usage(event_id="1"), durable=True, timeout=0.02)
    assert told.value.pending_events == 1
    daemon.wait(lambda: daemon.events)
    daemon.resume_acks()
    client.flush(FLUSH_SECONDS)
    assert len(daemon.events) == 1


def test_durable_tells_the_caller_of_his_fault(client: Client) -> None:
    with pytest.raises(UsageError):
        client.emit(Usage(attrs={"x": object()}), durable=True)
    assert client.stats().dropped == {}


def test_durable_waits_for_room_in_a_full_queue(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    (tmp_path / "no-directory").touch()
    client = Client(
        "p", socket=path, spool_dir=tmp_path / "no-directory", queue_events_max=5,
        exit_timeout_seconds=0,
    )  # fmt: skip
    for _ in range(5):
        client.emit(Usage())
    with pytest.raises(DeliveryError, match="not taken, and may be emitted again") as told:
        client.emit(Usage(), durable=True, timeout=0.01)
    # That would say that it is pending.
    assert not isinstance(told.value, FlushTimeout)
    assert client.stats().queued + client.stats().unacknowledged == 5
    with FakeDaemon(path) as daemon:
        assert client.emit(Usage(event_id="6"), durable=True, timeout=FLUSH_SECONDS)
        assert len(daemon.events) == 6
        client.close()


def test_what_is_spooled_is_flushed_and_not_durable(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    client = Client("p", socket=path, queue_events_max=5)
    for _ in range(5):
        assert client.emit(Usage())
    client.flush(FLUSH_SECONDS)
    assert client.stats().spooled == 5
    assert client.emit(Usage())
    with pytest.raises(FlushTimeout, match="must not be emitted again"):
        client.emit(Usage(), durable=True, timeout=0.05)
    with FakeDaemon(path) as daemon:
        assert client.emit(Usage(), durable=True, timeout=FLUSH_SECONDS)
        assert len(daemon.events) == 8
        client.close()


def test_durable_after_close(daemon: FakeDaemon, client: Client) -> None:
    client.close()
    with pytest.raises(DeliveryError, match="the client is closed"):
        client.emit(Usage(), durable=True)


def test_asking(daemon: FakeDaemon, client: Client) -> None:
    daemon.replies = {"state": [STATE], "projects": [b'[{"project_name":"p"}]']}
    assert client.dump().total_tokens == 30
    assert client.projects() == [{"project_name": "p"}]
    assert client.health().status == "ok"
    assert client.health(deep=True).status == "ok"
    assert all(not hello.producer for hello in daemon.hellos)


def test_asking_nobody(tmp_path: Path) -> None:
    client = Client("p", socket=tmp_path / "none.sock")
    for question in (client.dump, client.projects, client.health):
        with pytest.raises(ConnectError, match="cannot reach tallymarkd at"):
            question()


@pytest.mark.parametrize(
    "settings",
    [{"linger_seconds": -1}, {"queue_events_max": 0}, {"batch_events_max": 5000}],
)
def test_wrong_settings(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(SettingError, match=name):
        Client("p", **settings)


def test_disabled_it_opens_nothing(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYMARK_DISABLED", "1")
    threads = set(threading.enumerate())
    with Client("p", socket=daemon.path) as client:
        assert not client.emit(Usage())
        assert not client.emit(Usage(), durable=True)
        with client.track_agent("coding") as run:
            run.add_tokens(input_tokens=5)
        client.end_session(client.start_session())
        client.flush()
        with pytest.raises(ConnectError, match="TALLYMARK_DISABLED"):
            client.dump()
        assert set(threading.enumerate()) <= threads
    assert client.stats() == tallymark.ClientStats()
    assert not daemon.hellos


def test_a_client_that_is_dropped_delivers_and_ends(daemon: FakeDaemon) -> None:
    client = Client("p", socket=daemon.path, linger_seconds=3600)
    with client.track_agent("coding"):
        pass
    del client
    gc.collect()
    daemon.wait(lambda: daemon.producers and daemon.producer.goodbye)
    assert [event["type"] for event in daemon.events][-1] == "session.end"
    until(lambda: "tallymark-sender" not in {t.name for t in threading.enumerate()})


def test_recording_to_nobody_is_quick(tmp_path: Path) -> None:
    def attempt() -> tuple[Times, None]:
        client = Client("p", socket=tmp_path / "none.sock")
        times = []
        for _ in range(20_000):
            began = time.perf_counter()
            client.emit(Usage(input_tokens=5))
            times.append(time.perf_counter() - began)
        times.sort()
        began = time.perf_counter()
        client.close()
        took = time.perf_counter() - began
        return {"p99": times[int(len(times) * 0.99)], "close": took}, None

    quick({"p99": 0.001, "close": 0.5}, attempt)
