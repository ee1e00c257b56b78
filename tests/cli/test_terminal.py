"""What the command does for people at a terminal: completion, verbosity, thumbnails, pages."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from places import ROOT
from tiny_bundle import write_tiny_bundle

from cli.main import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    write_tiny_bundle(folder / "tiny")
    (folder / "photos").mkdir()
    for number in range(4):
        colour = (60 * number, 255 - 60 * number, 90)
        Image.new("RGB", (40, 30), colour).save(folder / "photos" / f"{number}.png")
    done = CliRunner().invoke(
        main,
        [
            *("index", str(folder / "photos"), "--to", str(folder / "photos.ztcir")),
            *("--bundle", str(folder / "tiny")),
        ],
    )
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(place)

    def call(*arguments: str, before: tuple[str, ...] = ()) -> Result:
        return CliRunner().invoke(main, [*before, *arguments, "--bundle", "tiny"])

    return call


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("there is no bash")
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0, done.output
    assert "_ZTCIR_COMPLETE" in done.stdout
    if shutil.which(shell):
        option = "--no-execute" if shell == "fish" else "-n"
        checked = subprocess.run([shell, option], input=done.stdout, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr


def test_completion_offers_commands_and_options() -> None:
    def offered(words: str, place: int) -> str:
        environment = {
            **os.environ,
            "_ZTCIR_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(place),
        }
        script = "from cli.main import main; main(prog_name='ztcir')"
        return subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            cwd=ROOT,
            text=True,
            capture_output=True,
        ).stdout

    assert "plain,search" in offered("ztcir se", 1)
    assert "plain,--unlike" in offered("ztcir search --unl", 2)


def test_quiet_prints_results_alone(run: object) -> None:
    loud = run("index", "photos")  # type: ignore[operator]
    quiet = run("index", "photos", before=("--quiet",))  # type: ignore[operator]
    assert loud.exit_code == quiet.exit_code == 0
    assert quiet.stderr == ""
    after = run("index", "photos", "-q")  # type: ignore[operator]
    assert (after.exit_code, after.stderr) == (0, "")
    wrong = run("search", "missing.png", before=("-q",))  # type: ignore[operator]
    assert "missing.png does not exist" in wrong.stderr
    again = run("search", "photos/1.png", "--html", "x.html")  # type: ignore[operator]
    assert "wrote x.html" in again.stderr  # the next call is not quiet
    both = run("search", "photos/1.png", before=("-q", "-v"))  # type: ignore[operator]
    assert both.exit_code == 2
    for options in (("-q", "-v"), ("--verbose", "--quiet")):
        both = run("search", "photos/1.png", options[0], before=options[1:])  # type: ignore[operator]
        assert both.exit_code == 2
        assert "contradict each other" in both.stderr


def test_verbose_logs_what_is_loaded(place: Path) -> None:
    command = [sys.executable, "-m", "cli", "-v", "search", "photos/1.png", "red"]
    done = subprocess.run(
        [*command, "--bundle", "tiny"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert "loaded image_encoder on cpu" in done.stderr
    assert "opened photos.ztcir with 4 images" in done.stderr


def test_open_writes_a_page_and_opens_it(run: object, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    done = run("search", "photos/1.png", "red", "--open")  # type: ignore[operator]
    assert done.exit_code == 0, done.stderr
    [page] = opened
    assert "red" in Path(page).read_text(encoding="utf-8")
    assert run("search", "photos/1.png", "--open", "--html", "mine.html").exit_code == 0  # type: ignore[operator]
    assert opened[1] == "mine.html"


def test_show_needs_a_terminal(run: object) -> None:
    done = run("search", "photos/1.png", "red", "--show")  # type: ignore[operator]
    assert done.exit_code == 2
    assert "--show draws on a terminal" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_show_draws_the_hits_on_a_terminal(place: Path) -> None:
    pytest.importorskip("textual_image", reason="textual-image is not installed")
    import fcntl  # there are none on Windows
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 640, 800))
    command = [sys.executable, "-m", "cli", "search", "photos/1.png", "red", "--show", "-k", "2"]
    with subprocess.Popen(
        [*command, "--bundle", "tiny"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "80"},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        drawn = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the end, on Linux
                break
            if not part:
                break
            drawn += part
        assert process.stderr is not None
        assert process.wait() == 0, process.stderr.read()
    os.close(ours)
    text = drawn.decode(errors="replace")
    assert ".png" in text
    assert "▀" in text or "▄" in text or "█" in text or "\x1bP" in text
