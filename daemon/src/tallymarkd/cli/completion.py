"""``tallymark completion``: a script that completes commands in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from tallymarkd.cli.root import COMPLETE_VARIABLE, root


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print a script that completes commands in a shell.

    \b
    bash:  eval "$(tallymark completion bash)"        in ~/.bashrc
    zsh:   eval "$(tallymark completion zsh)"         in ~/.zshrc
    fish:  tallymark completion fish > ~/.config/fish/completions/tallymark.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "tallymark", COMPLETE_VARIABLE).source())
    return 0
