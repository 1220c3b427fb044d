"""``tallymark run``: any command as one run of an agent."""

from __future__ import annotations

import logging
from pathlib import PurePath

import click

from tallymark import Client, Run
from tallymarkd.cli.child import (
    EXIT_CANNOT_EXECUTE,
    EXIT_NOT_FOUND,
    Child,
    exit_code_of,
    signal_name,
)
from tallymarkd.cli.output import say
from tallymarkd.cli.place import Place, with_place
from tallymarkd.cli.project import chosen_project, project_option

HANDOVER_SECONDS_MAX = 1.0
"""How long the end waits for the daemon; the command has ended by then."""

EXIT_TIMED_OUT = 124
"""How timeout(1) says that it ended a command; no other is known to use it."""

SOURCE = "tallymark run"


@click.command(name="run", context_settings={"allow_interspersed_args": False})
@click.argument("command_line", nargs=-1, required=True, metavar="[--] COMMAND...")
@click.option("--agent", metavar="NAME", help="Whose run it is.  [default: the command's name]")
@click.option("--ticket", default="", metavar="TICKET", help="What it works on.")
@click.option("--model", default="", metavar="MODEL", help="The model it uses.")
@click.option(
    "--session-id",
    metavar="ID",
    help="The session it belongs to.  [default: TALLYMARK_SESSION_ID, else one of its own]",
)
@project_option
@with_place
def command(
    place: Place,
    /,
    command_line: tuple[str, ...],
    agent: str | None,
    ticket: str,
    model: str,
    session_id: str | None,
    project: str | None,
) -> int:
    """Run a command and record it as one run of an agent.

    \b
    tallymark run --agent tests --ticket AI-46 -- make test
    tallymark run -- timeout 60 ./agent.sh

    What the command records itself belongs to this run. Its streams, its
    signals and its exit code are its own (128+N when signal N ended it); 0 is
    recorded as success, 124 as timeout, another as error. Without tallymarkd
    the command runs all the same.
    """
    with _HeldBack(), Child() as child:
        client = Client(
            chosen_project(place, project),
            socket=place.explicit_socket(),
            source=SOURCE,
            exit_timeout_seconds=HANDOVER_SECONDS_MAX,
        )
        with (
            client,
            client.track_agent(
                agent or PurePath(command_line[0]).name,
                ticket_key=ticket,
                model=model,
                session_id=session_id,
            ) as run,
        ):
            return _run(child, command_line, run, {**place.env, **run.environment()})


def _run(child: Child, command_line: tuple[str, ...], run: Run, env: dict[str, str]) -> int:
    try:
        code = child.run(command_line, env)
    except OSError as error:
        cause = error.strerror or str(error)
        run.set_error(f"cannot run {command_line[0]}: {cause}")
        say(f"tallymark: cannot run {command_line[0]}: {cause}")
        return EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_CANNOT_EXECUTE
    if code < 0:
        run.set_error(f"ended by {signal_name(-code)}")
    elif code:
        run.set_error(f"exit code {code}")
    if code == EXIT_TIMED_OUT:
        run.set_status("timeout")
    return exit_code_of(code)


class _HeldBack(logging.Handler):
    """What the library warns of is told when the command has ended: stderr is the command's."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []
        self._log = logging.getLogger("tallymark")
        self._propagate = self._log.propagate

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def __enter__(self) -> None:
        self._log.addHandler(self)
        self._log.propagate = False

    def __exit__(self, *_: object) -> None:
        self._log.removeHandler(self)
        self._log.propagate = self._propagate
        for message in self._messages:
            say(f"tallymark: {message}")
