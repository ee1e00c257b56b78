"""The examples in the help of every command: each command has some, and they run."""

from __future__ import annotations

import functools
import inspect
import json
import shlex
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_bundle import write_tiny_bundle

from cli.main import main
from ztcir_sdk import benchmark, demo
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.drawings.drawings import demo_gallery

RUN = tuple(
    f"ztcir {name}"
    for name in ("demo", "index", "search", "doctor", "bench", "embed", "help", "eval triplets")
)
"""Commands that are run for real; of the others the arguments are parsed."""


def commands(command: click.Command, name: str = "ztcir") -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for part in command.list_commands(context):
            below = command.get_command(context, part)
            assert below is not None
            yield from commands(below, f"{name} {part}")


def examples(command: click.Command) -> list[str]:
    """Return the lines under "Examples:" in a command's help."""
    _, _, block = inspect.cleandoc(command.help or "").partition("\b\nExamples:\n")
    lines = block.partition("\n\n")[0].splitlines()
    assert all(line.startswith("  ztcir ") for line in lines), lines
    return [line.strip() for line in lines]


COMMANDS = dict(commands(main))
EXAMPLES = list(dict.fromkeys(line for one in COMMANDS.values() for line in examples(one)))


def test_every_command_has_examples_of_itself() -> None:
    missing = set()
    for name, command in COMMANDS.items():
        own = examples(command)
        assert all(line == name or line.startswith(f"{name} ") for line in own), own
        if not own:
            missing.add(name)
    assert missing == set()


def test_examples_fit_80_columns() -> None:
    assert [line for line in EXAMPLES if len(line) > 76] == []  # the help indents them by 4


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    for number in range(6):
        colour = (40 * number, 255 - 40 * number, 90 * (number % 3))
        Image.new("RGB", (24, 16), colour).save(folder / "photos" / f"{number}.jpg")
    shutil.copy(folder / "photos" / "3.jpg", folder / "ref.jpg")
    shutil.copy(folder / "photos" / "4.jpg", folder / "other.jpg")
    (folder / "queries.csv").write_text("id,image,text\na,ref.jpg,make it red\nb,,a dress\n")
    shutil.copytree(folder / "photos", folder / "moved" / "photos")
    (folder / "scans").mkdir()
    Image.new("RGB", (24, 16), "teal").save(folder / "scans" / "scan.jpg")
    attributes = folder / "attributes.json"
    attributes.write_text('{"gender": "Women", "articleType": "Dress", "baseColour": "Red"}')
    (folder / "shards").mkdir()
    for shard in range(2):
        name = f"val-{shard:04}.tar"
        with tarfile.open(folder / name, "w") as archive:
            for number in range(3 * shard, 3 * shard + 3):
                archive.add(folder / "photos" / f"{number}.jpg", f"{number}.jpg")
                archive.add(attributes, f"{number}.json")
        shutil.copy(folder / name, folder / "shards" / name)
    query = {"id": "a", "kind": "colour", "reference": "1", "text": "in red", "targets": ["4"]}
    (folder / "queries.jsonl").write_text(json.dumps(query) + "\n")
    (folder / "runs" / "compose").mkdir(parents=True)
    write_tiny_bundle(folder / "my-bundle")
    return folder


@pytest.fixture
def place(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder as the current one, with an index, and a tiny bundle as the default."""
    here = tmp_path / "here"
    shutil.copytree(material, here)
    monkeypatch.chdir(here)
    monkeypatch.delenv("ZTCIR_INDEX", raising=False)
    monkeypatch.setattr(Bundle, "embedded", lambda *_, **__: Bundle.load(here / "my-bundle"))
    monkeypatch.setattr("cli.serve.serve_index", lambda *_, **__: None)  # it would never end
    monkeypatch.setattr("cli.demo.MIN_PRECISION", 0.0)  # a tiny bundle finds by chance
    monkeypatch.setattr(demo, "demo_gallery", lambda: demo_gallery(per_combination=1))
    small = functools.partial(benchmark.BenchmarkSettings, gallery=50, pictures=8, seconds=0.2)
    monkeypatch.setattr(benchmark, "BenchmarkSettings", small)
    return here


def run(line: str) -> None:
    result = CliRunner().invoke(main, shlex.split(line)[1:])
    assert result.exit_code == 0, (result.output, result.exception)


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line.startswith(RUN)])
def test_an_example_runs(place: Path, line: str) -> None:
    if line.startswith(("ztcir search", "ztcir index photos.ztcir")) or "--add" in line:
        run("ztcir index photos/")
    if "--root" in line:
        run("ztcir index photos/")
    run(line)


@pytest.mark.parametrize("line", [line for line in EXAMPLES if not line.startswith(RUN)])
def test_an_example_is_parsed(place: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Callable[..., object] | None] = []
    for command in COMMANDS.values():
        if command.callback is not None and not isinstance(command, click.Group):
            own = command.callback
            stub = functools.partial(lambda own, *args, **values: called.append(own), own)
            monkeypatch.setattr(command, "callback", stub)
    run(line)
    assert len(called) == (0 if "--download-help" in line else 1)  # that option exits before
