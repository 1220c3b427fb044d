"""A small run that does everything to the disk that a daemon ever does, until one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.daemon import Daemon, wait_for
from tests.fault.accounts import Findings, judge
from tests.fault.agents import accounts_of, pump_until
from tests.fault.raw_agent import RawAgent

FILL_BYTES = 3000
"""Of each event, so that four batches fill a segment."""

ROUNDS = 8
"""Of one batch from each agent: enough for more history than is kept."""

BUSY = (
    "--save-interval-seconds", "0.05",
    "--idle-mark-seconds", "0.05",
    "--segment-bytes-max", "64KiB",
    "--segment-chunk-bytes", "16KiB",
    "--history-bytes-max", "160KiB",
)  # fmt: skip
"""Settings with which a second brings rolls, checkpoints and retired segments."""


def two_agents(socket: Path) -> list[RawAgent]:
    """Agents in this process, each in a project of its own."""
    return [RawAgent(f"agent-{n}", f"project-{n}", socket, fill_bytes=FILL_BYTES) for n in (1, 2)]


def one_round(agents: Sequence[RawAgent], gone: Callable[[], bool]) -> None:
    """One batch of each, acknowledged, unless the daemon is ``gone`` before."""
    for agent in agents:
        agent.make()
    pump_until("an acknowledgement", agents, lambda: gone() or not any(a.ahead for a in agents))


def run_until_killed(daemon: Daemon, agents: Sequence[RawAgent]) -> bool:
    """Work until the first segment has been retired, then drain; whether it was killed."""
    first_segment = daemon.state_dir / "journal" / "000000000001.seg"

    def killed() -> bool:
        return not daemon.running

    pump_until("an answer, or a kill", agents, lambda: killed() or _answers(daemon))
    for _ in range(ROUNDS):
        if not killed():
            one_round(agents, killed)
    wait_for("a retired segment, or a kill", lambda: killed() or not first_segment.exists())
    for agent in agents:
        agent.disconnect()
    assert daemon.process is not None
    if not killed():
        daemon.process.terminate()
    code = daemon.process.wait(60)
    assert code in (0, -9), f"the daemon ended with {code}:\n{daemon.log()}"
    return code == -9


def _answers(daemon: Daemon) -> bool:
    try:
        return daemon.answers() is not None
    except AssertionError:
        return True  # it has ended, which is looked at elsewhere


def restart_and_judge(
    daemon: Daemon, agents: Sequence[RawAgent], findings: Findings, where: str,
    *, whole_history: bool = False,
) -> None:  # fmt: skip
    """Start it again as it is in life; hold it to its word before and after more work."""
    daemon.command, daemon.under = ("-m", "tallymarkd"), ()
    daemon.start()
    judge(daemon, accounts_of(agents), findings, f"{where}, after it", whole_history=whole_history)
    if not findings.lost:  # else what the agents have forgotten would be asked for, in vain
        one_round(agents, lambda: False)
        judge(daemon, accounts_of(agents), findings, f"{where}, later", whole_history=whole_history)
    for agent in agents:
        agent.disconnect()
