"""An agent as a process: many short runs, and a line for what it knows to be durable.

``python agent_process.py NAME SOCKET RUNS AHEAD``. It prints JSON lines:
``{"durable": [ids…]}`` after every AHEAD runs, ``{"tokens": n}`` at its end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tallymark import Client

FLUSH_SECONDS = 90.0

PATH = Path(__file__)


def say(**what: Any) -> None:
    """One line to whoever started this."""
    print(json.dumps(what), flush=True)


def main() -> None:
    """Record, flush, tell."""
    name, socket, runs, ahead = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    fresh: list[str] = []
    tokens = 0
    # Without a spool, so that a flush that returned means the daemon's disk.
    with Client(
        "p", socket=socket, spool_dir="/dev/null/none", batch_events_max=8, ack_timeout_seconds=5.0
    ) as client:
        for number in range(runs):
            with client.track_agent(name, announce=False) as run:
                run.add_tokens(input_tokens=number, output_tokens=1)
                run.add_artifact(f"commit:{number}")
            fresh.append(run.run_id)
            tokens += number + 1
            if len(fresh) == ahead or number == runs - 1:
                client.flush(FLUSH_SECONDS)
                say(durable=fresh)
                fresh = []
        assert not client.stats().dropped
    say(tokens=tokens)


if __name__ == "__main__":
    main()
