"""``MetricsStore`` as those use it who know the established form: plain dicts throughout.

The names are those under which the component has been tested from its beginning.
"""

from __future__ import annotations

import copy
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import filelock
import pytest

from tallymark.state import DashboardState
from tallymarkd import LockAcquisitionError, MetricsStore

LONG_AGO = "2020-02-03T04:05:06Z"
DEADLINE_SECONDS = 60.0


def an_event(number: int = 1, **more: Any) -> dict[str, Any]:
    """Exactly the established fields."""
    return {
        "event_id": f"event-{number}",
        "agent_name": "coding",
        "session_id": "session-1",
        "ticket_key": "AI-46",
        "started_at": "2024-05-01T10:00:00Z",
        "ended_at": "2024-05-01T10:01:00Z",
        "duration_seconds": 60.0,
        "status": "success",
        "input_tokens": 1000,
        "output_tokens": 2000,
        "total_tokens": 3000,
        "estimated_cost_usd": 0.033,
        "artifacts": ["commit:abc123", "pr:#42"],
        "error_message": "",
        "model_used": "claude-sonnet-4-5",
    } | more


def a_profile(name: str = "coding", **more: Any) -> dict[str, Any]:
    counts = (
        "total_invocations successful_invocations failed_invocations total_tokens commits_made"
        " prs_created prs_merged files_created files_modified lines_added lines_removed"
        " tests_written issues_created issues_completed messages_sent reviews_completed xp level"
        " current_streak best_streak"
    )
    figures = (
        "total_cost_usd total_duration_seconds success_rate avg_duration_seconds"
        " avg_tokens_per_call cost_per_success_usd"
    )
    lists = "achievements strengths weaknesses recent_events"
    return {
        "agent_name": name,
        **dict.fromkeys(counts.split(), 0),
        **dict.fromkeys(figures.split(), 0.0),
        **{each: [] for each in lists.split()},
        "last_error": "",
        "last_active": "2024-05-01T10:01:00Z",
    } | more


def a_session(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "session_id": f"session-{number}",
        "session_number": number,
        "session_type": "initializer",
        "started_at": "2024-05-01T10:00:00Z",
        "ended_at": "2024-05-01T10:05:00Z",
        "status": "complete",
        "agents_invoked": ["coding"],
        "total_tokens": 3000,
        "total_cost_usd": 0.033,
        "tickets_worked": ["AI-46"],
    } | more


def a_state(**more: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "project_name": "dashboard",
        "created_at": LONG_AGO,
        "updated_at": LONG_AGO,
        "total_sessions": 1,
        "total_tokens": 3000,
        "total_cost_usd": 0.033,
        "total_duration_seconds": 60.0,
        "agents": {"coding": a_profile(total_invocations=1, xp=10)},
        "events": [an_event()],
        "sessions": [a_session()],
    } | more


def in_file(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def at_once(works: list[Callable[[], object]]) -> None:
    """Run each in a thread of its own, all beginning together; what fails comes out."""
    begin = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        begin.wait(DEADLINE_SECONDS)
        work()

    with ThreadPoolExecutor(len(works)) as threads:
        for future in [threads.submit(run, work) for work in works]:
            future.result(DEADLINE_SECONDS)


@pytest.fixture
def store(tmp_path: Path) -> MetricsStore:
    return MetricsStore(project_name="dashboard", metrics_dir=tmp_path)


def kept(store: MetricsStore) -> list[bytes]:
    aside = store.metrics_dir / "quarantine"
    return sorted(path.read_bytes() for path in aside.iterdir()) if aside.exists() else []


def assert_fresh(state: DashboardState) -> None:
    assert state["version"] == 1
    assert state["project_name"] == "dashboard"
    assert (state["total_sessions"], state["total_tokens"]) == (0, 0)
    assert (state["agents"], state["events"], state["sessions"]) == ({}, [], [])
    assert state["created_at"] > LONG_AGO


# Atomic writes.


def test_atomic_write_creates_file(store: MetricsStore) -> None:
    assert not store.metrics_path.exists()
    store.save(a_state())

    assert in_file(store.metrics_path)["project_name"] == "dashboard"
    assert store.metrics_path.stat().st_mode & 0o777 == 0o600


def test_atomic_write_data_integrity(store: MetricsStore) -> None:
    state = a_state()
    store.save(state)
    loaded, plain = store.load(), in_file(store.metrics_path)

    for name in state.keys() - {"updated_at"}:
        assert loaded[name] == state[name], name
    assert loaded["agents"]["coding"]["xp"] == 10
    assert loaded["events"][0]["started_at"] == "2024-05-01T10:00:00Z"
    for part in ("events", "sessions"):
        for name, value in state[part][0].items():
            assert plain[part][0][name] == value == loaded[part][0][name], name
    for name, value in state["agents"]["coding"].items():
        assert plain["agents"]["coding"][name] == value, name


def test_atomic_write_creates_backup(store: MetricsStore) -> None:
    store.save(a_state(total_tokens=1))
    assert not store.backup_path.exists()
    first = store.metrics_path.read_bytes()
    store.save(a_state(total_tokens=2))

    assert store.backup_path.read_bytes() == first
    assert in_file(store.metrics_path)["total_tokens"] == 2


def test_atomic_write_temp_file_cleanup(store: MetricsStore) -> None:
    store.save(a_state(total_tokens=1))
    assert list(store.metrics_dir.glob("*.tmp")) == []
    gone = mock.patch("os.fsync", side_effect=OSError("the disk is gone"))
    with gone, pytest.raises(OSError, match="the disk is gone"):
        store.save(a_state(total_tokens=2))

    assert list(store.metrics_dir.glob("*.tmp")) == []
    assert store.load()["total_tokens"] == 1


def test_atomic_write_handles_large_json(store: MetricsStore) -> None:
    events = [an_event(n, error_message=f"“{n}” ü\n" * 200) for n in range(500)]
    store.save(a_state(events=events))

    assert store.metrics_path.stat().st_size > 1024 * 1024
    assert store.load()["events"] == events


def test_atomic_write_fsync_called(store: MetricsStore) -> None:
    """The file's bytes before its name is moved, the directory after."""
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        calls.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real_fsync(fd)

    def replace(source: Any, target: Any) -> None:
        calls.append("replace")
        real_replace(source, target)

    with mock.patch("os.fsync", fsync), mock.patch("os.replace", replace):
        store.save(a_state())

    name = store.metrics_dir.name
    assert calls == ["sync .agent_metrics.json.tmp", "replace", f"sync {name}"]


def test_atomic_write_replace_called(store: MetricsStore) -> None:
    with mock.patch("os.replace", wraps=os.replace) as replace:
        store.save(a_state())
    replace.assert_called_once_with(
        store.metrics_dir / ".agent_metrics.json.tmp", store.metrics_path
    )
    with mock.patch("os.replace", side_effect=OSError("no")), pytest.raises(OSError, match="no"):
        store.save(a_state(total_tokens=9))
    assert store.load()["total_tokens"] == 3000


# Corruption recovery.


@pytest.mark.parametrize("content", ['{"invalid json', "", "not json at all", "\0" * 512])
def test_recovery_from_invalid_json(store: MetricsStore, content: str) -> None:
    store.metrics_path.write_text(content)

    assert_fresh(store.load())
    assert kept(store) == [content.encode()]


@pytest.mark.parametrize("name", list(a_state()))
def test_recovery_from_missing_fields(store: MetricsStore, name: str) -> None:
    store.save(a_state(total_tokens=1))
    store.save(a_state(total_tokens=2))
    for content in ({"version": 1}, {k: v for k, v in a_state().items() if k != name}):
        store.metrics_path.write_text(json.dumps(content))
        assert store.load()["total_tokens"] == 1
    assert len(kept(store)) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "one"},
        {"project_name": 7},
        {"total_tokens": "many"},
        {"total_cost_usd": []},
        {"agents": []},
        {"agents": {"coding": "good"}},
        {"events": {}},
        {"events": ["event-1"]},
        {"sessions": "none"},
        {"updated_at": 5.5},
    ],
)
def test_recovery_from_wrong_field_types(store: MetricsStore, wrong: dict[str, Any]) -> None:
    damaged = json.dumps(a_state(**wrong))
    store.metrics_path.write_text(damaged)

    assert_fresh(store.load())
    assert kept(store) == [damaged.encode()]


def test_recovery_from_backup_when_main_corrupted(store: MetricsStore) -> None:
    store.save(a_state(total_tokens=1))
    store.save(a_state(total_tokens=2))
    store.metrics_path.write_text("{corrupt")

    assert store.load()["total_tokens"] == 1
    assert kept(store) == [b"{corrupt"]
    store.save(a_state(total_tokens=3))
    assert store.load()["total_tokens"] == 3
    assert in_file(store.backup_path)["total_tokens"] == 1


def test_recovery_creates_fresh_state_if_both_corrupted(store: MetricsStore) -> None:
    store.save(a_state(total_tokens=1))
    store.save(a_state(total_tokens=2))
    store.metrics_path.write_text("{main")
    store.backup_path.write_text("{backup")

    assert_fresh(store.load())
    assert kept(store) == [b"{backup", b"{main"]


def test_recovery_fresh_state_if_no_files(store: MetricsStore) -> None:
    assert_fresh(store.load())
    assert list(store.metrics_dir.iterdir()) == []


def test_partial_corruption_recovery(store: MetricsStore) -> None:
    """Wherever the file ends too early, and wherever a stretch of it is gone."""
    for tokens in (1, 2):
        store.save(a_state(total_tokens=tokens))
    whole = store.metrics_path.read_bytes()
    cuts = [whole[:at] for at in range(0, len(whole) - 2, 97)]
    holes = [whole[:at] + bytes(512) + whole[at + 512 :] for at in range(0, len(whole) - 512, 512)]
    assert len(holes) > 3
    for damaged in cuts + holes:
        store.metrics_path.write_bytes(damaged)
        assert store.load()["total_tokens"] == 1
    assert kept(store) == sorted(cuts + holes)


def test_validate_state_checks_structure(store: MetricsStore) -> None:
    assert store.validate(a_state()) is True
    assert store.validate(a_state(agents={}, events=[], sessions=[])) is True
    assert store.validate(store.load()) is True
    for name in a_state():
        lacking = a_state()
        del lacking[name]
        assert store.validate(lacking) is False, name
        assert store.validate(a_state(**{name: None})) is False, name
        assert store.validate(a_state(**{name: object()})) is False, name
    for wrong in ({"version": 2}, {"project_name": "\ud800"}, {"events": [{"status": "success"}]}):
        assert store.validate(a_state(**wrong)) is False, wrong
    nothings: list[object] = [None, [], "state", 1, {}]
    assert [store.validate(nothing) for nothing in nothings] == [False] * 5


# Threads.


def test_thread_safe_concurrent_writes(store: MetricsStore) -> None:
    at_once([lambda n=n: store.save(a_state(total_tokens=n)) for n in range(10)])  # type: ignore[misc]

    assert store.load()["total_tokens"] in range(10)
    generations = [store.metrics_path, *store.metrics_dir.glob("*.bak*")]
    found = {in_file(path)["total_tokens"] for path in generations}
    assert len(generations) == len(found) == 4


def test_thread_lock_prevents_race_conditions(store: MetricsStore) -> None:
    """While one thread changes the state, no other is between its load and its save."""
    inside = threading.Lock()

    def add(state: DashboardState) -> None:
        assert inside.acquire(blocking=False)
        state["total_tokens"] += 1
        state["events"].append(an_event(state["total_tokens"]))
        inside.release()

    store.save(a_state(total_tokens=0, events=[]))
    at_once([lambda: [store.update(add) for _ in range(5)]] * 10)
    state = store.load()

    assert state["total_tokens"] == 50
    assert [each["event_id"] for each in state["events"]] == [f"event-{n + 1}" for n in range(50)]


def test_concurrent_read_write(store: MetricsStore) -> None:
    store.save(a_state(total_tokens=0, events=[]))
    written = threading.Event()

    def write() -> None:
        try:
            for number in range(1, 31):
                events = [an_event(each) for each in range(number)]
                store.save(a_state(total_tokens=number, events=events))
        finally:
            written.set()

    def read() -> None:
        last, again = 0, True
        while again:
            again = not written.is_set()
            state = store.load()
            assert state["total_tokens"] == len(state["events"]) >= last
            last = state["total_tokens"]
        assert last == 30

    at_once([write, read, read, read])
    assert kept(store) == []


def test_concurrent_writes_do_not_corrupt_file(tmp_path: Path) -> None:
    """Stores of their own, as processes have them, with states of different sizes."""
    seen: list[int] = []

    def work(number: int) -> None:
        store = MetricsStore("dashboard", tmp_path)
        for turn in range(5):
            events = [an_event(each) for each in range(10 * number + turn)]
            store.save(a_state(total_tokens=len(events), events=events))
            found = in_file(store.metrics_path)
            assert found["total_tokens"] == len(found["events"])
            seen.append(found["total_tokens"])

    at_once([lambda n=n: work(n) for n in range(6)])  # type: ignore[misc]
    assert len(seen) == 30


# The lock file.


def test_file_lock_acquisition(store: MetricsStore) -> None:
    """The lock is held from before the load until after the save."""
    held: list[bool] = []

    def look(*_: Any) -> None:
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(store.lock_path).acquire(timeout=0)
        held.append(True)

    real = os.replace

    def replace(*paths: Any) -> None:
        look()
        real(*paths)

    with mock.patch("os.replace", replace):
        store.update(look)
    assert held == [True, True]
    assert store.lock_path == store.metrics_dir / ".agent_metrics.lock"


@pytest.mark.parametrize("where", ["store", "class", "module"])
def test_file_lock_timeout(
    store: MetricsStore, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from tallymarkd.core import metrics_store

    store.save(a_state(total_tokens=1))
    changed = {"store": store, "class": MetricsStore, "module": metrics_store}[where]
    monkeypatch.setattr(changed, "LOCK_TIMEOUT", 0.05)
    before = store.metrics_path.read_bytes()
    with filelock.FileLock(store.lock_path):
        for use in (lambda: store.save(a_state(total_tokens=2)), lambda: store.update(print)):
            with pytest.raises(LockAcquisitionError, match=r"within 0\.05 s"):
                use()
        # Never an empty state that the next save would write over the data.
        assert store.load()["total_tokens"] == 1
    assert store.metrics_path.read_bytes() == before


def test_file_lock_cleanup(store: MetricsStore) -> None:
    """The lock is free after a save, and after whatever a save ends in."""

    def free() -> bool:
        with filelock.FileLock(store.lock_path).acquire(timeout=0):
            return True

    def fail(state: DashboardState) -> None:
        raise KeyError("mine")

    store.save(a_state())
    assert free()
    with pytest.raises(KeyError, match="mine"):
        store.update(fail)
    assert free()
    with pytest.raises(ValueError, match="cannot use the state"):
        store.update(lambda state: {"not": "a state"})
    assert free()
    with mock.patch("os.replace", side_effect=OSError("no")), pytest.raises(OSError, match="no"):
        store.save(a_state())
    assert free()
    store.save(a_state(total_tokens=5))
    assert store.load()["total_tokens"] == 5


# Eviction.


def test_fifo_eviction_keeps_max_events(store: MetricsStore) -> None:
    assert store.MAX_EVENTS == 500
    for count in (499, 500, 501, 750):
        store.save(a_state(events=[an_event(n) for n in range(count)]))
        assert len(store.load()["events"]) == min(count, 500)


def test_fifo_eviction_keeps_max_sessions(store: MetricsStore) -> None:
    assert store.MAX_SESSIONS == 50
    for count in (49, 50, 51, 75):
        store.save(a_state(sessions=[a_session(n) for n in range(count)]))
        assert len(store.load()["sessions"]) == min(count, 50)


def test_fifo_preserves_newest_entries(store: MetricsStore) -> None:
    state = a_state(
        events=[an_event(n) for n in range(600)], sessions=[a_session(n) for n in range(60)]
    )
    store.save(state)
    loaded = store.load()

    assert loaded["events"] == state["events"][100:]
    assert loaded["sessions"] == state["sessions"][10:]
    assert loaded["total_tokens"] == 3000  # what was counted stays counted
    loaded["events"].append(an_event(600))
    store.save(loaded)
    assert [each["event_id"] for each in store.load()["events"]][::499] == [
        "event-101",
        "event-600",
    ]


# Errors, and figures.


def test_save_invalid_state_raises_error(store: MetricsStore) -> None:
    store.save(a_state(total_tokens=1))
    before = sorted(path.name for path in store.metrics_dir.iterdir())
    for wrong in ({"invalid": "state"}, {"version": 1}, a_state(agents=[]), a_state(version=2)):
        with pytest.raises(ValueError, match="cannot use the state"):
            store.save(wrong)
    assert sorted(path.name for path in store.metrics_dir.iterdir()) == before
    assert store.load()["total_tokens"] == 1


def test_save_updates_timestamp(store: MetricsStore) -> None:
    state = a_state()
    before = datetime.now(UTC)
    store.save(state)
    loaded = store.load()

    assert loaded["updated_at"] > LONG_AGO
    assert before <= datetime.fromisoformat(loaded["updated_at"]) <= datetime.now(UTC)
    assert in_file(store.metrics_path)["updated_at"] == loaded["updated_at"]
    assert loaded["created_at"] == LONG_AGO
    store.save(loaded)
    assert store.load()["updated_at"] > loaded["updated_at"]


def test_get_stats_with_no_files(store: MetricsStore) -> None:
    assert store.get_stats() == {
        "metrics_file_exists": False,
        "backup_file_exists": False,
        "metrics_file_size_bytes": 0,
        "backup_file_size_bytes": 0,
        "event_count": 0,
        "session_count": 0,
        "agent_count": 0,
    }
    assert list(store.metrics_dir.iterdir()) == []


def test_get_stats_with_files(store: MetricsStore) -> None:
    store.save(a_state())
    stats = store.get_stats()
    assert (stats["metrics_file_exists"], stats["backup_file_exists"]) == (True, False)
    assert stats["metrics_file_size_bytes"] == store.metrics_path.stat().st_size > 0
    store.save(a_state(total_tokens=10**9))
    stats = store.get_stats()
    assert stats["backup_file_exists"] is True
    assert stats["backup_file_size_bytes"] == store.backup_path.stat().st_size > 0
    assert stats["metrics_file_size_bytes"] == store.metrics_path.stat().st_size


# The whole.


def test_full_workflow_create_read_update_recovery(store: MetricsStore) -> None:
    state = store.load()
    assert_fresh(state)
    state["agents"]["coding"] = a_profile()
    state["events"].append(an_event(1))
    state["sessions"].append(a_session())
    state["total_tokens"] += 3000
    store.save(state)

    loaded = store.load()
    assert loaded["events"] == [an_event(1)]
    assert loaded["agents"]["coding"]["total_invocations"] == 0
    loaded["agents"]["coding"]["total_invocations"] += 1
    loaded["agents"]["coding"]["last_active"] = "2024-06-01T00:00:00"
    loaded["events"].append(an_event(2))
    loaded["total_tokens"] += 3000
    store.save(loaded)

    def add(state: DashboardState) -> None:
        state["agents"]["review"] = a_profile("review")
        state["events"].append(an_event(3, agent_name="review"))

    assert store.update(add)["agents"]["review"] == a_profile("review")
    store.metrics_path.write_text("{corrupt")
    recovered = MetricsStore("dashboard", store.metrics_dir).load()
    assert recovered["total_tokens"] == 6000
    assert [each["event_id"] for each in recovered["events"]] == ["event-1", "event-2"]
    assert recovered["agents"]["coding"]["total_invocations"] == 1
    assert recovered["agents"]["coding"]["last_active"] == "2024-06-01T00:00:00Z"
    assert kept(store) == [b"{corrupt"]


def test_stats_calculation(store: MetricsStore) -> None:
    state = a_state(
        agents={name: a_profile(name) for name in ("coding", "review", "linear")},
        events=[an_event(n) for n in range(520)],
        sessions=[a_session(n) for n in range(7)],
    )
    given = copy.deepcopy(state)
    store.save(state)
    stats = store.get_stats()

    assert (stats["event_count"], stats["session_count"], stats["agent_count"]) == (500, 7, 3)
    assert state == given  # what was handed in is the caller's
    store.update(lambda state: state["agents"].pop("linear") and None)
    assert store.get_stats()["agent_count"] == 2
