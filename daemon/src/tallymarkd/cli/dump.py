"""``tallymark dump``: the whole state of a project, as JSON."""

from __future__ import annotations

import click

from tallymarkd.cli.output import print_json
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.project import chosen_project, project_option
from tallymarkd.cli.reading import read_state


@click.command(name="dump")
@project_option
@json_option
@with_place
def command(place: Place, project: str | None) -> int:
    """The whole state of a project, as JSON: totals, agents, the newest runs and sessions."""
    print_json(read_state(place, chosen_project(place, project)))
    return 0
