"""`ztcir help` and `ztcir completion`: what there is to type."""

from __future__ import annotations

import click

from cli.options import Command


@click.command("help", cls=Command)
@click.argument("names", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def show_help(context: click.Context, names: tuple[str, ...]) -> None:
    """Show the help of COMMAND; without one, list all commands.

    \b
    Examples:
      ztcir help search
      ztcir help eval cirr
    """
    context = context.find_root()
    for name in names:
        if not isinstance(context.command, click.Group):
            raise click.UsageError(f"{context.command_path!r} has no commands of its own.")
        _, command, _ = context.command.resolve_command(context, [name])
        assert command is not None
        context = click.Context(command, parent=context, info_name=name)
    click.echo(context.get_help())


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands and options in SHELL.

    Add the line for your shell to its start-up file:

    \b
      bash (~/.bashrc)  eval "$(ztcir completion bash)"
      zsh (~/.zshrc)    eval "$(ztcir completion zsh)"
      fish              ztcir completion fish > ~/.config/fish/completions/ztcir.fish

    \b
    Examples:
      ztcir completion bash
      ztcir completion fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "ztcir", "_ZTCIR_COMPLETE").source())
