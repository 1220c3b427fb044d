from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec
import pytest

from tallymark.events import Event, RunEnd, RunStart, SessionEnd, SessionStart, Usage
from tallymark.state import AgentProfile, DashboardState, FinishedRun, SessionSummary
from tallymarkd.core.apply import ProjectState, apply, empty, snapshot
from tallymarkd.core.entry import Batch, Cost, OtherEvent, Verdict
from tallymarkd.core.project_file import encode

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def put(state: ProjectState, *events: Event | OtherEvent | None, **more: Any) -> None:
    """Apply events as one batch, received a minute after the first of them."""
    batch = Batch(list(events), received_at=more.pop("received_at", at(60)), **more)
    apply(state, batch, state.applied_lsn + 1)


def board_of(*events: Event | OtherEvent | None, **more: Any) -> DashboardState:
    state = empty("p", T0)
    put(state, *events, **more)
    return snapshot(state)


def run(number: int = 1, **fields: Any) -> RunEnd:
    """A complete run of 1,000 tokens in and 200 out for one cent."""
    given: dict[str, Any] = {
        "event_id": f"run-{number}",
        "agent_name": "coding",
        "session_id": "s1",
        "ticket_key": "AI-1",
        "started_at": at(number),
        "ended_at": at(number + 2),
        "duration_seconds": 2.5,
        "input_tokens": 1000,
        "output_tokens": 200,
        "total_tokens": 1200,
        "estimated_cost_usd": 0.01,
        "artifacts": ["commit:abc123"],
        "model_used": "claude-sonnet-4-5",
    }
    return RunEnd(**(given | fields))


def usage(run_id: str = "run-1", **fields: Any) -> Usage:
    given: dict[str, Any] = {
        "at": at(5),
        "agent_name": "coding",
        "session_id": "s1",
        "run_id": run_id,
        "input_tokens": 10,
        "output_tokens": 5,
        "estimated_cost_usd": 0.5,
    }
    return Usage(**(given | fields))


# Runs.


def test_an_empty_project() -> None:
    board = snapshot(empty("p", T0))

    assert board == DashboardState(project_name="p", created_at=T0, updated_at=T0)


def test_a_run_counts_for_its_agent_its_session_and_the_project() -> None:
    board = board_of(run())

    for found in (board, board.agents["coding"], board.sessions[0]):
        assert found.total_tokens == 1200
        assert (found.input_tokens, found.output_tokens) == (1000, 200)
        assert found.total_cost_usd == 0.01
        assert found.unpriced_usages == 0
    assert board.usages == 1
    assert board.total_duration_seconds == board.agents["coding"].total_duration_seconds == 2.5
    assert board.updated_at == at(60)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_profile_of_an_agent(count: int) -> None:
    """One and two runs are applied singly, seven together."""
    profile = board_of(*[run(number) for number in range(count)]).agents["coding"]

    assert profile == AgentProfile(
        agent_name="coding",
        total_invocations=count,
        successful_invocations=count,
        total_tokens=1200 * count,
        total_cost_usd=round(0.01 * count, 9),
        total_duration_seconds=2.5 * count,
        commits_made=count,
        success_rate=1.0,
        avg_duration_seconds=2.5,
        avg_tokens_per_call=1200.0,
        cost_per_success_usd=0.01,
        current_streak=count,
        best_streak=count,
        recent_events=[f"run-{number}" for number in range(count)],
        last_active=at(count - 1 + 2),
        input_tokens=1000 * count,
        output_tokens=200 * count,
    )


def test_the_finished_run() -> None:
    (found,) = board_of(run(parent_run_id="p0", host="h", cwd="/c", attrs={"k": 1})).events

    assert found == FinishedRun(
        event_id="run-1",
        agent_name="coding",
        session_id="s1",
        ticket_key="AI-1",
        started_at=at(1),
        ended_at=at(3),
        duration_seconds=2.5,
        status="success",
        input_tokens=1000,
        output_tokens=200,
        total_tokens=1200,
        estimated_cost_usd=0.01,
        artifacts=["commit:abc123"],
        model_used="claude-sonnet-4-5",
        parent_run_id="p0",
        cwd="/c",
        host="h",
        attrs={"k": 1},
    )


@pytest.mark.parametrize("count", [1, 6])
def test_failures_and_streaks(count: int) -> None:
    runs = [run(n, status="error", error_message=f"boom {n}") for n in range(count)]
    state = empty("p", T0)
    put(state, *[run(100 + n) for n in range(4)])
    put(state, *runs)
    put(state, run(200), run(201, status="timeout"), run(202))
    profile = snapshot(state).agents["coding"]

    assert profile.failed_invocations == count + 1
    assert profile.successful_invocations == 6
    assert (profile.current_streak, profile.best_streak) == (1, 4)
    assert profile.last_error == "timeout"  # a failure without a message is named by its status
    assert profile.success_rate == 6 / (7 + count)
    assert profile.cost_per_success_usd == profile.total_cost_usd / 6


def test_the_best_streak_may_lie_between_two_failures() -> None:
    statuses = ["success", "error", *["success"] * 3, "error", "success"]
    runs = [run(n, status=status) for n, status in enumerate(statuses)]
    profile = board_of(*runs).agents["coding"]

    assert (profile.current_streak, profile.best_streak) == (1, 3)


def test_the_text_of_the_latest_failure() -> None:
    runs = [run(n, status="error", error_message=f"boom {n}") for n in range(5)]

    assert board_of(*runs, run(9)).agents["coding"].last_error == "boom 4"


def test_artifacts_feed_counters() -> None:
    names = {
        "commit:a": "commits_made",
        "pr:merged:#1": "prs_merged",
        "pr:#2": "prs_created",
        "pr:created:#3": "prs_created",
        "file:created:a.py": "files_created",
        "file:b.py": "files_modified",
        "issue:completed:A": "issues_completed",
        "issue:B": "issues_created",
        "message:x": "messages_sent",
        "slack:y": "messages_sent",
        "review:z": "reviews_completed",
        "test:t": "tests_written",
    }
    profile = board_of(run(artifacts=[*names, "other:o", "commit", "", "xcommit:a"])).agents[
        "coding"
    ]

    for name in set(names.values()):
        assert profile[name] == list(names.values()).count(name), name
    assert profile.lines_added == profile.lines_removed == profile.xp == profile.level == 0


def test_newest_500_runs_and_last_20_ids_are_kept() -> None:
    state = empty("p", T0)
    for start in range(0, 700, 100):
        put(state, *[run(start + n) for n in range(100)])
    board = snapshot(state)

    assert [each.event_id for each in board.events] == [f"run-{n}" for n in range(200, 700)]
    assert board.agents["coding"].recent_events == [f"run-{n}" for n in range(680, 700)]
    assert board.agents["coding"].total_invocations == 700
    assert board.total_tokens == 700 * 1200


def test_last_active_is_the_latest_time_whatever_the_order() -> None:
    state = empty("p", T0)
    put(state, run(500))
    put(state, run(1))

    assert snapshot(state).agents["coding"].last_active == at(502)


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"duration_seconds": None}, 2.0),
        ({"duration_seconds": None, "started_at": at(60)}, 0.0),
        ({"duration_seconds": None, "started_at": None}, 0.0),
        ({"duration_seconds": None, "ended_at": None, "at": at(11)}, 10.0),
        ({"duration_seconds": 0.0}, 0.0),
    ],
)
def test_a_duration_that_is_absent(fields: dict[str, Any], seconds: float) -> None:
    board = board_of(run(**fields))

    assert board.events[0].duration_seconds == seconds
    assert board.total_duration_seconds == seconds


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("absent", ["started_at", "ended_at", "duration_seconds", "event_id"])
@pytest.mark.parametrize("cost", [None, 0.01])
def test_runs_that_lack_something(count: int, absent: str, cost: float | None) -> None:
    lacking = {absent: "" if absent == "event_id" else None, "estimated_cost_usd": cost}
    state = empty("p", T0)
    put(state, *[run(n, **lacking) for n in range(count)], run(50), run(51))
    board = snapshot(state)

    assert state.apply_failures == 0
    assert board.total_tokens == 1200 * (count + 2)
    assert board.unpriced_usages == (count if cost is None else 0)
    assert len(board.events) == count + 2
    assert all(each.ended_at is not None for each in board.events)


def test_total_tokens_absent_are_input_and_output() -> None:
    board = board_of(*[RunEnd(event_id=f"r{n}", input_tokens=3, output_tokens=4) for n in range(2)])

    assert board.total_tokens == 14
    assert [each.total_tokens for each in board.events] == [7, 7]


def test_total_tokens_given_count_as_given() -> None:
    assert board_of(run(total_tokens=5000)).total_tokens == 5000


def test_times_are_kept_in_utc() -> None:
    text = b'{"type":"run.end","ended_at":"2026-01-01T14:00:00+02:00"}'
    event = msgspec.json.decode(text, type=RunEnd)
    state = empty("p", T0)
    put(state, event)

    assert snapshot(state).events[0].ended_at == T0
    assert b'"ended_at":"2026-01-01T12:00:00Z"' in encode(state, server_id="s")


@pytest.mark.parametrize(
    ("fields", "ids", "expected"),
    [
        ({"event_id": "e", "run_id": "r"}, {0: "i"}, "e"),
        ({"event_id": "", "run_id": "r"}, {0: "i"}, "r"),
        ({"event_id": ""}, {0: "i"}, "i"),
    ],
)
def test_the_id_of_a_run(fields: dict[str, Any], ids: dict[int, str], expected: str) -> None:
    board = board_of(run(**fields), ids=ids)

    assert board.events[0].event_id == expected
    assert board.agents["coding"].recent_events == [expected]


def test_a_run_without_an_agent_is_charged_to_the_unknown_one() -> None:
    board = board_of(run(agent_name=""))

    assert board.agents["unknown"].total_tokens == 1200


# Costs.


def test_sums_of_money_are_exact() -> None:
    state = empty("p", T0)
    for start in range(0, 3000, 100):
        put(state, *[run(start + n, estimated_cost_usd=0.1) for n in range(100)])
    for _ in range(1000):
        put(state, usage("", estimated_cost_usd=0.000000001))

    assert snapshot(state).total_cost_usd == 300.000001


@pytest.mark.parametrize("cost", [1.001, 0.57, 4.35, 16.1, 1e-9, 0.0000000015])
@pytest.mark.parametrize("count", [1, 5])
def test_a_cost_that_no_float_holds_exactly(cost: float, count: int) -> None:
    board = board_of(*[run(n, estimated_cost_usd=cost) for n in range(count)])

    nanos = int((Decimal(str(cost)) * 10**9).to_integral_value(ROUND_HALF_UP))
    assert board.total_cost_usd == count * nanos / 1e9
    assert board.events[0].estimated_cost_usd == nanos / 1e9


@pytest.mark.parametrize("count", [1, 5])
def test_a_cost_that_admission_computed(count: int) -> None:
    runs = [run(n, estimated_cost_usd=None) for n in range(count)]
    costs = {n: Cost(2_000_000 + n, "genai-prices@1") for n in range(count)}
    board = board_of(*runs, costs=costs)

    assert board.total_cost_usd == sum(cost.nanos for cost in costs.values()) / 1e9
    assert {each.cost_source for each in board.events} == {"genai-prices@1"}
    assert [each.estimated_cost_usd for each in board.events] == [
        cost.nanos / 1e9 for cost in costs.values()
    ]
    assert board.unpriced_usages == 0


def test_a_cost_that_is_given_counts_before_a_computed_one() -> None:
    board = board_of(run(cost_source="bill"), usage("x"), costs={0: Cost(7, "x"), 1: Cost(7, "x")})

    assert board.total_cost_usd == 0.51
    assert board.events[0].cost_source == "bill"


@pytest.mark.parametrize("count", [1, 5])
def test_no_cost_is_unpriced_and_not_zero(count: int) -> None:
    board = board_of(*[run(n, estimated_cost_usd=None) for n in range(count)])

    for found in (board, board.agents["coding"], board.sessions[0]):
        assert found.unpriced_usages == count
    assert [each.unpriced_usages for each in board.events] == [1] * count


@pytest.mark.parametrize("count", [1, 5])
def test_no_tokens_and_no_cost_is_not_unpriced(count: int) -> None:
    nothing = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, "estimated_cost_usd": None}
    board = board_of(*[run(n, **nothing) for n in range(count)])

    assert board.unpriced_usages == board.usages == 0
    assert board.agents["coding"].total_invocations == count


def test_a_price_of_nothing_is_a_price() -> None:
    assert board_of(usage(estimated_cost_usd=0.0)).unpriced_usages == 0
    assert board_of(usage(estimated_cost_usd=None)).unpriced_usages == 1


# Usages and runs.


def test_a_run_with_usages_takes_its_tokens_from_them() -> None:
    first, second = usage(cost_source="a"), usage(cache_read_tokens=4, cost_source="a")
    board = board_of(first, second, run(cache_read_tokens=900))

    for found in (board, board.agents["coding"], board.sessions[0]):
        assert found.total_tokens == 30
        assert found.total_cost_usd == 1.0
        assert found.cache_read_tokens == 4
    assert board.usages == 2
    (found_run,) = board.events
    assert (found_run.tokens_from, found_run.total_tokens) == ("usage", 30)
    assert found_run.estimated_cost_usd == 1.0
    assert found_run.cost_source == "a"
    assert found_run.duration_seconds == 2.5
    assert board.agents["coding"].commits_made == 1


def test_a_run_with_usages_among_others_without() -> None:
    board = board_of(usage("run-2"), *[run(n) for n in range(5)])

    assert board.total_tokens == 4 * 1200 + 15
    assert [each.tokens_from for each in board.events] == ["run.end"] * 2 + ["usage"] + [
        "run.end"
    ] * 2


def test_a_usage_counts_before_its_run_ends() -> None:
    board = board_of(usage())

    assert board.total_tokens == board.agents["coding"].total_tokens == 15
    assert board.agents["coding"].total_invocations == 0
    assert board.agents["coding"].last_active == at(5)
    assert board.events == []


def test_usages_priced_in_different_ways() -> None:
    board = board_of(usage(cost_source="a"), usage(cost_source="b"), run())

    assert board.events[0].cost_source == "mixed"


def test_a_usage_after_the_end_takes_back_what_the_run_end_added() -> None:
    state = empty("p", T0)
    put(state, *[run(n, cache_write_tokens=100, estimated_cost_usd=None) for n in range(3)])
    put(state, usage(cache_read_tokens=1))
    board = snapshot(state)

    for found in (board, board.agents["coding"], board.sessions[0]):
        assert found.total_tokens == 2 * 1200 + 15
        assert found.total_cost_usd == 0.5
        assert found.cache_write_tokens == 200
        assert found.cache_read_tokens == 1
        assert found.unpriced_usages == 2
    assert board.usages == 3
    assert board.events[1].total_tokens == 15
    assert board.events[1].tokens_from == "usage"
    assert board.events[1].unpriced_usages == 0
    assert board.events[0].tokens_from == "run.end"


def test_a_second_late_usage_is_added() -> None:
    state = empty("p", T0)
    put(state, run())
    put(state, usage())
    put(state, usage())
    board = snapshot(state)

    assert board.total_tokens == board.events[0].total_tokens == 30
    assert board.usages == 2


def test_a_late_usage_of_a_run_that_had_usages_is_added() -> None:
    state = empty("p", T0)
    put(state, usage(), run())
    put(state, usage())
    board = snapshot(state)

    assert board.total_tokens == board.events[0].total_tokens == 30


def test_what_was_taken_is_taken_back_from_whom_it_was_added_to() -> None:
    state = empty("p", T0)
    put(state, run(agent_name="a", session_id="s1"))
    put(state, usage(agent_name="b", session_id="s2"))
    board = snapshot(state)

    assert (board.agents["a"].total_tokens, board.agents["b"].total_tokens) == (0, 15)
    assert [each.total_tokens for each in board.sessions] == [0, 15]


def test_a_late_usage_of_a_forgotten_run_is_added() -> None:
    state = empty("p", T0)
    put(state, run(0))
    put(state, *[run(n) for n in range(1, 501)])
    put(state, usage("run-0"))
    board = snapshot(state)

    assert board.total_tokens == 501 * 1200 + 15


def test_a_late_usage_within_the_batch_that_pushes_its_run_out_is_added() -> None:
    state = empty("p", T0)
    put(state, run(0), *[run(n) for n in range(1, 501)], usage("run-0"))

    assert snapshot(state).total_tokens == 501 * 1200 + 15


def test_a_usage_without_a_name_belongs_to_its_runs_agent_and_session() -> None:
    nameless = {"agent_name": "", "session_id": ""}
    board = board_of(
        RunStart(run_id="run-1", agent_name="coding", session_id="s1", at=at(0)),
        usage("run-1", **nameless),
        usage("nobody's", **nameless),
        run(1, **nameless),
        usage("run-1", **nameless),
    )

    assert board.agents["coding"].total_tokens == 30
    assert board.agents["unknown"].total_tokens == 15
    assert board.sessions[0].total_tokens == 30
    assert (board.events[0].agent_name, board.events[0].session_id) == ("coding", "s1")


def test_a_run_end_takes_from_its_start_what_it_leaves_out() -> None:
    start = RunStart(
        run_id="run-1",
        at=at(0),
        agent_name="coding",
        session_id="s1",
        parent_run_id="p",
        ticket_key="AI-7",
        model_used="m",
        cwd="/c",
        git_branch="b",
        host="h",
        pid=7,
    )
    board = board_of(start, RunEnd(event_id="run-1", ended_at=at(9)))
    (found,) = board.events

    assert found.started_at == at(0)
    assert found.duration_seconds == 9.0
    assert (found.agent_name, found.session_id, found.ticket_key) == ("coding", "s1", "AI-7")
    assert (found.parent_run_id, found.model_used, found.cwd) == ("p", "m", "/c")
    assert (found.git_branch, found.host) == ("b", "h")
    assert board.sessions[0].tickets_worked == ["AI-7"]


def test_open_runs_say_who_runs_now() -> None:
    state = empty("p", T0)
    put(state, RunStart(run_id="a", agent_name="coding", at=at(0)), usage("b"))
    assert set(state.open_runs) == {"a", "b"}

    put(state, run(1, event_id="a"), run(2, event_id="b"), run(3), run(4))
    assert state.open_runs == {}


def test_a_start_after_the_end_does_not_open_the_run_again() -> None:
    state = empty("p", T0)
    put(state, run(1))
    put(state, RunStart(run_id="run-1", agent_name="coding"))

    assert state.open_runs == {}


def test_the_oldest_open_run_is_forgotten_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallymarkd.core.project_state.OPEN_RUNS_MAX", 3)
    state = empty("p", T0)
    for number in range(5):
        put(state, RunStart(run_id=f"r{number}", agent_name="coding"))

    assert list(state.open_runs) == ["r2", "r3", "r4"]


# Sessions.


def test_sessions_begin_by_themselves_and_are_numbered() -> None:
    board = board_of(run(1), usage("x", session_id="s2"), run(3, session_id="s1"))

    assert board.total_sessions == 2
    first, second = board.sessions
    assert (first.session_id, first.session_number, first.session_type) == ("s1", 1, "initializer")
    assert (second.session_id, second.session_number) == ("s2", 2)
    assert second.session_type == "continuation"
    assert (first.status, first.started_at, first.ended_at) == ("continue", at(1), at(5))


def test_a_session_from_its_start_to_its_end() -> None:
    board = board_of(
        SessionStart(session_id="s1", at=at(0), session_type="continuation"),
        run(1),
        run(2, agent_name="review", ticket_key="AI-2"),
        run(3),
        SessionEnd(session_id="s1", at=at(30), status="error"),
        run(100),
    )

    assert board.sessions == [
        SessionSummary(
            session_id="s1",
            session_number=1,
            session_type="continuation",
            started_at=at(0),
            ended_at=at(30),  # a run that is told later does not move the end
            status="error",
            agents_invoked=["coding", "review"],
            total_tokens=4800,
            total_cost_usd=0.04,
            tickets_worked=["AI-1", "AI-2"],
            input_tokens=4000,
            output_tokens=800,
        )
    ]


def test_a_session_began_with_its_earliest_run() -> None:
    board = board_of(run(50), usage("x", at=at(20)), run(10))

    assert (board.sessions[0].started_at, board.sessions[0].ended_at) == (at(10), at(52))


def test_a_session_that_starts_again_is_open_again() -> None:
    state = empty("p", T0)
    put(state, SessionStart(session_id="s", at=at(0)), SessionEnd(session_id="s", at=at(10)))
    put(state, SessionStart(session_id="s", at=at(5)))  # told late: it was before the end
    assert snapshot(state).sessions[0].status == "complete"

    put(state, SessionStart(session_id="s", at=at(20)))
    (session,) = snapshot(state).sessions
    assert (session.status, session.started_at, session.ended_at) == ("continue", at(0), at(20))
    assert snapshot(state).total_sessions == 1


def test_a_session_end_alone_is_a_session() -> None:
    board = board_of(SessionEnd(session_id="s", at=at(3)))

    assert board.total_sessions == 1
    assert (board.sessions[0].status, board.sessions[0].ended_at) == ("complete", at(3))


def test_newest_50_sessions_are_kept_and_none_counts_twice() -> None:
    state = empty("p", T0)
    for number in range(60):
        put(state, SessionStart(session_id=f"s{number}", at=at(number)))
    put(state, run(1, session_id="s0"), SessionEnd(session_id="s1"))
    board = snapshot(state)

    assert board.total_sessions == 60
    assert [each.session_id for each in board.sessions] == [f"s{n}" for n in range(10, 60)]
    assert [each.session_number for each in board.sessions] == list(range(11, 61))
    assert board.total_tokens == 1200


def test_without_a_session() -> None:
    board = board_of(run(session_id=""), run(2, session_id=""), run(3, session_id=""))

    assert board.sessions == []
    assert board.total_sessions == 0
    assert board.total_tokens == 3600


# What does not fit.


def test_other_events_are_counted() -> None:
    assert board_of(OtherEvent("deploy", {"type": "deploy"})).other_events == 1


def test_what_was_not_stored_changes_nothing() -> None:
    state = empty("p", T0)
    verdicts = bytes([Verdict.DUPLICATE, Verdict.STORED, Verdict.MALFORMED])
    put(state, None, run(), None, verdicts=verdicts)

    assert snapshot(state).total_tokens == 1200
    assert (state.apply_failures, state.applied_lsn) == (0, 3)


def test_what_was_stored_and_does_not_decode_is_counted() -> None:
    state = empty("p", T0)
    put(state, None, run())
    put(state, None, verdicts=bytes([Verdict.STORED]))

    assert state.apply_failures == 2
    assert snapshot(state).total_tokens == 1200


@pytest.mark.parametrize(
    "faulty",
    [
        run(50, input_tokens="many"),
        run(50, estimated_cost_usd="dear"),
        run(50, artifacts=[7]),
        run(50, ended_at="yesterday"),
        usage("run-9", output_tokens=None),
        usage("run-9", at=5),
        SessionStart(),
        SessionEnd(),
    ],
)
@pytest.mark.parametrize("neighbours", [1, 4])
def test_a_faulty_event_is_counted_and_harms_nobody(faulty: Event, neighbours: int) -> None:
    before = [run(n) for n in range(neighbours)]
    after = [run(100 + n) for n in range(neighbours)]
    state, clean = empty("p", T0), empty("p", T0)
    put(state, *before, faulty, *after)
    put(clean, *before, OtherEvent("", {}), *after)

    assert state.apply_failures == 1
    found, expected = snapshot(state), snapshot(clean)
    expected.other_events = 0
    assert found == expected


def test_unknown_fields_of_a_run_come_back_out() -> None:
    state = empty("p", T0)
    batch = Batch(
        [run(1), run(2), run(3), run(4)], received_at=at(60), extras={1: {"mood": "good"}}
    )
    apply(state, batch, 1)

    assert [each.extra for each in snapshot(state).events] == [{}, {"mood": "good"}, {}, {}]
    assert snapshot(state).total_tokens == 4800


# Numbers and imported files.


def test_applied_lsn_is_that_of_the_last_event() -> None:
    state = empty("p", T0)
    apply(state, Batch([run(1), run(2)], received_at=T0), 1001)
    assert state.applied_lsn == 1002

    apply(state, Batch([run(1), run(2)], received_at=T0), 1001)
    assert snapshot(state).total_tokens == 2400

    apply(state, Batch([], received_at=T0), 2001)
    assert state.applied_lsn == 2000


def test_updated_at_never_goes_back() -> None:
    state = empty("p", T0)
    put(state, run(1), received_at=at(100))
    put(state, run(2), received_at=at(50))

    assert snapshot(state).updated_at == at(100)


def test_what_nothing_feeds_is_kept_as_it_was_imported() -> None:
    imported = DashboardState(
        project_name="p",
        created_at=T0,
        updated_at=T0,
        total_sessions=7,
        agents={
            "coding": AgentProfile(
                agent_name="coding", xp=90, level=3, lines_added=5, achievements=["first"],
                total_invocations=2, successful_invocations=2, total_tokens=10,
            ),
            "old": AgentProfile(agent_name="old", success_rate=0.7),
        },
        sessions=[SessionSummary(session_id="s1", session_number=7)],
        events=[FinishedRun(event_id="run-1", agent_name="coding", total_tokens=10)],
    )  # fmt: skip
    state = ProjectState(imported)
    put(state, run(2), run(3, session_id="s8"), usage("run-1"))
    board = snapshot(state)

    profile = board.agents["coding"]
    assert (profile.xp, profile.level, profile.lines_added) == (90, 3, 5)
    assert profile.achievements == ["first"]
    assert profile.total_tokens == 2400 + 15
    assert profile.success_rate == 1.0
    assert board.agents["old"].success_rate == 0.7
    assert [each.session_number for each in board.sessions] == [7, 8]
    assert imported.agents["coding"].total_tokens == 10
