"""Four agents record while the daemon is killed and started again in the middle.

At the end what they sent, what is stored and what was lost stand side by side.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness import Daemon
from tallymark import Client
from tallymark.questions import ask_projects

AGENTS = ("coding", "reviewer", "tester", "writer")
RUNS = 250
KILLS = 2
DOWN_SECONDS = 0.3
FLUSH_SECONDS_MAX = 60.0

Sent = tuple[str, int, int, int]
"""Agent, runs, tokens, and events that were dropped on the way."""


def work(agent: str, socket: Path, runs: int) -> None:
    """One agent process: many short runs, each with its tokens."""
    dice = random.Random(agent)
    tokens = 0
    # It stays until what it had to spool has been delivered as well.
    with Client("demo", socket=socket, exit_timeout_seconds=FLUSH_SECONDS_MAX) as client:
        for _ in range(runs):
            with client.track_agent(agent, model="claude-sonnet-4-5") as run:
                spent = dice.randint(100, 5000), dice.randint(10, 2000)
                run.add_tokens(input_tokens=spent[0], output_tokens=spent[1])
                tokens += sum(spent)
                time.sleep(dice.uniform(0.0, 0.02))
        client.flush(FLUSH_SECONDS_MAX)
        dropped = sum(client.stats().dropped.values())
    print(json.dumps([agent, runs, tokens, dropped]))


def main() -> int:
    """Exit 0 when everything that was sent is stored, once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each agent")
    # How this program starts its agents.
    parser.add_argument("--agent", help=argparse.SUPPRESS)
    parser.add_argument("--socket", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    runs: int = args.runs
    if args.agent:
        work(args.agent, args.socket, runs)
        return 0
    console = Console(stderr=True)
    root = Path(tempfile.mkdtemp(prefix="tallymark-demo-"))
    daemon = Daemon(root / "state")
    try:
        daemon.start()
        console.print(f"tallymarkd is running; {len(AGENTS)} agents begin, {runs} runs each")
        sent = run_agents(daemon, runs, console)
        with Client("demo", socket=daemon.socket) as client:
            stored = {name: (found.total_invocations, found.total_tokens)
                      for name, found in client.dump().agents.items()}  # fmt: skip
        daemon.stop()
    finally:
        daemon.kill()
        shutil.rmtree(root, ignore_errors=True)
    return report(sent, stored)


def run_agents(daemon: Daemon, runs: int, console: Console) -> list[Sent]:
    """Let the agents work, and kill the daemon between."""
    agents = [
        subprocess.Popen(
            [sys.executable, __file__, "--runs", str(runs), "--agent", agent,
             "--socket", str(daemon.socket)],
            stdout=subprocess.PIPE,
        )
        for agent in AGENTS
    ]  # fmt: skip
    for number in range(1, KILLS + 1):
        stored = wait_until_stored(daemon, len(AGENTS) * runs * number // (KILLS + 1))
        daemon.kill()
        console.print(f"killed tallymarkd with SIGKILL when {stored:,} runs were stored …")
        time.sleep(DOWN_SECONDS)
        daemon.start()
        console.print("… and started it again")
    told = [process.communicate()[0] for process in agents]
    done = [told[n] for n, process in enumerate(agents) if process.returncode == 0]
    return sorted(tuple(json.loads(line)) for line in done)


def wait_until_stored(daemon: Daemon, count: int) -> int:
    """Wait for so many runs; gives how many there are."""
    deadline = time.monotonic() + FLUSH_SECONDS_MAX
    while time.monotonic() < deadline:
        projects = ask_projects([daemon.socket], timeout_seconds=5.0)
        stored: int = sum(project["runs"] for project in projects)
        if stored >= count:
            return stored
        time.sleep(0.02)
    raise RuntimeError(f"{count} runs were not stored within {FLUSH_SECONDS_MAX:g} s")


def report(sent: list[Sent], stored: dict[str, tuple[int, int]]) -> int:
    """The table, and the exit code."""
    table = Table("agent", "runs sent", "stored", "lost", "tokens sent", "stored", "lost")
    bad = len(sent) != len(AGENTS)
    for agent, runs, tokens, dropped in sent:
        found_runs, found_tokens = stored.get(agent, (0, 0))
        bad = bad or (found_runs, found_tokens, dropped) != (runs, tokens, 0)
        table.add_row(agent, f"{runs:,}", f"{found_runs:,}", f"{runs - found_runs:,}",
                      f"{tokens:,}", f"{found_tokens:,}", f"{tokens - found_tokens:,}")  # fmt: skip
    Console().print(table)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
