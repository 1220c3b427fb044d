"""tallymarkd: the daemon that keeps the record, and the command line to it.

``MetricsStore`` can be used without a daemon, by whoever keeps one project's
state in a directory of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tallymarkd._version import __version__

if TYPE_CHECKING:
    from tallymarkd.core.metrics_store import (
        DaemonOwnedError,
        LockAcquisitionError,
        MetricsStore,
    )

__all__ = ["DaemonOwnedError", "LockAcquisitionError", "MetricsStore", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported when used: the commands start faster without it.
    if name in __all__:
        from tallymarkd.core import metrics_store

        return getattr(metrics_store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
