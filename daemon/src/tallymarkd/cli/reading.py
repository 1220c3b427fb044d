"""What is shown: from the daemon, and without it from what it saved.

What comes from files is labelled so on stderr, with the time it was saved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tallymark.errors import DamagedError, DeliveryError, NewerFormatError, TallymarkError
from tallymark.fs import OsFileSystem
from tallymark.state import DashboardState
from tallymarkd.cli.asking import ask_projects, ask_state
from tallymarkd.cli.output import local, say
from tallymarkd.cli.place import Place

ABSENT = "it is not running"
"""In the message about a daemon that is simply not there."""


class NothingToRead(TallymarkError):
    """Neither a daemon nor a saved state."""


@dataclass(frozen=True)
class Saved:
    """One project's state as a file has it."""

    state: DashboardState
    saved_at: datetime


def read_projects(place: Place) -> list[dict[str, Any]]:
    """Every project's overview."""
    try:
        return msgspec.json.decode(ask_projects(place), type=list[dict[str, Any]])
    except DeliveryError as error:
        from tallymarkd.core.overview import overview

        return [overview(each.state) for each in _saved(place, error)]


def read_state(place: Place, project: str) -> bytes:
    """A project's DashboardState as JSON. Raises ``NothingToRead`` for an unknown one."""
    try:
        return ask_state(place, project)
    except DeliveryError as error:
        found = _saved(place, error, project)
        return msgspec.json.encode(found[0].state)


def _saved(place: Place, cause: DeliveryError, project: str | None = None) -> list[Saved]:
    directories = place.state_dirs()
    states = read_states(directories)
    found = [each for each in states if project in (None, each.state.project_name)]
    if not found:
        what = "any state" if project is None else f"the state of project {project!r}"
        where = " or ".join(str(directory) for directory in directories)
        raise NothingToRead(f"cannot show {what}: {cause}; and nothing of it is saved in {where}")
    why = "tallymarkd is not running"
    if ABSENT not in str(cause):
        say(str(cause))
        why = "tallymarkd does not answer"
    newest = max(each.saved_at for each in found)
    say(f"{why}: showing the last saved state of {local(newest)}")
    return found


def read_states(directories: Sequence[Path]) -> list[Saved]:
    """Every project that was saved in the first state directory that has any.

    A damaged file is told on stderr, and its newest whole generation taken.
    """
    for directory in directories:
        found = list(_states_in(directory))
        if found:
            return found
    return []


def _states_in(state_dir: Path) -> Iterator[Saved]:
    from tallymarkd.core.layout import PROJECT_FILE, Layout
    from tallymarkd.storage.state_file import StateFile

    fs = OsFileSystem()
    projects = Layout(state_dir).projects
    try:
        names = fs.names(projects)
    except OSError as error:
        say(f"cannot read {projects}: {error.strerror}")
        return
    for name in names:
        found = _newest(StateFile(fs, projects / name, PROJECT_FILE))
        if found is not None:
            yield found


def _newest(file: Any) -> Saved | None:
    """The newest generation that is whole."""
    from tallymarkd.core import project_file
    from tallymarkd.core.project_state import snapshot

    for path, body in file.generations():
        try:
            if body is None:
                raise DamagedError("it cannot be opened")
            state = snapshot(project_file.decode(body))
            return Saved(state, datetime.fromtimestamp(os.stat(path).st_mtime, UTC))
        except NewerFormatError as error:
            raise NewerFormatError(f"cannot read the saved state {path}: {error}") from None
        except (DamagedError, OSError) as error:
            say(f"cannot read the saved state {path}: {error}")
    return None
