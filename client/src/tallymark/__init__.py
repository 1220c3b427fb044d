"""tallymark: keeps the record of what the agents on a machine do.

::

    from tallymark import Client

    with Client() as client:
        with client.track_agent("coding", ticket_key="AI-46") as run:
            run.add_tokens(input_tokens=1000, output_tokens=2000)

Importing this starts nothing. ``AsyncClient`` is imported when it is first
asked for, since asyncio takes longer to load than all the rest.
"""

from typing import TYPE_CHECKING, Any

from tallymark._version import __version__
from tallymark.client import Client
from tallymark.delivery import ClientStats
from tallymark.errors import (
    ConnectError,
    DamagedError,
    DeliveryError,
    FlushTimeout,
    NewerFormatError,
    PathError,
    ProtocolError,
    RefusedError,
    ReplyTimeout,
    SettingError,
    StorageError,
    TallymarkError,
    UsageError,
)
from tallymark.events import Event, RunEnd, RunStart, SessionEnd, SessionStart, Usage
from tallymark.protocol.messages import HealthReport
from tallymark.runs import Run, current_run
from tallymark.state import AgentProfile, DashboardState, FinishedRun, SessionSummary

__all__ = [
    "AgentProfile",
    "AsyncClient",
    "Client",
    "ClientStats",
    "ConnectError",
    "DamagedError",
    "DashboardState",
    "DeliveryError",
    "Event",
    "FinishedRun",
    "FlushTimeout",
    "HealthReport",
    "NewerFormatError",
    "PathError",
    "ProtocolError",
    "RefusedError",
    "ReplyTimeout",
    "Run",
    "RunEnd",
    "RunStart",
    "SessionEnd",
    "SessionStart",
    "SessionSummary",
    "SettingError",
    "StorageError",
    "TallymarkError",
    "Usage",
    "UsageError",
    "__version__",
    "current_run",
]

if TYPE_CHECKING:
    from tallymark.aio import AsyncClient
else:
    # Not for type checkers: to them every name would exist.
    def __getattr__(name: str) -> Any:
        if name == "AsyncClient":
            from tallymark.aio import AsyncClient

            return AsyncClient
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
