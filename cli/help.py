"""`ztcir help`: what `--help` shows, for those who look for it here."""

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
