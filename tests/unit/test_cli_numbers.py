from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tallymark.state import AgentProfile, DashboardState
from tallymarkd.cli.numbers import AGENTS_SHOWN, COLUMNS, DROPPED_FIRST, fill
from tallymarkd.cli.output import fewer
from tallymarkd.core.overview import overview
from tests.fake_daemon import FakeDaemon
from tests.tallymark_command import Tallymark

NOW = datetime.now(UTC)


def make_state(name: str = "demo", agents: int = 0, **fields: Any) -> DashboardState:
    state = DashboardState(
        project_name=name,
        created_at=NOW,
        updated_at=NOW - timedelta(hours=2),
        total_sessions=1,
        total_tokens=28_874_815,
        total_cost_usd=21.5,
        unpriced_usages=15,
        agents={
            "coding": AgentProfile(
                agent_name="coding",
                total_invocations=1200,
                successful_invocations=900,
                success_rate=0.75,
                total_tokens=28_000_000,
                total_cost_usd=21.5,
                unpriced_usages=15,
                last_error="ruff\nfailed " + "x" * 200,
                last_active=NOW - timedelta(hours=3),
            )
        },
    )
    for number in range(agents):
        other = f"other-{number:02}"
        state.agents[other] = AgentProfile(agent_name=other)
    for field, value in fields.items():
        state[field] = value
    return state


def reply(*states: DashboardState) -> dict[str, list[bytes]]:
    body = msgspec.json.encode([overview(state) for state in states])
    return {"projects": [body[:10], body[10:]]}


def test_every_project_and_agent_on_one_screen(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(make_state())
        done = tallymark()
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith(
        "demo  1,200 runs · 1 session · 28.9M tokens · ≥ $21.50 · 15 unpriced"
    )
    assert "updated 2 h ago" in " ".join(lines[:2])
    header = next(at for at, line in enumerate(lines) if line.startswith("  agent"))
    for name in ("runs", "success", "tokens", "cost", "unpriced", "last active"):
        assert name in lines[header]
    assert lines[header + 1].split() == (
        ["coding", "1.2k", "75%", "28.0M", "≥", "$21.50", "15", "3", "h", "ago"]
    )
    assert lines[header + 2].startswith("  last error of coding: ruff failed xxx")


def test_the_project_updated_last_stands_first(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(make_state("old"), make_state("new", updated_at=NOW))
        out = tallymark().out
    assert 0 <= out.index("new  ") < out.index("old  ")


def test_many_agents_are_cut_and_said_to_be(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(make_state(agents=AGENTS_SHOWN + 1))
        out = tallymark().out
        data = tallymark("--json").json
        whole = tallymark("--all").out
    assert "  and 2 more agents; tallymark --all shows them\n" in out
    assert "other-12" in whole
    assert "more agent" not in whole
    assert "other-10" in out
    assert "other-11" not in out
    assert len(data[0]["agents"]) == AGENTS_SHOWN + 2


def test_a_narrow_terminal_gets_fewer_columns_and_no_cut_figure(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(make_state())
        lines = tallymark().out.splitlines()
    assert all(len(line) <= 40 for line in lines)
    row = next(line for line in lines if line.startswith("  coding"))
    assert row.split() == ["coding", "1.2k", "28.0M", "≥", "$21.50"]
    assert "…" not in row


@pytest.mark.parametrize("width", range(18, 70, 3))
def test_agent_cost_and_tokens_stay_longest(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(make_state())
        head = next(line for line in tallymark().out.splitlines() if line.startswith("  agent"))
    shown = {name for name in COLUMNS if name in head}
    assert shown in [set(columns) for columns in fewer(COLUMNS, DROPPED_FIRST)]
    assert "cost" in shown
    assert shown == {"cost"} or "tokens" in shown


def test_what_has_no_price_is_never_shown_as_free(tallymark: Tallymark) -> None:
    state = make_state()
    state.agents["boom"] = AgentProfile(agent_name="boom", unpriced_usages=1, total_tokens=15)
    state.agents["free"] = AgentProfile(agent_name="free")
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(state)
        rows = {line.split()[0]: line.split()[1:] for line in tallymark().out.splitlines() if line}
    assert rows["boom"] == ["0", "-", "15", "?", "1", "-"]
    assert rows["free"] == ["0", "-", "0", "$0.00", "-", "-"]


def test_nothing_is_cut_where_no_terminal_sets_a_width(tallymark: Tallymark) -> None:
    name = "agent-" * 20
    state = make_state("project-" * 20)
    state.agents["coding"].agent_name = name
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(state)
        out = tallymark().out
    assert f"  {name}  1.2k" in out
    assert "x" * 200 in out
    assert "…" not in out


def test_one_project_alone(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(make_state("one"), make_state("two"))
        assert tallymark("--project", "two", "--json").json == [overview(make_state("two"))]
        missing = tallymark("--project", "three")
    assert (missing.code, missing.out) == (1, "")
    assert missing.err == (
        "tallymark: cannot show project 'three': nothing is recorded of it; known: one, two\n"
    )


def test_events_that_nobody_counts_are_shown(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(make_state(other_events=3))
        assert " · 3 events of unknown type · " in tallymark().out


def test_names_cannot_drive_the_terminal(tallymark: Tallymark) -> None:
    state = make_state("evil\x1b[2J\n[red]")
    state.agents["coding"].agent_name = "a\x1b]0;title\x07"
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(state)
        out = tallymark().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "evil\\x1b[2J\\n[red]" in out


def test_as_json_it_is_what_the_daemon_says(tallymark: Tallymark) -> None:
    state = make_state()
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply(state)
        done = tallymark("--json")
    assert done.json == [overview(state)]


def test_nothing_recorded_yet(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = reply()
        out = tallymark().out
        assert out.startswith("Nothing is recorded yet. To begin:\n")
        assert "tallymark run -- COMMAND" in out
        assert "tallymark import claude-code" in out
        assert tallymark("--json").json == []


def test_items_are_filled_into_lines_whole() -> None:
    items = ["12345", "12345", "12345"]
    assert fill(items, 30, indent=2, first=6) == ["12345 · 12345 · 12345"]
    assert fill(items, 20, indent=2, first=6) == ["12345 · 12345", "  12345"]
    assert fill(items, 15, indent=2, first=6) == ["12345", "  12345 · 12345"]
    assert fill(items, 3, indent=2, first=6) == ["12345", "  12345", "  12345"]
