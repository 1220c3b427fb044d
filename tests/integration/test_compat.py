"""A program written for the collector that kept one JSON file, against the daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tallymark.compat import AgentMetricsCollector
from tests.daemon import DEADLINE_SECONDS, Daemon, tallymark

EXAMPLE = Path(__file__).parent.parent / "fixtures" / "collector" / "example.py"

# What the original wrote into its file: dollars by 3 and 15 for a million tokens.
TOTALS = {
    "project_name": "shop",
    "total_sessions": 2,
    "total_tokens": 2000 + 3000 + 900 + 150 + 30,
    "total_cost_usd": pytest.approx((2610 * 3 + 3470 * 15) / 1e6),
}
PROFILES: dict[str, dict[str, object]] = {
    "coding": {
        "total_invocations": 2, "successful_invocations": 2, "failed_invocations": 0,
        "total_tokens": 5030, "success_rate": 1.0, "avg_tokens_per_call": 2515.0,
        "files_created": 1, "files_modified": 1, "current_streak": 2, "best_streak": 2,
    },
    "github": {
        "total_invocations": 1, "successful_invocations": 1, "failed_invocations": 0,
        "total_tokens": 900, "success_rate": 1.0, "commits_made": 1, "prs_created": 1,
    },
    "linear": {
        "total_invocations": 2, "successful_invocations": 0, "failed_invocations": 2,
        "total_tokens": 150, "success_rate": 0.0, "current_streak": 0,
        "last_error": "the server is busy",
    },
}  # fmt: skip
RUNS = [
    (
        "coding",
        "AI-7",
        "success",
        2000,
        3000,
        ["file:created:cart.py", "file:modified:shop.py"],
        "",
    ),
    ("github", "AI-7", "success", 500, 400, ["commit:0a1b2c", "pr:created:#12"], ""),
    ("linear", "AI-8", "error", 100, 50, [], "no such ticket"),
    ("linear", "AI-9", "error", 0, 0, [], "the server is busy"),
    ("coding", "AI-10", "success", 10, 20, [], ""),
]
SESSIONS = [
    ("initializer", "complete", ["coding", "github", "linear"], 6050, {"AI-7", "AI-8", "AI-9"}),
    ("continuation", "complete", ["coding"], 30, {"AI-10"}),
]


def check(state: dict[str, Any]) -> None:
    assert {name: state[name] for name in TOTALS} == TOTALS
    assert list(state["agents"]) == list(PROFILES)
    for name, profile in PROFILES.items():
        assert {field: state["agents"][name][field] for field in profile} == profile
    assert [
        (
            run["agent_name"], run["ticket_key"], run["status"], run["input_tokens"],
            run["output_tokens"], run["artifacts"], run["error_message"],
        )
        for run in state["events"]
    ] == RUNS  # fmt: skip
    assert [
        (
            each["session_type"], each["status"], each["agents_invoked"], each["total_tokens"],
            set(each["tickets_worked"]),
        )
        for each in state["sessions"]
    ] == SESSIONS  # fmt: skip


def test_its_numbers_are_in_the_dump(daemon: Daemon, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, cwd=there,
        env={**os.environ, "TALLYMARK_STATE_DIR": str(daemon.state_dir)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout.partition("STATE ")[2])
    check(seen)
    dumped = tallymark("--socket", str(daemon.socket), "dump", "--project", "shop")
    check(json.loads(dumped.stdout))
    # Two writers of one file are what lost data before.
    assert list(there.iterdir()) == []


def test_a_project_without_events_has_an_empty_state(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYMARK_SOCKET", str(daemon.socket))
    state = AgentMetricsCollector("new").get_state()
    assert (state["project_name"], state["total_sessions"], state["events"]) == ("new", 0, [])
