"""What commands share: how they list options, and the options of several commands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ztcir_sdk.names import (
    AUTOMATIC,
    BACKENDS,
    DEFAULT_WEIGHT,
    MAX_STRENGTH,
    PRECISIONS,
    is_milvus_address,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ztcir_sdk.bundle import Bundle
    from ztcir_sdk.retriever import Retriever
    from ztcir_sdk.settings import EngineOptions, RetrieverOptions

__all__ = [
    "VERBOSITY",
    "BundleName",
    "Command",
    "Engine",
    "Group",
    "IndexName",
    "SectionOption",
    "add_options",
    "as_json",
    "bundle_option",
    "in_section",
    "load_bundle",
    "output_option",
    "parse_columns",
    "pass_as",
    "strength_option",
    "weight_option",
    "with_engine",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

OPTIONS = "Options"
ENGINE_OPTIONS = "Engine options"


class IndexName(click.Path):
    """An index's folder, as a `Path`, or its address in Milvus, as it is."""

    def __init__(self) -> None:
        """Take any path."""
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a `Path`, or an address as text."""
        return value if is_milvus_address(value) else super().convert(value, param, ctx)


class BundleName(click.Path):
    """A bundle's folder, as a `Path`, or its name in the package or on the hub, as it is."""

    def __init__(self) -> None:
        """Take any path."""
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a `Path`, or a name as text."""
        from ztcir_sdk.bundle import embedded_names
        from ztcir_sdk.hub import HUB_PREFIX

        text = str(value)
        named = text in embedded_names() and not Path(text).is_dir()
        return text if named or text.startswith(HUB_PREFIX) else super().convert(value, param, ctx)


class SectionOption(click.Option):
    """An option that `--help` lists in a section of its own, after the others.

    Attributes:
        section: the section's heading.
    """

    def __init__(self, *args: Any, section: str, **settings: Any) -> None:
        """Take `section` beside the arguments of `click.Option`."""
        super().__init__(*args, **settings)
        self.section = section


def _choose_verbosity(ctx: click.Context, option: click.Parameter, given: bool) -> None:
    if given:
        from cli.output import choose_verbosity

        choose_verbosity(str(option.name))


VERBOSITY = [
    click.Option(
        [short, f"--{name}"],
        is_flag=True,
        expose_value=False,
        callback=_choose_verbosity,
        help=text,
    )
    for short, name, text in (
        ("-q", "quiet", "Print only results and errors."),
        ("-v", "verbose", "Log what is loaded and how long it takes."),
    )
]
"""Options of `ztcir` itself and of every command."""


class Command(click.Command):
    """A command whose `--help` lists options by section, with those that every command has."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Take the arguments of `click.Command`."""
        super().__init__(*args, **settings)
        self.params = [*self.params, *VERBOSITY]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {OPTIONS: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", OPTIONS), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Group(click.Group):
    """A group of `Command`s that suggests a name for a mistyped one."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called, and the arguments after its name."""
        name, names = args[0], self.list_commands(ctx)
        if name not in names and not name.startswith("-"):
            import difflib

            close = difflib.get_close_matches(name, names)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


def add_options(*options: Decorator) -> Decorator:
    """Return a decorator that adds several options, listed in the order of `--help`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def pass_as(build: Callable[..., Mapping[str, Any]], *options: Decorator) -> Decorator:
    """Return a decorator that adds options, and passes objects made of their values instead.

    Args:
        build: takes the options' values by name; returns the command's arguments.
        options: decorators of the options, in the order of `--help`.
    """
    listed = click.command("options")(add_options(*options)(lambda: None))
    names = [str(option.name) for option in listed.params]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def called(*args: Any, **values: Any) -> Any:
            own = {name: values.pop(name) for name in names}
            return command(*args, **build(**own), **values)

        return add_options(*options)(called)

    return decorate


def in_section(heading: str, **settings: Any) -> Callable[..., Decorator]:
    """Return `click.option` for the options of one section of `--help`."""
    return functools.partial(click.option, cls=SectionOption, section=heading, **settings)


def parse_columns(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> dict[str, str] | None:
    """Parse comma-separated ``field=column`` pairs."""
    if value is None:
        return None
    pairs = [pair.partition("=") for pair in value.split(",")]
    if not all(field.strip() and equals for field, equals, _ in pairs):
        raise click.BadParameter(
            f"{value!r} is not a list such as colour=baseColour,type=articleType."
        )
    return {field.strip(): column.strip() for field, _, column in pairs}


def output_option(*names: str, **settings: Any) -> Decorator:
    """Return the option for what a command writes: ``-o``, ``--output`` and the given names."""
    return click.option("-o", "--output", *names, **settings)


weight_option = click.option(
    "--weight",
    type=float,
    metavar="W",
    help="Weight of the text with --method sum (0: image only, 1: text only); default: the "
    f"bundle's own, else {DEFAULT_WEIGHT}.",
)
strength_option = click.option(
    "--strength",
    type=float,
    metavar="S",
    help="How much TEXT counts beside IMAGE with --method composed and stage1 (0: image only, "
    f"1: as the model gives it, up to {MAX_STRENGTH:g}: further away from the image); default: 1.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Random seed.",
)
small_option = click.option(
    "--small/--full",
    default=False,
    show_default=True,
    help="Store weights in fp16 and int8; they are rounded before the check against PyTorch.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
bundle_option = functools.partial(
    click.option,
    "--bundle",
    type=BundleName(),
    metavar="FOLDER",
    help="Bundle to use: a folder, or hf://org/repo; default: the one inside the package.",
)
_engine_option = in_section(ENGINE_OPTIONS)


@dataclass(frozen=True)
class Engine:
    """The values of the options of `with_engine`."""

    bundle: Path | str | None
    """A bundle's folder or name; None for the one inside the package."""
    options: EngineOptions

    def load_bundle(self) -> Bundle:
        """Load the bundle."""
        return load_bundle(self.bundle)

    def retriever(self, **more: Unpack[RetrieverOptions]) -> Retriever:
        """Create a retriever with these options, and more."""
        from ztcir_sdk.retriever import Retriever

        options: RetrieverOptions = {**self.options, **more}
        return Retriever(self.load_bundle(), **options)


with_engine = pass_as(
    lambda bundle, **options: {"engine": Engine(bundle, cast("EngineOptions", options))},
    bundle_option(cls=SectionOption, section=ENGINE_OPTIONS),
    _engine_option(
        "--backend",
        type=click.Choice(BACKENDS),
        default=AUTOMATIC,
        show_default=True,
        help="ONNX Runtime, its TensorRT provider, or TensorRT itself; auto uses TensorRT on a "
        "GPU that `ztcir export --trt` has built engines for, else ONNX Runtime.",
    ),
    _engine_option(
        "--device",
        default=AUTOMATIC,
        show_default=True,
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N, openvino, coreml, directml or qnn.",
    ),
    _engine_option(
        "--precision",
        metavar="|".join(PRECISIONS),
        help="Precision of the graphs; default: fp32, or int8 where the export chose it.",
    ),
    _engine_option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="CPU threads; default: one per available core.",
    ),
    _engine_option(
        "--gpu-memory",
        "gpu_memory_mb",
        type=click.IntRange(min=1),
        metavar="MB",
        help="GPU memory limit of each graph, in MiB; default: no limit.",
    ),
    _engine_option(
        "--run-timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Time limit of one run of a graph with ONNX Runtime; default: none.",
    ),
    _engine_option("--low-memory", is_flag=True, help="Release memory after every run; slower."),
)
"""Adds the options for the bundle and for how it is run; passes them as `engine`. An option has the
name of the keyword of `EngineOptions` that it sets."""


def load_bundle(name: Path | str | None) -> Bundle:
    """Load a bundle by its folder or its name; None is the one inside the package."""
    from ztcir_sdk.bundle import Bundle
    from ztcir_sdk.hub import load_model

    return Bundle.embedded() if name is None else load_model(name)
