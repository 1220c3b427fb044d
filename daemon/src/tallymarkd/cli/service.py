"""``tallymark service``: tallymarkd as a service of systemd or launchd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from tallymark import paths
from tallymark.fs import OsFileSystem
from tallymark.protocol.messages import HealthReport
from tallymarkd.cli.output import print_json, say
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.text import one_line

if TYPE_CHECKING:
    from tallymarkd.service.machine import Machine
    from tallymarkd.service.managers import Manager
    from tallymarkd.service.places import Places
    from tallymarkd.service.standing import Status

F = TypeVar("F", bound=Callable[..., object])

WIDTH = 11

START_TIMEOUT_SECONDS = 15.0
"""The first connection starts the daemon, which recovers before it answers."""

command = click.Group(
    name="service",
    help="Have tallymarkd started at the first connection, and kept alive, by systemd or launchd.",
    # The whole help would not be one line that says what is wrong.
    no_args_is_help=False,
)


def system_option(function: F) -> F:
    """Add --system."""
    return click.option(
        "--system", is_flag=True, help="The service of the whole machine; only root may."
    )(function)


@command.command(name="install")
@system_option
@click.option(
    "--dry-run", "only_show", is_flag=True, help="Print files and commands, change nothing."
)
@with_place
def install_command(place: Place, system: bool, only_show: bool) -> int:
    """Install the service, or bring it up to date.

    It keeps its state where --state-dir or TALLYMARK_STATE_DIR says, else in the
    usual place. Doing it again changes nothing that is right.
    """
    from tallymarkd.service.install import dry_run, install, warm_up
    from tallymarkd.service.installation import this_installation

    machine = _machine(place)
    installed = this_installation()
    places, manager = _manager(machine, place, system=system)
    if only_show:
        dry_run(manager, _show)
        return 0
    warm_up(machine, installed)
    for note in (*installed.notes, *places.notes):
        say(note)
    install(machine, OsFileSystem(), manager, places, system=system, tell=_tell)
    click.echo()
    for name, line in asdict(manager.lines()).items():
        click.echo(f"{name:<{WIDTH}}{line}")
    for note in manager.notes():
        say(note)
    return 0


@command.command(name="uninstall")
@system_option
@with_place
def uninstall_command(place: Place, system: bool) -> int:
    """Stop the service and remove its files; what was recorded stays."""
    from tallymarkd.service.install import uninstall

    machine = _machine(place)
    _, manager = _manager(machine, place, system=system)
    if not uninstall(machine, OsFileSystem(), manager, _tell):
        say("there is no service to remove")
    return 0


@command.command(name="status")
@system_option
@json_option
@with_place
def status_command(place: Place, system: bool) -> int:
    """Is the service installed, as this tallymark would, and alive. Starts nothing.

    Exit code 0 all is well, 1 something is not, 2 it is not installed.
    """
    from tallymarkd.service.standing import look

    machine = _machine(place)
    _, manager = _manager(machine, place, system=system)
    if not system and not _given_state_dir(place):
        _, manager = _manager(machine, place, system=False, state_dir=manager.state_dir())
    status = look(machine, OsFileSystem(), manager)
    if place.as_json:
        print_json({**asdict(status), "exit_code": status.exit_code})
    else:
        show(status)
    return status.exit_code


def show(status: Status) -> None:
    """Print it for people."""
    found = status.condition
    click.echo(f"{status.kind} service: {'installed' if status.installed else 'not installed'}")
    rows = [(how, path) for path, how in status.files.items()]
    if status.installed:
        running = "running" if found.running else "starts at the first connection"
        rows += [
            ("socket", f"{status.socket} ({'listening' if found.listening else 'stopped'})"),
            ("state", status.state_dir),
            ("daemon", running if found.listening or found.running else "stopped"),
        ]
    if status.daemon is not None:
        rows.append(("health", str(status.daemon["status"])))
    for name, value in rows:
        click.echo(f"  {name:<{WIDTH}}{one_line(value)}")
    for problem in status.problems:
        click.echo(f"  ! {one_line(problem)}")


def _given_state_dir(place: Place) -> Path | None:
    """The one that was said to be used; not the usual one."""
    if place.state_dir:
        return paths.absolute(place.state_dir)
    return paths.said_state_dir(place.env)


def _machine(place: Place) -> Machine:
    from tallymarkd.cli.asking import ask_health
    from tallymarkd.service.machine import this_machine

    def ask(socket: Path) -> HealthReport:
        there = Place(None, str(socket), False, place.env)
        return ask_health(there, timeout_seconds=START_TIMEOUT_SECONDS)

    return this_machine(place.env, ask)


def _manager(
    machine: Machine, place: Place, *, system: bool, state_dir: Path | None = None
) -> tuple[Places, Manager]:
    from tallymarkd.service.install import manager_for, places_for
    from tallymarkd.service.installation import this_installation

    if place.socket:
        raise click.UsageError(
            "the socket of a service stands in its state directory; choose that with --state-dir"
        )
    given = Path(place.state_dir) if place.state_dir else None
    places = places_for(machine, system=system, state_dir=state_dir or given)
    installed = this_installation()
    return places, manager_for(machine, OsFileSystem(), installed, places, system=system)


def _tell(word: str, what: str) -> None:
    click.echo(f"{word:<{WIDTH}}{one_line(what)}")


def _show(word: str, what: str) -> None:
    head, _, text = what.partition("\n")
    click.echo(f"# {word} {one_line(head)}\n{text}" if text else f"{word} {one_line(head)}")
