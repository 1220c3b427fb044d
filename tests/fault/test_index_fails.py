"""The disk fails under ``index.sqlite`` while the daemon runs."""

from __future__ import annotations

from pathlib import Path

from tallymarkd.core.committer import EXIT_IO_ERROR
from tests.daemon import Daemon, wait_for
from tests.fault.accounts import Findings
from tests.fault.agents import pump_until
from tests.fault.runs import BUSY, one_round, restart_and_judge, two_agents


def test_an_index_that_turns_to_garbage_ends_the_daemon_and_is_rebuilt(tmp_path: Path) -> None:
    """It cannot tell duplicates any more, and says so in a line; nothing is lost."""
    daemon = Daemon(tmp_path / "state", *BUSY)
    agents = two_agents(daemon.socket)
    findings = Findings()
    try:
        daemon.start()
        one_round(agents, lambda: False)
        wait_for("the index to be written", (daemon.state_dir / "server.json").exists)
        for name in ("index.sqlite", "index.sqlite-wal"):
            path = daemon.state_dir / name
            with path.open("r+b") as file:
                file.write(b"\xff" * path.stat().st_size)
        agents[0].make()
        pump_until("the daemon's end", agents, lambda: not daemon.running)
        assert daemon.process is not None
        assert daemon.process.returncode == EXIT_IO_ERROR
        assert "cannot read the index of keys" in daemon.log()
        assert "Traceback" not in daemon.log()
        for agent in agents:
            agent.disconnect()
        restart_and_judge(daemon, agents, findings, "after it")
        assert "rebuilding it from the journal" in daemon.log()
        assert findings == Findings()
    finally:
        daemon.kill()
        for agent in agents:
            agent.disconnect()
