"""The ``tallymark`` command. Each subcommand is a module, imported when it is used."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the ``tallymark`` command."""
    from tallymarkd.cli.root import run

    sys.exit(run(sys.argv[1:]))
