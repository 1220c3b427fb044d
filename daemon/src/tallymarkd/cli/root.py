"""The command itself: its subcommands, its global options, its exit codes.

0 well; 1 found or failed; 2 usage (for ``health``: failing or unreachable);
130 interrupted; 141 nobody read on.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from tallymark.errors import TallymarkError, UsageError
from tallymarkd._version import __version__
from tallymarkd.cli.output import say
from tallymarkd.cli.place import Place, json_option, place_options
from tallymarkd.streams import give_up, print_failed, provide_streams
from tallymarkd.text import one_line, short_quotes

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

COMPLETE_VARIABLE = "_TALLYMARK_COMPLETE"

COMMANDS = {
    "status": "Is tallymarkd running, since when, how well.",
    "health": "What is wrong, and what to do about it.",
    "dump": "The whole state of a project, as JSON.",
    "emit": "Record one event, or a line of JSON each from stdin.",
    "run": "Run a command and record it as one run of an agent.",
    "import": "Record what other tools wrote down.",
    "verify": "What in a state directory is whole, torn, corrupt or lost.",
    "repair": "Settle a state directory as the daemon's start would.",
    "service": "Install tallymarkd as a service of systemd or launchd.",
    "backup": "Copy everything, also while tallymarkd runs.",
    "restore": "Make a state directory out of a backup.",
    "completion": "Print a script that completes commands in a shell.",
}
"""Subcommands, in the order of the help. ``x`` is ``command`` in ``cli/x.py``."""

MODULES = {"import": "import_"}
"""Where a module cannot have its command's name."""

EPILOG = """Reading works without tallymarkd too: then the last durable state is shown.

Completion: add to ~/.bashrc or ~/.zshrc the line
eval "$(tallymark completion bash)" or eval "$(tallymark completion zsh)";
for fish: tallymark completion fish > ~/.config/fish/completions/tallymark.fish"""


class LazyGroup(click.Group):
    """A group that imports a subcommand only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"tallymarkd.cli.{MODULES.get(name, name)}")
        found: click.Command = module.command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    name="tallymark",
    invoke_without_command=True,
    epilog=EPILOG.replace("\n\n", "\n\n\b\n"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@place_options
@json_option
@click.option("every_agent", "--all", is_flag=True, help="The numbers of every agent.")
@click.option("--project", metavar="NAME", help="The numbers of this project alone.")
@click.version_option(__version__, message="tallymark %(version)s")
@click.pass_context
def root(
    ctx: click.Context,
    state_dir: str | None,
    socket: str | None,
    as_json: bool,
    every_agent: bool,
    project: str | None,
) -> int:
    """Show what the agents on this machine did. Alone: the numbers on one screen."""
    place = Place(state_dir, socket, as_json, os.environ)
    ctx.obj = place
    command = ctx.invoked_subcommand
    if command is None:
        from tallymarkd.cli.numbers import show_numbers

        return show_numbers(place, every_agent=every_agent, project=project)
    if every_agent or project is not None:
        option = "--all" if every_agent else "--project"
        raise click.UsageError(
            f"{option} before {command} is understood only for the numbers, without a command"
        )
    return 0


def run(args: Sequence[str]) -> int:
    """Run the command; gives its exit code. What fails is told on stderr: in one line, or in
    more where the error has notes."""
    provide_streams()
    try:
        code = _run(list(args))
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _fail(_click_text(error), EXIT_USAGE)
    except UsageError as error:
        return _fail(str(error), EXIT_USAGE)
    except BrokenPipeError:
        give_up(sys.stdout)
        return EXIT_BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except TallymarkError as error:
        return _fail(str(error), EXIT_FAILED, getattr(error, "__notes__", ()))
    except OSError as error:
        if print_failed():
            return _fail(f"cannot print: {error.strerror or error}", EXIT_FAILED)
        place = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{place}{error.strerror or error}", EXIT_FAILED)


def _run(args: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the command.
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, "tallymark", COMPLETE_VARIABLE, instruction)
    with root.make_context("tallymark", args) as ctx:
        result = root.invoke(ctx)
    return result if isinstance(result, int) else 0


def _fail(text: str, code: int, notes: Sequence[str] = ()) -> int:
    text = one_line(text)
    if not text.startswith("cannot "):
        text = f"cannot go on: {text}"
    say(f"tallymark: {text}")
    for note in notes:
        say(f"  {note}")
    return code


def _click_text(error: click.ClickException) -> str:
    # click lists choices on lines of their own.
    text = short_quotes(" ".join(error.format_message().split())).rstrip(".")
    ctx = getattr(error, "ctx", None)
    command = ctx.command_path if ctx is not None else "tallymark"
    return f"cannot run: {text[:1].lower()}{text[1:]}; {command} --help says what is right"
