"""Progress of long work, on a terminal and in a log."""

from __future__ import annotations

import sys

import pytest

from train.progress import progress_bar


def test_a_log_gets_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    with progress_bar(range(1200), what="image features") as bar:
        monkeypatch.setattr(bar, "_time", lambda: now)
        bar.start_t = bar.last_print_t = now
        for _ in bar:
            now += 0.5  # ten minutes
    lines = [line for line in capsys.readouterr().err.split("\r") if "image features" in line]
    assert 8 <= len(lines) <= 13
    assert "100%" in lines[-1]


def test_a_short_phase_gets_no_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(range(3), what="evaluation", leave=False)) == [0, 1, 2]
    assert "evaluation" not in capsys.readouterr().err


def test_a_terminal_shows_every_phase(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(progress_bar(range(3), what="evaluation", leave=False))
    assert "evaluation" in capsys.readouterr().err
