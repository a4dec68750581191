"""`ktool completion`"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the shell's completion script.

    \b
    bash:  source <(ktool completion bash)      (in ~/.bashrc to keep it)
    zsh:   source <(ktool completion zsh)
    fish:  ktool completion fish | source
    """
    found = get_completion_class(shell)
    assert found is not None
    root = ctx.find_root().command
    click.echo(found(root, {}, "ktool", "_KTOOL_COMPLETE").source())
