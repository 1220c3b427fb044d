"""``tallymark import``: record what other tools wrote down."""

from __future__ import annotations

import importlib

import click

SOURCES = {"claude-code": "Transcripts of Claude Code."}
"""What can be imported. ``a-b`` is ``command`` in ``cli/import_a_b.py``."""


class Sources(click.Group):
    """Imports a source's command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SOURCES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in SOURCES:
            return None
        module = importlib.import_module(f"tallymarkd.cli.import_{name.replace('-', '_')}")
        found: click.Command = module.command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Sources"):
            formatter.write_dl(list(SOURCES.items()))


command = Sources(
    name="import",
    help="Record what other tools wrote down. Importing again counts nothing twice.",
    subcommand_metavar="SOURCE [ARGS]...",
    # The whole help would not be one line that says what is wrong.
    no_args_is_help=False,
)
