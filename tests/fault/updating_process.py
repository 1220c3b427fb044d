"""A process that changes one shared state many times: the work of the original design.

``python updating_process.py DIRECTORY NAME COUNT``. It waits for a line on stdin, so
that several of them begin together.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tallymark.state import DashboardState
from tallymarkd import MetricsStore

LOCK_SECONDS = 120.0
"""A busy machine may keep a process waiting; the promise is about loss, not time."""

PATH = Path(__file__)


def main() -> None:
    """Say that it is there, wait, update."""
    directory, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    store = MetricsStore("p", directory)
    store.LOCK_TIMEOUT = LOCK_SECONDS
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        run_id = f"{name}-{number}"

        def add(state: DashboardState, run_id: str = run_id) -> None:
            state["total_tokens"] += 1
            state["events"].append({"event_id": run_id, "agent_name": name})
            profile = state["agents"].setdefault(name, {"agent_name": name})
            profile["total_invocations"] = profile.get("total_invocations", 0) + 1

        store.update(add)


if __name__ == "__main__":
    main()
