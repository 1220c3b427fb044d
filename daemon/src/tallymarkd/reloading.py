"""New settings for a daemon that runs: which can be taken over, which need a restart.

A setting says of itself whether a running daemon takes it over (``About.reload``).
What it says holds for the whole daemon: ``app.py`` hands the settings to every part.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tallymark.errors import TallymarkError
from tallymarkd.config import SETTINGS, Settings

log = logging.getLogger("tallymarkd")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading the settings anew.

    ``settings`` are those in force from now on; ``applied`` names what has
    changed among them, ``waiting`` what has changed in its source and waits for a
    restart. ``problem`` says why nothing could be taken over; empty if all was well.
    """

    settings: Settings
    applied: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    problem: str = ""

    @property
    def text(self) -> str:
        """One line about it."""
        if self.problem:
            return f"{self.problem}; the settings stay as they were"
        parts = [f"set {', '.join(self.applied)}"] if self.applied else []
        if self.waiting:
            parts.append(f"{', '.join(self.waiting)} will change with the next restart")
        return "; ".join(parts) or "no setting has changed"


def reload(running: Settings, started: Settings) -> Reloaded:
    """Read the settings anew. ``running`` are in force, ``started`` were read at the start.

    The two differ by what was reloaded since, and by a socket of the service manager.
    """
    if started.again is None:
        return Reloaded(running)
    try:
        found = started.again()
    except (TallymarkError, OSError) as error:
        return Reloaded(running, problem=str(error))
    return merge(running, started, found)


def merge(running: Settings, started: Settings, found: Settings) -> Reloaded:
    """``running`` with what may change taken over from ``found``."""
    changes: dict[str, Any] = {}
    applied, waiting = [], []
    for setting in SETTINGS:
        name = setting.name
        new = getattr(found, name)
        if setting.about.reload and new != getattr(running, name):
            changes[name] = new
            applied.append(f"{name} = {setting.show(new)}")
        elif not setting.about.reload and new != getattr(started, name):
            waiting.append(name)
    origins: Mapping[str, str] = {
        name: (found if name in changes else running).origins.get(name, "default")
        for name in running.origins
    }
    return Reloaded(replace(running, **changes, origins=origins), tuple(applied), tuple(waiting))


def tell(came: Reloaded) -> None:
    """Say in the log what came of it."""
    level = logging.WARNING if came.problem or came.waiting else logging.INFO
    log.log(level, "reloaded: %s" if not came.problem else "cannot reload: %s", came.text)
