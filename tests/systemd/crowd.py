"""Many agents that send again what was not acknowledged, each on its own connection.

``python -m tests.systemd.crowd SOCKET COUNT NAME``. It tells ``least``, the events
acknowledged to the agent that has the fewest, and ``acked``, those of all; at its end,
when nothing is on its way any more, the number of each agent.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests.fault.raw_agent import RawAgent
from tests.systemd.told import Teller, asked_to_end, tell

AHEAD = 2
"""Batches of an agent on their way."""

PACE_SECONDS = 0.02
"""From one batch of an agent to the next."""


def main() -> None:
    """Send until told to end, then until all is acknowledged."""
    socket, count, name = sys.argv[1:]
    agents = [RawAgent(f"{name}-{n}", f"project-{n % 5}", Path(socket)) for n in range(int(count))]
    teller = Teller()
    due = [0.0] * len(agents)
    ending = False
    while not ending or any(agent.ahead for agent in agents):
        ending = ending or asked_to_end()
        for number, agent in enumerate(agents):
            if not ending and agent.ahead < AHEAD and time.monotonic() >= due[number]:
                due[number] = time.monotonic() + PACE_SECONDS
                agent.make()
            agent.pump(0.0002)
        if teller.due():
            acked = [agent.acked for agent in agents]
            tell(least=min(acked), acked=sum(acked), sent=sum(agent.sent for agent in agents))
    tell(events={agent.name: agent.acked for agent in agents}, uid=os.getuid())


if __name__ == "__main__":
    main()
