"""What is shown: from the daemon, and without it from what is on disk.

What comes from files is labelled so on stderr, with the time of its last change and the
directory it is from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tallymark.errors import DeliveryError
from tallymark.fs import OsFileSystem
from tallymark.state import DashboardState
from tallymarkd.cli.asking import ask_projects, ask_state
from tallymarkd.cli.output import local, say
from tallymarkd.cli.place import NoStateDir, Place
from tallymarkd.cli.unreached import Unreached, is_absent


@dataclass(frozen=True)
class Saved:
    """One project's state as the files have it."""

    state: DashboardState
    updated_at: datetime
    state_dir: Path


def read_projects(place: Place) -> list[dict[str, Any]]:
    """Every project's overview. Raises ``Unreached`` without a daemon and without files."""
    try:
        return msgspec.json.decode(ask_projects(place), type=list[dict[str, Any]])
    except DeliveryError as error:
        from tallymarkd.core.overview import overview

        return [overview(each.state) for each in _saved(place, error)]


def read_state(place: Place, project: str) -> bytes:
    """A project's DashboardState as JSON.

    Raises ``QuestionRefused`` for an unknown one, without a daemon ``Unreached``.
    """
    try:
        return ask_state(place, project)
    except DeliveryError as error:
        found = _saved(place, error, project)
        return msgspec.json.encode(found[0].state)


def _saved(place: Place, cause: DeliveryError, project: str | None = None) -> list[Saved]:
    what = "any state" if project is None else f"the state of project {project!r}"
    try:
        directories = place.state_dirs()
    except NoStateDir as error:
        raise Unreached(f"cannot show {what}", cause, str(error)) from None
    states = read_states(directories)
    found = [each for each in states if project in (None, each.state.project_name)]
    if not found:
        where = " or ".join(str(directory) for directory in directories)
        raise Unreached(f"cannot show {what}", cause, f"nothing of it is saved in {where}")
    why = "tallymarkd is not running"
    if not is_absent(cause):
        say(str(cause))
        why = "tallymarkd does not answer"
    newest = max(each.updated_at for each in found)
    say(f"{why}: showing the last durable state of {local(newest)}, in {found[0].state_dir}")
    return found


def read_states(directories: Sequence[Path]) -> list[Saved]:
    """Every project in the first state directory that has any.

    A damaged file is told on stderr, and its newest whole generation taken.
    """
    for directory in directories:
        found = list(_states_in(directory))
        if found:
            return found
    return []


def _states_in(state_dir: Path) -> Iterator[Saved]:
    """The last durable state: what was saved, and what the journal has beyond it."""
    from tallymarkd.core.loading import read_only
    from tallymarkd.core.project_state import snapshot

    try:
        books = read_only(OsFileSystem(), state_dir, say)
    except OSError as error:
        say(f"cannot read {state_dir}: {error.strerror}")
        return
    for _, state in sorted(books.projects.items()):
        yield Saved(snapshot(state), state.board.updated_at, state_dir)
