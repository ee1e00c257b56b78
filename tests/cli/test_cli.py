"""The command line: its output, exit codes and errors."""

from __future__ import annotations

import base64
import errno
import functools
import html
import importlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import types
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from places import ROOT
from tiny_bundle import TinyModel, write_tiny_bundle

from cli.main import COMMANDS, LazyCommand, main
from ztcir_sdk import Bundle, Retriever, benchmark
from ztcir_sdk.environment import list_gpus
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.names import METHODS
from ztcir_sdk.version import __version__


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="ztcir")


def run_for_real(
    *args: object, code: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run in another process; `code` runs before the command."""
    start = ["-m", "cli"] if code is None else ["-c", f"{code}\nfrom cli.main import main; main()"]
    return subprocess.run(
        [sys.executable, *start, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        **options,
    )


def assert_sentence(result: Result, exit_code: int, *parts: str) -> None:
    """Assert a failure with one sentence on standard error and nothing on standard output."""
    assert result.exit_code == exit_code, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    for part in parts:
        assert part in last


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, each of another colour."""
    folder = tmp_path_factory.mktemp("collection") / "photos"
    folder.mkdir()
    for number in range(12):
        colour = (20 * number, 255 - 20 * number, 60 + 90 * (number % 3))
        Image.new("RGB", (24, 16), colour).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def place(tmp_path: Path, collection: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ``photos/`` and no index."""
    shutil.copytree(collection, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZTCIR_INDEX", raising=False)
    return tmp_path


@pytest.fixture
def indexed(place: Path, bundle: Path) -> Path:
    assert run("index", "photos", "--bundle", bundle).exit_code == 0
    return place


# the group


def test_help_and_version_load_nothing_heavy() -> None:
    heavy = ["numpy", "onnxruntime", "torch", "PIL", "rich", "hnswlib", "tokenizers"]
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([m for m in {heavy} if m in sys.modules]))"
    )
    for option in ("--help", "--version"):
        done = run_for_real(option, code=code)
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1] == "[]", option


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version_is_that_of_the_package(option: str) -> None:
    assert run(option).stdout == f"ztcir {__version__}\n"


@pytest.mark.parametrize("names", [(), ("search",), ("eval",), ("eval", "cirr")])
def test_help_shows_what_the_option_help_shows(names: tuple[str, ...]) -> None:
    shown = run("help", *names)
    assert shown.exit_code == 0
    assert shown.stdout == run(*names, "--help").stdout


def test_help_of_an_unknown_command_is_a_wrong_call() -> None:
    assert_sentence(run("help", "serach"), 2, "'serach'", "Did you mean 'search'?")
    assert_sentence(run("help", "search", "cirr"), 2, "'ztcir search' has no commands")


def test_help_fits_80_columns_with_the_engine_options_last() -> None:
    lines = run("search", "--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options:", "Engine options:"]
    assert lines[lines.index("Options:") + 1].startswith("  -k, --top N ")  # no arguments here
    engine = lines[lines.index("Engine options:") + 1 :]
    options = [line.split()[0] for line in engine if line.startswith("  -")]
    assert options == [
        *("--bundle", "--backend", "--device", "--precision"),
        *("--threads", "--gpu-memory", "--run-timeout", "--low-memory"),
    ]


def commands(
    command: click.Command, path: tuple[str, ...] = ("ztcir",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


def test_every_command_and_option_has_help() -> None:
    silent = []
    for path, command in commands(main):
        if not (command.help or "").strip():
            silent.append(" ".join(path))
        for parameter in command.get_params(click.Context(command)):
            if isinstance(parameter, click.Option) and not (parameter.help or "").strip():
                silent.append(" ".join((*path, *parameter.opts)))
    assert silent == []


def test_commands_have_the_names_and_summaries_of_the_group() -> None:
    for name, lazy in COMMANDS.items():
        assert lazy.load().name == name
    listed = run("--help").stdout
    for name, lazy in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(lazy.summary)}$", listed, re.MULTILINE)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["serach"], "'search'"),
        (["eval", "cicro"], "'circo'"),
        (["search", "ref.jpg", "--indx", "x"], "'--index'"),
        (["bench", "--thread", "2"], "'--threads'"),
    ],
)
def test_a_mistyped_name_gets_a_suggestion(typed: list[str], meant: str) -> None:
    assert_sentence(run(*typed), 2, "No such", meant)


def test_a_name_like_no_command_gets_no_suggestion() -> None:
    assert run("quux").stderr.endswith("No such command 'quux'.\n")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], Result]:
    """Run a command that raises."""

    def fail(error: BaseException) -> Result:
        @click.command()
        def broken() -> None:
            raise error

        monkeypatch.setattr(LazyCommand, "load", lambda self: broken)
        return run("search")

    return fail


def test_errors_become_sentences(failing: Callable[[BaseException], Result]) -> None:
    assert_sentence(failing(ZtcirError("It is broken.")), 1, "It is broken.")
    assert_sentence(failing(UsageError("Call it so.")), 2, "Call it so.")
    missing = ModuleNotFoundError("No module named 'open_clip.factory'", name="open_clip.factory")
    assert_sentence(failing(missing), 1, "open_clip", "pip install", "ztcir[train]")


def test_a_defect_of_ztcir_keeps_its_traceback(
    failing: Callable[[BaseException], Result],
) -> None:
    for error in (RuntimeError("a bug"), ModuleNotFoundError("no", name="ztcir_sdk.nowhere")):
        assert failing(error).exception is error


def test_a_full_disk_becomes_a_sentence(
    failing: Callable[[BaseException], Result],
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/map/log.jsonl")
    assert_sentence(failing(full), 1, "No space left", "runs/map/log.jsonl", "Free some space")
    other = failing(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    assert isinstance(other.exception, OSError)


def test_an_interrupt_exits_with_130_and_no_traceback(
    failing: Callable[[BaseException], Result],
) -> None:
    result = failing(KeyboardInterrupt())
    assert result.exit_code == 130
    assert "Interrupted." in result.stderr
    assert result.stdout == ""


def test_a_missing_runtime_or_torch_names_the_extra(place: Path, bundle: Path) -> None:
    without = "import sys; sys.modules[{!r}] = None"
    done = run_for_real("index", "photos", "--bundle", bundle, code=without.format("onnxruntime"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "ztcir[cpu]" in done.stderr
    assert "Traceback" not in done.stderr
    train = ["train", "backbone", "--data", "none.tar", "--out", place / "run"]
    done = run_for_real(*train, code=without.format("torch"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "ztcir[train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_prints_no_traceback(indexed: Path, bundle: Path) -> None:
    command = [sys.executable, "-m", "cli", "search", "photos/01.png", "x", "--bundle", str(bundle)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `| head -0` does
        stderr = process.stderr.read()
        process.wait(timeout=60)
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr


def test_warnings_are_one_line(indexed: Path, bundle: Path) -> None:
    done = run_for_real("search", "photos/01.png", "red " * 60, "--bundle", bundle, "--json")
    assert done.returncode == 0
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Warning: A text of ")
    assert ".py" not in lines[0]


def test_a_command_restores_the_display_of_warnings() -> None:
    before = warnings.showwarning
    run("doctor", "--json")
    assert warnings.showwarning is before


# index


def test_index_is_named_after_the_source(place: Path, bundle: Path) -> None:
    result = run("index", "photos/", "--bundle", bundle, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["index"] == str(place / "photos.ztcir")
    assert (report["added"], report["unchanged"], report["total"]) == (12, 0, 12)
    assert report["failed"] == []
    assert report["images_per_second"] > 0
    assert (place / "photos.ztcir" / "index.json").is_file()

    (place / "photos" / "00.png").unlink()
    Image.new("RGB", (9, 9), "red").save(place / "photos" / "new.png")
    again = json.loads(run("index", "photos", "--bundle", bundle, "--json").stdout)
    assert {key: again[key] for key in ("added", "removed", "unchanged", "total")} == {
        "added": 1,
        "removed": 1,
        "unchanged": 11,
        "total": 12,
    }


def test_index_lists_unusable_files_at_the_end(place: Path, bundle: Path) -> None:
    (place / "photos" / "bad.jpg").write_bytes(b"not a picture")
    result = run("index", "photos", "--to", "x.ztcir", "--bundle", bundle)
    assert result.exit_code == 0
    assert "12 added" in result.stdout
    assert "1 failed" in result.stdout
    assert "bad.jpg" in result.stderr.splitlines()[-1]
    as_json = json.loads(
        run("index", "photos", "--to", "x.ztcir", "--bundle", bundle, "--json").stdout
    )
    assert [failure["path"] for failure in as_json["failed"]] == ["bad.jpg"]


def test_index_of_several_sources_is_named_after_their_folder(place: Path, bundle: Path) -> None:
    result = run("index", "photos/0[0-3].png", "photos/{04,05}.png", "--bundle", bundle, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["index"], report["total"]) == (str(place / "photos.ztcir"), 6)


def test_a_folder_without_any_usable_image_fails(place: Path, bundle: Path) -> None:
    (place / "empty").mkdir()
    assert_sentence(run("index", "empty", "--bundle", bundle), 1, "no image")
    (place / "empty" / "bad.png").write_bytes(b"nothing")
    assert_sentence(run("index", "empty", "--bundle", bundle), 1, "can be used")
    assert not (place / "empty.ztcir").exists()


def test_index_shows_no_progress_bar_without_a_terminal(place: Path, bundle: Path) -> None:
    done = run_for_real("index", "photos", "--bundle", bundle, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")


# search


def test_search_prints_what_the_retriever_finds(indexed: Path, bundle: Path) -> None:
    result = run("search", "photos/03.png", "in red", "-k", 4, "--bundle", bundle, "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    expected = Retriever(bundle).search("photos/03.png", "in red", 4, index="photos.ztcir")
    assert answer["hits"] == [hit.to_dict() for hit in expected]
    assert len(answer["hits"]) == 4
    assert answer["index"] == str(indexed / "photos.ztcir")

    lines = run("search", "photos/03.png", "in red", "-k", 4, "--bundle", bundle).stdout
    rows = [line.split("\t") for line in lines.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [str(indexed / row[2]) for row in rows] == [hit.path for hit in expected]


def test_search_uses_method_and_weight(indexed: Path, bundle: Path) -> None:
    retriever = Retriever(bundle)
    for method in METHODS:
        options: list[object] = ["--weight", 0.25] if method == "sum" else []
        command = ("search", "photos/03.png", "in red", "--method", method, *options)
        answer = json.loads(run(*command, "--bundle", bundle, "--json").stdout)
        expected = retriever.search(
            "photos/03.png",
            "in red",
            method=method,
            weight=0.25 if options else None,
            index="photos.ztcir",
        )
        assert [hit["path"] for hit in answer["hits"]] == [hit.path for hit in expected]


def test_search_moves_the_query_by_the_strength(indexed: Path, bundle: Path) -> None:
    reference = Retriever(bundle, index="photos.ztcir").reference("photos/03.png")
    command = ("search", "photos/03.png", "in red", "--bundle", bundle, "--json")
    for strength in (0, 0.5, 2):
        answer = json.loads(run(*command, "--strength", strength).stdout)
        expected = reference.search("in red", strength=strength)
        assert answer["strength"] == strength
        assert answer["hits"] == [hit.to_dict() for hit in expected]
    assert json.loads(run(*command).stdout)["strength"] is None


def test_search_goes_on_from_hits_with_further_changes(indexed: Path, bundle: Path) -> None:
    reference = Retriever(bundle, index="photos.ztcir").reference("photos/03.png")
    first = reference.search("in red", 7)[6]
    refined = reference.refine(first, "for women")
    second = refined.search()[1]
    expected = refined.refine(second, "long").search(k=3, strength=0.8)
    command = ("search", "photos/03.png", "in red", "-k", 3, "--bundle", bundle, "--strength", 1)
    answers = []
    for hit in (7, first.path, Path(first.path).relative_to(indexed)):
        then = ("--then", hit, "for women", "--then", 2, "long")
        answers.append(json.loads(run(*command, *then, "--json").stdout))
    assert answers[0]["then"] == [
        {"hit": first.path, "text": "for women"},
        {"hit": second.path, "text": "long"},
    ]
    trained = refined.refine(second, "long").search(k=3)
    for answer in answers:
        assert answer["hits"] == [hit.to_dict() for hit in trained]
    weaker = json.loads(run(*command[:-1], 0.8, *then, "--json").stdout)
    assert len(weaker["hits"]) == len(expected) == 3
    assert json.loads(run(*command, "--json").stdout)["then"] == []
    paged = json.loads(run(*command[:-2], *then, "--offset", 2, "--json").stdout)
    assert [one["hit"] for one in paged["then"]] == [str(then[1]), second.path]
    page = refined.refine(second, "long").search(k=3, offset=2)
    assert paged["hits"] == [hit.to_dict() for hit in page]


def test_search_corrects_likely_slips_and_notes_words_that_the_model_was_not_trained_on(
    indexed: Path, bundle: Path, tmp_path: Path
) -> None:
    files: dict[str, Any] = {"vocabulary.txt": b"it\nmake\nred\n"}
    files |= {file: bundle / file for file in Bundle.load(bundle).manifest.files}
    knowing = write_tiny_bundle(tmp_path / "b", files=files, vocabulary="vocabulary.txt").path
    command = ("search", "photos/03.png", "Mkae it zorp!", "--bundle", knowing)
    result = run(*command, "--json")
    assert json.loads(result.stdout)["unknown_words"] == [
        {"word": "mkae", "suggestion": "make", "corrected": True},
        {"word": "zorp", "suggestion": None, "corrected": False},
    ]
    sentence = (
        "Read 'mkae' as 'make': --as-typed leaves the words as they are.\n"
        "The model was not trained on 'zorp': it may ignore or misread it.\n"
    )
    assert result.stderr == sentence
    meant = run("search", "photos/03.png", "make it zorp!", "--bundle", knowing, "--json")
    assert json.loads(result.stdout)["hits"] == json.loads(meant.stdout)["hits"]
    typed = run(*command, "--as-typed", "--json")
    assert json.loads(typed.stdout)["hits"] != json.loads(meant.stdout)["hits"]
    assert typed.stderr == (
        "The model was not trained on 'mkae' (did you mean 'make'?), 'zorp': it may ignore or "
        "misread these words.\n"
    )
    lines = run(*command)
    assert (lines.exit_code, lines.stderr) == (0, sentence)
    assert "zorp" not in lines.stdout
    for silent in (
        ("search", "photos/03.png", "make it red", "--bundle", knowing),
        ("search", "photos/03.png", "mkae", "--method", "image", "--bundle", knowing),
        ("search", "photos/03.png", "mkae", "--bundle", bundle),  # it has no vocabulary
    ):
        result = run(*silent, "--json")
        assert (result.stderr, json.loads(result.stdout)["unknown_words"]) == ("", [])


@pytest.mark.parametrize("image", [("photos/03.png",), ()])
def test_another_language_is_read_as_short_english_with_a_note(
    indexed: Path, bundle: Path, tmp_path: Path, image: tuple[str, ...]
) -> None:
    files: dict[str, Any] = {file: bundle / file for file in Bundle.load(bundle).manifest.files}
    entries: Any = {"neutral_text": "the same", "attribute_words": ("red", "shirt", "rot")}
    reading = write_tiny_bundle(tmp_path / "b", files=files, **entries).path

    def searched(text: str, *options: str) -> tuple[Any, str]:
        done = run("search", *image, text, "--bundle", reading, "--json", *options)
        return json.loads(done.stdout), done.stderr

    foreign, note = searched("ein rotes Hemd bitte")
    assert foreign["read_as"] == ["red shirt"]
    assert note == "Read as 'red shirt': --as-typed searches the text as it is.\n"
    assert foreign["hits"] == searched("red shirt")[0]["hits"]
    typed, silence = searched("ein rotes Hemd bitte", "--as-typed")
    assert (typed["read_as"], silence) == ([], "")
    assert typed["hits"] != foreign["hits"]


def test_a_batch_says_in_each_line_how_its_texts_were_read(
    indexed: Path, bundle: Path, tmp_path: Path
) -> None:
    files: dict[str, Any] = {"vocabulary.txt": b"it\nmake\nred\nnot\nshirt\n"}
    files |= {file: bundle / file for file in Bundle.load(bundle).manifest.files}
    knowing = write_tiny_bundle(tmp_path / "b", files=files, vocabulary="vocabulary.txt").path
    rows = ("image,text", "photos/03.png,Mkae it zorp", ",shirt not red", "photos/03.png,make it")
    table = tmp_path / "queries.csv"
    table.write_text("\n".join([*rows, "gone.png,"]))
    result = run("search", "--batch", table, "--bundle", knowing)
    *answers, failed = map(json.loads, result.stdout.splitlines())
    image = "photos/03.png"
    queries = ((image, "Mkae it zorp"), ("shirt not red",), (image, "make it"))
    for answer, query in zip(answers, queries, strict=True):
        alone = json.loads(run("search", *query, "--bundle", knowing, "--json").stdout)
        for key in ("hits", "unknown_words", "refused", "read_as"):
            assert answer[key] == alone[key]
    assert [word["word"] for word in answers[0]["unknown_words"]] == ["mkae", "zorp"]
    assert answers[1]["refused"] == ["red"]
    assert (answers[2]["unknown_words"], answers[2]["refused"]) == ([], [])
    assert set(failed) == {"id", "error"}
    assert "The words of 2 of 4 queries" in result.stderr
    strong = run("search", "--batch", table, "--bundle", knowing, "--strength", 1)
    errors = [json.loads(line).get("error") for line in strong.stdout.splitlines()]
    assert [bool(error) for error in errors] == [False, True, False, True]
    assert "weighs a text against an image" in errors[1]


def test_methods_that_use_the_image_alone_need_no_text(indexed: Path, bundle: Path) -> None:
    for method in ("image", "mapped"):
        result = run("search", "photos/03.png", "--method", method, "--bundle", bundle)
        assert result.exit_code == 0


def test_k_beyond_the_gallery_returns_all_of_it(indexed: Path, bundle: Path) -> None:
    result = run("search", "photos/03.png", "x", "-k", 5000, "--bundle", bundle, "--json")
    assert len(json.loads(result.stdout)["hits"]) == 11  # all but the reference


def test_search_uses_the_index_of_the_environment_variable(
    indexed: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("photos.ztcir", "other.ztcir")
    command = ("search", "photos/03.png", "x", "--bundle", bundle, "--json")
    assert_sentence(run(*command), 2, "other.ztcir", "photos.ztcir", "--index")
    monkeypatch.setenv("ZTCIR_INDEX", "other.ztcir")
    assert json.loads(run(*command).stdout)["index"].endswith("other.ztcir")
    named = run(*command, "--index", "photos.ztcir").stdout
    assert json.loads(named)["index"].endswith("photos.ztcir")


def test_a_grid_is_an_image_in_the_format_of_its_suffix(indexed: Path, bundle: Path) -> None:
    for name in ("out.png", "out.JPG"):
        result = run("search", "photos/03.png", "x", "--bundle", bundle, "--grid", name, "--json")
        assert result.exit_code == 0, result.stderr
        assert len(json.loads(result.stdout)["hits"]) == 10
        with Image.open(name) as image:
            assert image.width > 500
    command = ("search", "photos/03.png", "x", "--bundle", bundle, "--grid")
    assert_sentence(run(*command, "out.txt"), 2, "out.txt", ".png")
    assert_sentence(run(*command, "nowhere/out.png"), 1, "nowhere/out.png", "cannot be written")


def test_a_page_contains_its_images_and_escapes_texts(indexed: Path, bundle: Path) -> None:
    name = "<b>&'.png"
    Image.new("RGB", (900, 30), "navy").save(indexed / "photos" / name)
    run("index", "photos", "--bundle", bundle)
    text = "<script>alert(1)</script>"
    (indexed / "photos" / "05.png").rename(indexed / "gone.png")
    result = run(
        *("search", "photos/03.png", text, "-k", 50, "--bundle", bundle, "--html", "out.html")
    )
    assert result.exit_code == 0, result.stderr
    page = (indexed / "out.html").read_text()
    assert "<script>" not in page
    assert html.escape(text) in page
    assert html.escape(name) in page
    assert "not found" in page  # the one that was moved
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 12  # the reference and 11 hits that are there
    for source in sources:
        head, _, data = source.partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert max(image.size) <= 900
    assert not re.search(r"https?:", page)
    links = re.findall(r'href="(file:[^"]*)"', page)
    assert len(links) == 12  # one for each hit, also for the one that was moved
    assert page.count("file:") == len(links)


def test_python_m_cli_prints_what_the_script_prints(indexed: Path, bundle: Path) -> None:
    done = run_for_real("search", "photos/03.png", "in red", "--bundle", bundle, cwd=indexed)
    assert done.returncode == 0
    assert done.stdout == run("search", "photos/03.png", "in red", "--bundle", bundle).stdout


# bad input


def png_header(width: int, height: int) -> bytes:
    """Return a PNG with a size in its header and no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def truncated_jpeg() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((200, 200), 80).save(stream, "JPEG")
    return stream.getvalue()[:4000]


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"no picture at all", ("ref.bin", "not an image")),
        (truncated_jpeg(), ("ref.bin", "damaged or cut short")),
        (png_header(20_000, 20_000), ("ref.bin", "100 megapixels")),
        (None, ("ref.bin", "does not exist")),
    ],
)
def test_an_unusable_reference_is_a_sentence(
    indexed: Path, bundle: Path, data: bytes | None, parts: tuple[str, ...]
) -> None:
    if data is not None:
        (indexed / "ref.bin").write_bytes(data)
    assert_sentence(run("search", "./ref.bin", "in red", "--bundle", bundle), 1, *parts)


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("",), ("text",)),
        (("  \n ",), ("text",)),
        (("red", "-k", "0"), ("k must be", "at least 1")),
        (("red", "-k", "-3"), ("k must be", "at least 1")),
        (("red", "-k", "ten"), ("ten",)),
        (("red", "--method", "magic"), ("magic",)),
        (("red", "--weight", "0.5"), ("weight",)),
        (("red", "--method", "sum", "--weight", "7"), ("weight", "from 0 to 1")),
        (("red", "--then", "99", "long"), ("no hit 99", "only 11")),
        (("red", "--then", "0", "long"), ("rank 1, not 0",)),
        (("red", "--then", "1", " "), ("text", "empty")),
        (("red", "-k", "0", "--then", "1", "long"), ("k must be", "at least 1")),
        (("red", "--method", "sum", "--then", "1", "long"), ("--then", "composed or stage1")),
        (("red", "--strength", "2.5"), ("strength", "to 2", "2.5")),
        (("red", "--method", "sum", "--strength", "1"), ("strength", "use weight")),
        (("red", "--device", "toaster"), ("toaster",)),
        (("red", "--threads", "0"), ("0",)),
    ],
)
def test_a_wrong_argument_is_a_sentence_with_exit_code_2(
    indexed: Path, bundle: Path, args: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    assert_sentence(run("search", "photos/01.png", *args, "--bundle", bundle), 2, *parts)


def test_a_missing_index_is_a_sentence_that_says_how_to_build_one(
    place: Path, bundle: Path
) -> None:
    command = ("search", "photos/01.png", "red", "--bundle", bundle)
    assert_sentence(run(*command), 1, "no index", "ztcir index")
    assert_sentence(run(*command, "--index", "no.ztcir"), 1, "no.ztcir", "ztcir index")


def test_an_index_of_another_image_tower_is_a_sentence(indexed: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", TinyModel(seed=1)).path
    result = run("search", "photos/01.png", "red", "--bundle", other)
    assert_sentence(result, 1, "another image tower")
    assert_sentence(run("index", "photos", "--bundle", other), 1, "another image tower", "--to")


def test_a_bundle_with_a_wrong_checksum_is_a_sentence(
    indexed: Path, bundle: Path, tmp_path: Path
) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(bundle, altered)
    graph = altered / "text_encoder.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    result = run("search", "photos/01.png", "red", "--bundle", altered)
    assert_sentence(result, 1, "text_encoder.onnx", "wrong checksum")
    assert_sentence(run("search", "photos/01.png", "red", "--bundle", tmp_path / "none"), 1, "none")


def test_missing_sources_are_a_sentence(place: Path, bundle: Path) -> None:
    assert_sentence(run("index", "nowhere", "--bundle", bundle), 1, "nowhere")
    assert_sentence(run("index", "no*.tar", "--bundle", bundle), 2, "no*.tar")
    assert run("index").exit_code == 2


# doctor


def test_doctor_runs_a_graph_and_reads_the_card(
    indexed: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("doctor", "--bundle", bundle, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["can_search"] is True
    ran = {one["provider"] for one in found["providers"] if one["ran"]}
    assert "CPUExecutionProvider" in ran
    assert found["model_card"]["backbone"] == "tiny"
    by_name = {finding["name"]: finding for finding in found["findings"]}
    assert by_name["bundle"]["status"] == "ok"
    assert "12 images" in by_name["index"]["detail"]
    assert found["versions"]["ztcir"] == __version__
    assert "A search can run." in run("doctor", "--bundle", bundle).stdout


def findings(*args: object) -> tuple[int, dict[str, dict[str, str]]]:
    result = run("doctor", *args, "--json")
    found = json.loads(result.stdout)["findings"]
    worst_last = sorted(found, key=lambda finding: finding["status"] == "problem")
    return result.exit_code, {finding["name"]: finding for finding in worst_last}


def test_doctor_finds_two_runtimes(
    place: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"onnxruntime": "1.22.0", "onnxruntime-gpu": "1.22.0"}
    monkeypatch.setattr("ztcir_sdk.doctor.runtime.installed", versions.get)
    code, found = findings("--bundle", bundle)
    assert code == 1
    runtime = found["ONNX Runtime"]
    assert runtime["status"] == "problem"
    assert "onnxruntime and onnxruntime-gpu" in runtime["detail"]
    assert "pip uninstall onnxruntime onnxruntime-gpu" in runtime["cure"]


def test_doctor_checks_that_an_available_provider_really_runs(
    place: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    code, found = findings("--bundle", bundle)
    assert code == 0  # the processor does it
    assert found["provider CUDA"]["status"] == "note"
    assert found["provider CUDA"]["cure"]
    assert found["provider CPU"]["status"] == "ok"


def test_doctor_reports_a_missing_runtime(place: Path, bundle: Path) -> None:
    code = "import sys; sys.modules['onnxruntime'] = None"
    done = run_for_real("doctor", "--bundle", bundle, "--json", code=code)
    assert done.returncode == 1, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["ONNX Runtime"]["status"] == "problem"
    assert "ztcir[cpu]" in found["ONNX Runtime"]["cure"]


def test_doctor_checks_bundle_and_index(indexed: Path, bundle: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(bundle, altered)
    (altered / "tokenizer.json").write_text("{}")
    code, found = findings("--bundle", altered)
    assert (code, found["bundle"]["status"]) == (1, "problem")
    other = write_tiny_bundle(tmp_path / "other", TinyModel(seed=1)).path
    code, found = findings("--bundle", other)
    assert (code, found["index"]["status"]) == (1, "problem")
    assert "another image tower" in found["index"]["cure"]
    shutil.rmtree("photos.ztcir")
    code, found = findings("--bundle", bundle)
    assert (code, found["index"]["status"]) == (0, "note")
    assert "ztcir index" in found["index"]["cure"]


def test_doctor_prints_the_measured_quality(place: Path) -> None:
    scores = {"overall": {"R@1": 0.2, "mAP@10": 0.158}, "per_kind": {"colour": {"R@1": 0.3}}}
    for quality, words in (
        ({"methods": {"composed": scores, "image": scores}}, "composed 0.158, image 0.158"),
        ({"composed mAP@10": 0.158, "queries": 1800}, "composed mAP@10 0.158, queries 1800"),
        ("not measured", "not measured"),
    ):
        bundle = write_tiny_bundle(place / "b", model_card={"quality": quality}, overwrite=True)
        code, found = findings("--bundle", bundle.path)
        assert code == 0
        assert found["measured quality"]["detail"].endswith(words)


def test_gpus_are_listed_by_nvidia_smi_else_by_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    tool.write_text("#!/bin/sh\necho 'Some GPU, 81559 MiB, 580.1'\n")
    tool.chmod(0o755)
    assert list_gpus() == ["Some GPU, 81559 MiB, 580.1"]
    tool.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert list_gpus() == []

    def put(value: object) -> Callable[..., int]:
        def call(place: Any, *arguments: int) -> int:
            getattr(place, "_obj", place).value = value if value is not None else arguments[0]
            return 0

        return call

    def name(place: Any, size: int, device: Any) -> int:
        place.value = b"Some GPU"
        return int(device.value)  # an error for the second one

    driver = types.SimpleNamespace(
        cuInit=lambda flags: 0,
        cuDeviceGetCount=put(2),
        cuDeviceGet=put(None),
        cuDeviceGetName=name,
    )
    monkeypatch.setattr("ztcir_sdk.runtime.tensorrt.cuda._driver", lambda: driver)
    assert list_gpus() == ["Some GPU", "an NVIDIA GPU"]
    tool.unlink()
    assert list_gpus() == ["Some GPU", "an NVIDIA GPU"]


# bench


def test_bench_measures_graphs_queries_and_indexing(
    place: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = functools.partial(
        benchmark.BenchmarkSettings,
        image_batches=(1, 2),
        reference_batches=(1,),
        text_shapes=((1, 8), (2, 99), (2, 77)),
        gallery=50,
        pictures=8,
    )
    monkeypatch.setattr(benchmark, "BenchmarkSettings", small)
    result = run("bench", "--bundle", bundle, "--repeat", 4, "--threads", 1, "--json")
    assert result.exit_code == 0, result.stderr
    measured = json.loads(result.stdout)
    graphs = measured["graphs"]
    assert [timing["images"] for timing in graphs["image_encoder"]] == [1, 2]
    shapes = [(timing["texts"], timing["tokens"]) for timing in graphs["text_encoder"]]
    assert shapes == [(1, 8), (2, 77)]  # a text cannot be longer than the context
    timings = [timing for some in graphs.values() for timing in some]
    timings += [measured["query"]["first_text"], measured["query"]["second_text"]]
    for timing in timings:
        assert 0 < timing["min_ms"] <= timing["p50_ms"] <= timing["p90_ms"] <= timing["p99_ms"]
        assert timing["runs"] == 4
    assert measured["query"]["index"] == 50
    assert measured["threads"] == 1
    assert measured["indexing"]["pictures"] == 8
    assert {"machine", "versions", "date", "bundle", "providers"} <= measured.keys()
    assert list(place.iterdir()) == [place / "photos"]  # nothing is left behind

    stations = measured["stations"]
    assert list(stations)[:4] == ["read", "decode", "resize", "normalise"]
    assert {"image encoder", "token learner", "tokenise", "text encoder"} < stations.keys()
    assert list(stations)[-3:] == ["search", "output", "whole query"]
    whole = stations.pop("whole query")
    assert all(one["runs"] == 4 for one in stations.values())
    assert whole["mean_ms"] == pytest.approx(
        sum(one["mean_ms"] for one in stations.values()), abs=0.01
    )
    assert measured["warm_up"] == 3
    if sys.platform == "linux":
        assert measured["memory"]["peak_mb"] > 10

    (place / "old.json").write_text(result.stdout)
    people = run(
        "bench", "--bundle", bundle, "--repeat", 1, "--threads", 1, "--compare", "old.json"
    )
    assert people.exit_code == 0, people.stderr
    assert "images/s (8 images)" in people.stdout
    assert "image encoder, 1 image\t" in people.stdout
    assert "text encoder, 2 texts of 77 tokens\t" in people.stdout
    assert "tiny: onnx, cpu, fp32" in people.stdout
    assert "1 thread\n" in people.stdout
    assert people.stdout.count("query, same JPEG, 50 images") == 2
    assert "times as fast" in people.stdout
    assert people.stderr == ""
    (place / "old.json").unlink()


def test_importing_the_main_module_runs_nothing() -> None:
    assert vars(importlib.import_module("cli.__main__"))["main"] is main


def test_wrong_calls_of_training_do_not_load_torch(tmp_path: Path) -> None:
    calls = [
        ["map", "--data", "x"],
        ["map", "--backbone", "x", "--data", "x", "--epochs", "0"],
        ["map", "--backbone", "x", "--data", "x", "--stream"],
        ["map", "--backbone", "x", "--data", "x", "--lr", "fast"],
        ["compose", "--data", "x"],
        ["backbone", "--data", "x", "--word-vectors", "glove"],
    ]
    program = f"""
import sys
sys.modules["torch"] = None  # importing it raises ImportError
from click.testing import CliRunner
from cli.main import main
for call in {calls}:
    done = CliRunner().invoke(main, ["train", *call])
    assert done.exit_code == 2 and "Error: " in done.stderr, (call, done.output, done.exception)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_an_unknown_backbone_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    program = """
import sys
sys.modules["torch"] = None  # importing it raises ImportError
from click.testing import CliRunner
from cli.main import main
call = ["train", "map", "--backbone", "ViT-B-33:openai", "--data", "x"]
done = CliRunner().invoke(main, call)
assert done.exit_code == 1 and "ViT-B-33 is neither an open_clip model" in done.stderr, done.output
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
