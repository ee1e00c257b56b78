"""Documents are held to the code: what they say to type parses, what they show runs."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image
from tiny_bundle import TinyModel, write_tiny_bundle

from benchmarks.readme import REGIONS
from cli.main import main
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import EXTRAS
from ztcir_sdk.names import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
DOCUMENTS = [
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "examples")
    for path in sorted(folder.glob("*.md"))
]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def blocks(document: Path, language: str) -> list[str]:
    """Blocks of code in a language."""
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def typed_lines(document: Path) -> Iterator[list[str]]:
    """Each command that a document's shell blocks say to type, in words."""
    shown = [(False, block) for block in blocks(document, "(?:bash|sh)")]
    shown += [(True, block) for block in blocks(document, "console")]
    for has_output, block in shown:
        joined = re.sub(r"\\\n\s*", "", block)
        for line in joined.splitlines():
            if has_output and not line.startswith("$ "):
                continue
            words = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if set(word) <= set("|&;<>"):
                    if command:
                        yield command
                    command = []
                else:
                    command.append(word)


def all_commands(
    command: click.Command = main, path: tuple[str, ...] = ("ztcir",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below `ztcir` that does something, with its words."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from all_commands(below, (*path, name))


COMMANDS = dict(all_commands())


def parse(command: click.Command, words: list[str], name: str = "ztcir") -> None:
    """Parse a command line by click's own parser, without running the command.

    Raises:
        click.UsageError: it is no call of the command.
    """
    context = None
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        context = click.Context(command, parent=context, info_name=name)
        below = command.get_command(context, words[0])
        if below is None:
            raise click.UsageError(f"There is no command {words[0]}.")
        command, name, words = below, words[0], words[1:]
    command.make_context(name, list(words), parent=context)


@pytest.fixture(autouse=True)
def any_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that examples name need not be here."""
    monkeypatch.setattr(
        click.Path, "convert", lambda self, value, *where: self.coerce_path_result(value)
    )


TYPED = [(name_of(document), line) for document in DOCUMENTS for line in typed_lines(document)]
OUR_LINES = [(name, line) for name, line in TYPED if line[0] == "ztcir"]


def test_the_readme_says_what_to_type() -> None:
    """Guards the tests below against finding nothing."""
    said = {" ".join(line[:2]) for name, line in OUR_LINES if name == "README.md"}
    assert {"ztcir demo", "ztcir index", "ztcir search", "ztcir train", "ztcir export"} <= said
    assert len(blocks(ROOT / "README.md", "python")) >= 2


@pytest.mark.parametrize(
    "line", [pytest.param(line, id=f"{name}: {shlex.join(line)}") for name, line in OUR_LINES]
)
def test_a_line_that_is_typed_parses(line: list[str]) -> None:
    parse(main, line[1:])


@pytest.mark.parametrize(
    "line",
    [
        ["search", "ref.jpg", "red", "--grip", "x.png"],
        ["serach", "ref.jpg"],
        ["search", "--index"],
        ["train", "mop", "--data", "x.tar"],
        ["search", "ref.jpg", "red", "-k", "many"],
    ],
)
def test_a_line_that_is_wrong_does_not_parse(line: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(main, line)


def test_every_command_stands_in_the_readme() -> None:
    named: set[tuple[str, ...]] = set()
    for cell in re.findall(r"^\| (`ztcir [a-z]+.*?) \|", README, re.MULTILINE):
        first, *others = (tuple(quoted.split()) for quoted in re.findall(r"`(.+?)`", cell))
        named |= {first, *((*first[:-1], *other) for other in others)}
    assert named == set(COMMANDS)


def test_commands_and_options_that_documents_mention_exist() -> None:
    """In running text, where a whole line is not given: `ztcir eval triplets`, `--grid`."""
    known = {option for command in COMMANDS.values() for option in options_of(command)}
    known |= {"--help", "--version", "--quiet", "--verbose"}
    groups = {path[:length] for path in COMMANDS for length in range(1, len(path) + 1)}
    wrong = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for quoted in re.findall(r"`([^`\n]+)`", prose):
            words = quoted.split()
            if words[0] == "ztcir" and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
                names = tuple(word for word in words[:3] if re.fullmatch(r"[a-z]+", word))
                if not any(names[:length] in groups for length in (2, 3)):
                    wrong.append(f"{name_of(document)}: {quoted}")
            if words[0] == "ztcir" or words[0].startswith("--"):
                options = re.findall(r"(?<!\S)--[a-z][a-z-]*", quoted)
                wrong += [f"{name_of(document)}: {o}" for o in options if o not in known]
    assert wrong == []


def options_of(command: click.Command) -> set[str]:
    options: set[str] = set()
    for parameter in command.get_params(click.Context(command)):
        if isinstance(parameter, click.Option):
            options |= {*parameter.opts, *parameter.secondary_opts}
    return options


def test_the_line_that_rebuilds_the_default_bundle_parses() -> None:
    pytest.importorskip("torch", reason="the default bundle is made by the train extra")
    [line] = [line for name, line in TYPED if line[:3] == ["python", "-m", "export.default"]]
    command = importlib.import_module("export.default").main
    parse(command, line[3:], name="export.default")


# --- the two commands ----------------------------------------------------------------------------


def run_of_ci(name: str) -> str:
    done = subprocess.run(
        [ROOT / ".ci" / "run", "command", name], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.skipif(os.name == "nt", reason="the check is a shell script")
def test_the_check_runs_the_readmes_own_commands() -> None:
    marked = dict(re.findall(r"^<!-- command: (\w+) -->\n```bash\n(.*?)^```$", README, re.M | re.S))
    assert set(marked) == {"demo", "test", "tour"}
    for name, text in marked.items():
        assert run_of_ci(name) == text
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for name in marked:
        assert re.search(rf"^ +(?:{{ time )?as_typed {name}\b", script, re.MULTILINE), name
    # one line each, to be copied
    assert [marked[name].count("\n") for name in ("demo", "test")] == [1, 1]
    assert marked["demo"] == "pip install '.[cpu]' && ztcir demo\n"
    assert marked["test"].startswith("pip install ")
    assert "pytest" in marked["test"]


@pytest.mark.skipif(os.name == "nt", reason="the check is a shell script")
@pytest.mark.parametrize("arguments", [["command", "nonsense"], ["nonsense"]])
def test_the_check_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    done = subprocess.run([ROOT / ".ci" / "run", *arguments], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr


def test_extras_that_are_named_exist() -> None:
    section = re.search(
        r"^\[project.optional-dependencies\]\n(.*?)^\[", PROJECT, re.MULTILINE | re.DOTALL
    )
    assert section is not None
    extras = set(re.findall(r"^([a-z-]+) = \[", section[1], re.MULTILINE))
    assert {"cpu", "gpu", "trt", "trt-rtx", "train", "dev"} <= extras
    [table] = re.findall(r"^\| extra .*?\n\n", README, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(.+?)`", " ".join(rows))) == sorted(extras)
    named: set[str] = {*EXTRAS.values()}
    sources = [p for room in ("cli", "ztcir_sdk", "train", "export") for p in python_files(room)]
    for file in [*DOCUMENTS, *sources]:
        for found in re.findall(r"(?:ztcir|\.)\[([a-z,-]+)\]", file.read_text(encoding="utf-8")):
            named |= set(found.split(","))
    assert named <= extras


def python_files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


# --- links, tables and Python --------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        if not ((document.parent / path).exists() if path else anchor in anchors):
            lost.append(target)
    assert lost == []


def test_the_readme_is_read_in_minutes() -> None:
    assert len(README.splitlines()) <= 200


def test_every_measurement_is_in_the_figures() -> None:
    """That it is what a command wrote is checked by `python -m benchmarks.readme --check`."""
    rows = {}
    for name, (file, *_) in REGIONS.items():
        if not (ROOT / "benchmarks" / "results" / file).is_file():
            continue  # not measured yet, and then `--check` refuses any figure there
        [inside] = re.findall(rf"^<!-- {name} -->\n(.*?)^<!-- /{name} -->$", FIGURES, re.M | re.S)
        rows[name] = re.findall(r"^\| *`?([\w-]+)`?.*\d.* \|$", inside, re.MULTILINE)
    assert {*METHODS, "oracle"} <= set(rows["quality"])
    assert min(len(found) for found in rows.values()) > 1  # more than the head of a table


def test_the_figures_say_what_unseen_wordings_cost() -> None:
    """The figures of the default bundle's own card, and no more than a tenth lost."""
    card = Bundle.embedded().manifest.model_card["quality"]["development"]
    seen, unseen = card["dev_mAP@10"], card["dev_unseen_wordings_mAP@10"]
    assert unseen >= 0.9 * seen
    said = (
        f"{seen:.3f} in wordings that were trained on, requests as people type them among them, "
        f"and {unseen:.3f} in whole phrasings that never were."
    )
    assert said in " ".join(FIGURES.split())


def test_the_training_guide_says_how_long_both_stages_took() -> None:
    """As the default bundle's own card has it, and under an hour."""
    cost = Bundle.embedded().manifest.model_card["cost"]
    minutes = (cost["map_seconds"] + cost["compose_seconds"]) / 60
    assert minutes < 60
    machine = f"{cost['machine']['cpu']}, {cost['machine']['threads']} threads"
    said = f"Stage I and II took {minutes:.0f} minutes of them, from cached features ({machine},"
    assert said in " ".join(TRAINING.split())


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder as in the examples, and a tiny model in place of the default one."""
    (tmp_path / "photos").mkdir()
    for place, name in enumerate(["ref.jpg", "photos/ref.jpg", "photos/other.jpg"]):
        colour = (40 + 90 * place, 200 - 60 * place, 90)
        Image.new("RGB", (24, 16), colour).save(tmp_path / name)
    bundle = write_tiny_bundle(tmp_path / "tiny", TinyModel())
    monkeypatch.setattr(
        Retriever, "from_pretrained", classmethod(lambda cls: Retriever(bundle, threads=1))
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", range(len(blocks(ROOT / "README.md", "python"))))
def test_python_of_the_readme_runs(
    place: int, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = blocks(ROOT / "README.md", "python")[place]
    namespace: dict[str, Any] = {"__name__": "shown"}
    exec(compile(code, "shown.py", "exec"), namespace)
    assert capsys.readouterr().out.strip() != ""  # each shows a result


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_python_that_is_shown_imports_what_exists(document: Path) -> None:
    """Elsewhere it may need a device or a server, so there its imports alone are tried."""
    ours = ("ztcir_sdk", "train", "export", "cli", "benchmarks")
    imports = [
        node
        for code in blocks(document, "python")
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ours
    ]
    for node in imports:
        module = importlib.import_module(str(node.module))
        assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def test_checks_that_documents_name_exist() -> None:
    sessions = {
        node.name
        for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    files = [*DOCUMENTS, ROOT / "mkdocs.yml", ROOT / "pyproject.toml"]
    texts = [file.read_text(encoding="utf-8") for file in files]
    named = {name for text in texts for name in re.findall(r"nox -s (\w+)", text)}
    assert {"quick", "docs"} <= named <= sessions


def test_modules_that_are_run_exist() -> None:
    modules = {line[2] for _, line in TYPED if line[:2] in (["python", "-m"], ["python3", "-m"])}
    modules |= set(re.findall(r"`python -m ([\w.]+)", README))
    assert "export.default" in modules
    for module in modules:
        if module.partition(".")[0] in sys.stdlib_module_names:
            continue
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
