"""Which project a command is about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from tallymark import paths
from tallymarkd.cli.place import Place

F = TypeVar("F", bound=Callable[..., object])


def project_option(function: F) -> F:
    """Add --project."""
    return click.option(
        "--project",
        metavar="NAME",
        help="The project.  [default: TALLYMARK_PROJECT, else that of the directory]",
    )(function)


def chosen_project(place: Place, project: str | None) -> str:
    """The project meant: by the same rule as in the client library."""
    return paths.default_project(project, place.env, _working_directory())


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None
