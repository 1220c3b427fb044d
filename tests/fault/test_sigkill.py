"""SIGKILL of the real daemon: some of what ``make torture`` does in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.fault import killing_daemon, sigkill, strace
from tests.fault.runs import BUSY, run_until_killed, two_agents

needs_strace = pytest.mark.skipif(bool(strace.cannot_trace()), reason=strace.cannot_trace())


@pytest.mark.parametrize("kind", ["fdatasync", "rename"])
def test_kills_at_some_calls_lose_and_double_nothing(tmp_path: Path, kind: str) -> None:
    outcome = sigkill.sweep(tmp_path, 9, [kind], [])
    assert outcome.passed, outcome.lines()
    assert outcome.tried >= 2


@needs_strace
def test_kills_within_sqlite_lose_and_double_nothing(tmp_path: Path) -> None:
    outcome = sigkill.sweep(tmp_path, 9, [], ["pwrite64"])
    assert outcome.passed, outcome.lines()
    assert outcome.tried >= 2


def test_random_kills_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    outcome = sigkill.storm(tmp_path, kills=8)
    assert outcome.passed, outcome.lines()
    assert outcome.tried == 8


def test_the_run_that_is_killed_does_everything(tmp_path: Path) -> None:
    """Else kills at every call of it would prove little."""
    command = killing_daemon.command("link", killing_daemon.NEVER, "before")
    daemon = Daemon(tmp_path / "state", *BUSY, command=command)
    agents = two_agents(daemon.socket)
    try:
        daemon.spawn()
        assert not run_until_killed(daemon, agents)
    finally:
        daemon.kill()
    segments = [path.name for path in (daemon.state_dir / "journal").glob("*.seg")]
    assert len(segments) >= 2
    assert "000000000001.seg" not in segments
    projects = list((daemon.state_dir / "projects").iterdir())
    assert len(projects) == 2
    assert all((project / ".agent_metrics.json.bak.3").exists() for project in projects)
    assert all(agent.acked == agent.sent > 0 for agent in agents)
