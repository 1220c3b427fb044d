"""tallymark: keeps the record of what the agents on a machine do.

::

    from tallymark import Client

    with Client() as client:
        with client.track_agent("coding", ticket_key="AI-46") as run:
            run.add_tokens(input_tokens=1000, output_tokens=2000)

Importing this starts nothing. ``AsyncClient`` and what is for reading are
imported when they are first asked for: asyncio takes longer to load than all
the rest, and who only records wants to begin.
"""

from typing import TYPE_CHECKING, Any

from tallymark._version import __version__
from tallymark.client import Client
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
from tallymark.figures import ClientStats
from tallymark.runs import Run, current_run
from tallymark.sessions import Session

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
    "Session",
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
    from tallymark.protocol.messages import HealthReport
    from tallymark.state import AgentProfile, DashboardState, FinishedRun, SessionSummary
else:
    _LATER = {
        "AsyncClient": "aio",
        "HealthReport": "protocol.messages",
        **dict.fromkeys(
            ("AgentProfile", "DashboardState", "FinishedRun", "SessionSummary"), "state"
        ),
    }

    # Not for type checkers: to them every name would exist.
    def __getattr__(name: str) -> Any:
        if name in _LATER:
            from importlib import import_module

            return getattr(import_module(f"tallymark.{_LATER[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
