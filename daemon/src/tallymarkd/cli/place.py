"""Where the daemon and its state are looked for: the options common to commands."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click

from tallymark import paths
from tallymark.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


class NoStateDir(UsageError):
    """What was said does not tell which state directory is meant."""


@dataclass(frozen=True)
class Place:
    """What was said of where to look, and how to print."""

    state_dir: str | None
    socket: str | None
    as_json: bool
    env: Mapping[str, str]

    def sockets(self) -> list[Path]:
        """Sockets to try, in order. An option goes before any variable."""
        said = paths.socket_path(paths.absolute(self.state_dir)) if self.state_dir else None
        return paths.socket_candidates(self.socket or said, self.env)

    def explicit_socket(self) -> Path | None:
        """The socket to give a ``Client``; None where it looks itself for user's and system's."""
        sockets = self.sockets()
        return sockets[0] if len(sockets) == 1 else None

    def state_dirs(self) -> list[Path]:
        """State directories to look into without a daemon; a command that works on one
        takes the first. An option goes before any variable.

        Raises ``NoStateDir`` where a socket was said that tells none: another daemon's
        directory is not to be taken for its.
        """
        if self.state_dir:
            return [paths.absolute(self.state_dir)]
        socket = self.socket or self.env.get(paths.SOCKET_VARIABLE, "")
        around = _state_dir_around(paths.absolute(socket)) if socket else None
        said = paths.said_state_dir(self.env)
        found = (around or said) if self.socket else (said or around)
        if found is not None:
            return [found]
        if socket:
            raise NoStateDir(
                f"cannot tell which state directory belongs to {socket}; give --state-dir"
            )
        return [paths.state_dir(self.env), paths.SYSTEM_STATE_DIR]


def _state_dir_around(socket: Path) -> Path | None:
    """The state directory whose usual socket this is; None for a socket anywhere else."""
    if socket == paths.SYSTEM_SOCKET:
        return paths.SYSTEM_STATE_DIR
    above = socket.parent.parent
    usual = socket == paths.socket_path(above) and above != above.parent
    return above if usual else None


def place_options(function: F) -> F:
    """Add --state-dir and --socket."""
    for option in (
        click.option(
            "--socket",
            metavar="PATH",
            type=click.Path(path_type=str),
            help="Where tallymarkd listens.",
        ),
        click.option(
            "--state-dir",
            metavar="PATH",
            type=click.Path(path_type=str),
            help="tallymarkd's state directory.",
        ),
    ):
        function = option(function)
    return function


def json_option(function: F) -> F:
    """Add --json."""
    return click.option("as_json", "--json", is_flag=True, help="Print JSON.")(function)


def with_place(function: Callable[Concatenate[Place, P], T]) -> Callable[..., T]:
    """Give the command a ``Place``, from its own options and the global ones before it."""

    @place_options
    @functools.wraps(function)
    def wrapper(
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        state_dir, socket = kwargs.pop("state_dir"), kwargs.pop("socket")
        as_json = kwargs.pop("as_json", False)
        place = click.get_current_context().find_object(Place) or Place(
            None, None, False, os.environ
        )
        place = replace(
            place,
            state_dir=str(state_dir) if state_dir else place.state_dir,
            socket=str(socket) if socket else place.socket,
            as_json=bool(as_json) or place.as_json,
        )
        return function(place, *args, **kwargs)

    return wrapper
