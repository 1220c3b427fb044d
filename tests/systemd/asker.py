"""Asks the daemon how it is, and waits as long as a start under load may take.

``python -m tests.systemd.asker SOCKET``; it tells the report, with ``status`` and the codes of
the ``reasons``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tallymark.questions import ask_health
from tests.systemd.told import tell

PATIENCE_SECONDS = 30.0


def main() -> None:
    """Ask once."""
    answer = ask_health([Path(sys.argv[1])], timeout_seconds=PATIENCE_SECONDS)
    codes = [reason.code for reason in answer.reasons]
    tell(**{**answer.report, "status": answer.status, "reasons": codes})


if __name__ == "__main__":
    main()
