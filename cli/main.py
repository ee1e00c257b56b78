"""The command `ztcir`: a group whose commands are imported when they are run."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import click

from cli.options import VERBOSITY, Group
from cli.output import is_quiet, printable, set_verbosity
from ztcir_sdk.command import OWN_PACKAGES, hidden_package
from ztcir_sdk.errors import EXTRAS, ZtcirError, disk_full_as_error, install_hint
from ztcir_sdk.version import __version__

__all__ = ["main"]


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is, and its line in the list of commands."""

    location: str
    """"module:object"."""
    summary: str
    packages: tuple[str, ...] = ()
    """The packages of this project, beside `ztcir_sdk`, that it cannot do without."""

    def load(self) -> click.Command:
        """Import the command.

        Raises:
            ZtcirError: another file hides one of its packages.
        """
        for package in self.packages:
            if (sentence := hidden_package(package)) is not None:
                raise ZtcirError(sentence)
        module, _, name = self.location.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


COMMANDS: Mapping[str, LazyCommand] = {
    "demo": LazyCommand("cli.demo:demo", "Draw a small gallery, index it and search it."),
    "index": LazyCommand("cli.indexing.index:index", "Build or update an index of images."),
    "embed": LazyCommand("cli.indexing.embed:embed", "Encode images to Parquet files, in shards."),
    "search": LazyCommand("cli.search:search", "Find images similar to one, modified by a text."),
    "serve": LazyCommand("cli.serve:serve", "Serve a web page and an HTTP API to search with."),
    "doctor": LazyCommand("cli.doctor:doctor", "Check what runs on this machine."),
    "bench": LazyCommand("cli.bench:bench", "Measure latency and throughput on this machine."),
    "eval": LazyCommand("cli.eval:evaluate", "Measure retrieval quality."),
    "triplets": LazyCommand(
        "cli.triplets:triplets", "Synthesise triplets for Stage II.", ("train",)
    ),
    "train": LazyCommand("cli.train:train", "Train the two stages, or a small CLIP.", ("train",)),
    "adapt": LazyCommand(
        "cli.export.adapt:adapt",
        "Adapt a model to your photos: one command, no captions.",
        ("train",),
    ),
    "export": LazyCommand("cli.export:export", "Export a bundle, or build its TensorRT engines."),
    "completion": LazyCommand("cli.help:completion", "Print the completion of a shell."),
    "models": LazyCommand("cli.hub.models:models", "List, download, remove and upload models."),
    "help": LazyCommand("cli.help:show_help", "Show the help of a command."),
}


class LazyGroup(Group):
    """A group that knows its commands' names and summaries without importing them."""

    def make_context(self, *args: Any, **settings: Any) -> click.Context:
        """Start a call, with the messages that it prints by default."""
        set_verbosity(quiet=False, verbose=False)
        return super().make_context(*args, **settings)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which a user first needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        known = COMMANDS.get(cmd_name)
        return None if known is None else known.load()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error that the user can cause becomes one sentence."""
        _require_current_folder()
        with _one_line_warnings():
            try:
                with disk_full_as_error():
                    return super().invoke(ctx)
            except KeyboardInterrupt:
                click.echo("\nInterrupted.", err=True)
                raise click.exceptions.Exit(130) from None
            except ModuleNotFoundError as error:
                if (sentence := _missing_package(error)) is None:
                    raise
                raise click.ClickException(sentence) from error
            except ZtcirError as error:
                click.echo(f"Error: {printable(str(error))}", err=True)
                raise click.exceptions.Exit(error.exit_code) from error


def _require_current_folder() -> None:
    """Refuse to work where relative paths mean nothing."""
    try:
        os.getcwd()  # noqa: PTH109  (Path.cwd() hides which call failed)
    except FileNotFoundError as error:
        raise click.ClickException(
            "The current folder no longer exists: change to another one, for example with `cd`."
        ) from error


def _missing_package(error: ModuleNotFoundError) -> str | None:
    """Return why a package is missing and how to get it; None if that is not the user's doing."""
    package = (error.name or "").partition(".")[0]
    if package in OWN_PACKAGES:
        return hidden_package(package)
    if package in EXTRAS:
        return f"This command needs the package {package}: {install_hint(EXTRAS[package])}."
    return None


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show a warning as its sentence, without the source line that raised it."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        # Pillow's warnings do not say which file they are about.
        decoding = sys.modules.get("ztcir_sdk.decoding")
        name = decoding.file_being_decoded() if decoding is not None else ""
        about = f"{name}: " if name and name not in str(message) else ""
        if not is_quiet():
            click.echo(printable(f"Warning: {about}{message}"), file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"PIL\.")  # once for each file, not once for all
        warnings.showwarning = show
        yield


@click.group(
    cls=LazyGroup,
    params=[*VERBOSITY],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(
    __version__, "-V", "--version", prog_name="ztcir", message="%(prog)s %(version)s"
)
def main() -> None:
    """Composed image retrieval: search images by an image and a text.

    \b
    Examples:
      ztcir demo
      ztcir index photos/
      ztcir search ref.jpg "make it red"
      ztcir --quiet index photos/
    """


if __name__ == "__main__":
    main(prog_name="ztcir")
