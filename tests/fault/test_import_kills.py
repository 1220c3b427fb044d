"""SIGKILL of the daemon in the middle of an import, at every kind of file operation.

After a restart the import goes on, and is then run once more from the start:
the figures are the same, to the token, as if nothing had happened.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tallymark import Client
from tallymark.events import Event
from tallymarkd.sources.claude_code import read_transcripts
from tests.daemon import Daemon, wait_for
from tests.fault import killing_daemon

KINDS = tuple(killing_daemon.KINDS)
BATCH_EVENTS = 4
QUICK_STEP = 23
"""Of all the calls of a kind the quick run kills at the first, and at each that many further."""

EVERY_IMPORT_MAKES = ("write", "fdatasync")
"""Kinds of call that no batch is acknowledged without."""

KILLS_BETWEEN_MIN = 15
"""Kills that must have fallen between an acknowledgement and the end of an import."""

OPTIONS = (
    "--save-interval-seconds", "0.05",
    "--segment-bytes-max", "64KiB",
    "--segment-chunk-bytes", "16KiB",
)  # fmt: skip


@dataclass
class Tries:
    """What was tried."""

    kills: int = 0
    between: int = 0


def events_of(source: Path) -> list[Event]:
    """What an import of these transcripts records."""
    files = sorted(source.rglob("*.jsonl"))
    plan = read_transcripts(
        files,
        now=datetime(2100, 1, 1, tzinfo=UTC),
        project="p",
        project_of=lambda _: "p",
        on_progress=lambda _: None,
    )
    return [event for _, event in plan.events()]


def figures(daemon: Daemon) -> dict[str, Any]:
    """What is kept, but for when it was kept."""
    with Client("p", socket=daemon.socket) as client:
        state = client.dump()
    return {
        "input": state.input_tokens,
        "output": state.output_tokens,
        "cache": (state.cache_read_tokens, state.cache_write_tokens),
        "cost": state.total_cost_usd,
        "sessions": state.total_sessions,
        "agents": {
            name: (agent.total_invocations, agent.total_tokens, agent.total_cost_usd)
            for name, agent in state.agents.items()
        },
        "runs": sorted((run.event_id, run.total_tokens, run.status) for run in state.events),
        "by session": {s.session_id: s.total_tokens for s in state.sessions},
    }


def run_import(
    daemon: Daemon, events: list[Event], tries: Tries | None = None, acked: Path | None = None
) -> None:
    """Send the events in small batches; start the daemon again when it is killed.

    ``acked`` is a file that is made once the first of them are acknowledged.
    """
    with Client(
        "p", socket=daemon.socket, batch_events_max=BATCH_EVENTS, linger_seconds=0.0,
        ack_timeout_seconds=2.0,
    ) as client:  # fmt: skip
        for number, event in enumerate(events):
            client.emit(event)
            if number % BATCH_EVENTS == 0:
                deliver(client, daemon, tries)
                if acked is not None:
                    acked.touch()
        deliver(client, daemon, tries)
        assert not client.stats().dropped


def deliver(client: Client, daemon: Daemon, tries: Tries | None) -> None:
    """Wait until what was emitted is durable, over a kill."""

    def done() -> bool:
        if not daemon.running:
            assert tries is not None, daemon.log()
            tries.kills += 1
            tries.between += client.stats().acknowledged > 0
            daemon.command = ("-m", "tallymarkd")
            daemon.start()
        stats = client.stats()
        return not (stats.queued or stats.unacknowledged or stats.spooled)

    wait_for("every event to be durable", done)


def kill_at(
    kind: str,
    number: int,
    when: str,
    root: Path,
    events: list[Event],
    tries: Tries,
    acked: Path | None = None,
) -> tuple[bool, dict[str, Any]]:
    """One try; false when the import ended before there was an n-th call.

    With ``acked`` the calls count from the first acknowledgement.
    """
    command = killing_daemon.command(kind, number, when, acked)
    daemon = Daemon(root, *OPTIONS, command=command)
    try:
        daemon.spawn()
        wait_for("a daemon that answers or is killed",
                 lambda: not daemon.running or _answers(daemon))  # fmt: skip
        before = tries.kills
        run_import(daemon, events, tries, acked)
        run_import(daemon, events, tries)
        killed = tries.kills > before
        if not killed:
            # It may still be killed while it saves; what is on disk must do.
            daemon.process.terminate()  # type: ignore[union-attr]  # it was spawned
            daemon.process.wait(60)  # type: ignore[union-attr]
            killed = daemon.process.returncode == -9  # type: ignore[union-attr]
            tries.kills += killed
            daemon.command = ("-m", "tallymarkd")
            daemon.start()
        return killed, figures(daemon)
    finally:
        daemon.kill()


def _answers(daemon: Daemon) -> bool:
    try:
        return daemon.answers() is not None
    except AssertionError:
        return True


def figures_without_kills(root: Path, events: list[Event]) -> dict[str, Any]:
    """What every import must come to, however often it is interrupted."""
    daemon = Daemon(root, *OPTIONS)
    try:
        daemon.start()
        run_import(daemon, events)
        expected = figures(daemon)
    finally:
        daemon.kill()
    assert expected["output"] > 0
    return expected


def kill_everywhere(root: Path, source: Path, step: int) -> Tries:
    """Kill at every ``step``-th call of every kind; all figures must be the same."""
    events = events_of(source)
    expected = figures_without_kills(root / "clean", events)
    tries = Tries()
    for kind in KINDS:
        for number in itertools.count(1, step):
            when = "before" if number % 2 else "after"
            directory = root / f"{kind}-{number}"
            killed, found = kill_at(kind, number, when, directory, events, tries)
            assert found == expected, (kind, number, when)
            if not killed:
                break
    return tries


@pytest.mark.timeout(600)
def test_some_kills_lose_and_double_nothing(tmp_path: Path, synthetic_transcripts: Path) -> None:
    tries = kill_everywhere(tmp_path, synthetic_transcripts, QUICK_STEP)
    assert tries.kills >= len(KINDS)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", EVERY_IMPORT_MAKES)
def test_a_kill_behind_an_acknowledgement_loses_and_doubles_nothing(
    tmp_path: Path, synthetic_transcripts: Path, kind: str, when: str
) -> None:
    events = events_of(synthetic_transcripts)
    expected = figures_without_kills(tmp_path / "clean", events)
    tries = Tries()
    killed, found = kill_at(
        kind, 1, when, tmp_path / "state", events, tries, acked=tmp_path / "acked"
    )
    assert found == expected
    assert killed
    assert tries.between == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_every_call_lose_and_double_nothing(
    tmp_path: Path, synthetic_transcripts: Path
) -> None:
    tries = kill_everywhere(tmp_path, synthetic_transcripts, 1)
    print(f"{tries.kills} kills, {tries.between} of them after an acknowledgement")
    assert tries.between >= KILLS_BETWEEN_MIN


@pytest.fixture
def synthetic_transcripts() -> Path:
    """The transcripts that the repository has."""
    return Path(__file__).parent.parent / "fixtures" / "claude-code"


def test_the_killing_daemon_kills(tmp_path: Path) -> None:
    """The instrument itself: without it every test above would be green."""
    daemon = Daemon(tmp_path / "state", command=killing_daemon.command("fdatasync", 1, "before"))
    try:
        daemon.spawn()  # it makes something durable before it calls itself ready
        wait_for("the daemon's end", lambda: not daemon.running)
        assert daemon.process is not None
        assert daemon.process.returncode == -9
    finally:
        daemon.kill()


def test_a_drain_tells_the_number_of_calls(tmp_path: Path) -> None:
    command = killing_daemon.command("write", killing_daemon.NEVER, "before")
    daemon = Daemon(tmp_path / "state", command=command)
    try:
        daemon.start()
        assert daemon.stop() == 0
        match = re.search(r"calls: (\d+)", daemon.log())
        assert match
        assert int(match.group(1)) > 0
    finally:
        daemon.kill()
